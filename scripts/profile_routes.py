"""Time both routes on recorded observations, alone on the device (rule profile_routes)."""

import dataclasses
import json
from typing import Any

from flashtrail.base import machine, provenance
from flashtrail.base.jobs import Job, run
from flashtrail.benchmark import profiling
from flashtrail.policies import registry
from flashtrail.policies.pi0.policy import FlashPolicy
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.protocol import Policy
from flashtrail.rollouts import recordings
from flashtrail.rollouts.spec import device_of
from flashtrail.serving.handles import backend_of
from flashtrail.tables import schemas


def main(job: Job) -> None:
    """Load the artifact in this process, without a server in between; write one row per round."""
    import torch

    engine, params = job.params["engine"], job.params
    torch.set_num_threads(engine["threads"])
    policy = loaded(job, engine)
    device = device_of(provenance.json_load(job.input["model"]), engine["device"])
    recorded = recordings.load(job.input["observations"])
    watch = machine.Watch(gpu=engine["device"] == "cuda")

    def report(line: str) -> None:
        watch.look()
        print(line)

    rows = profiling.profile_routes(
        policy,
        recorded,
        name=job.wildcards["policy"],
        samples=params["samples"],
        warmup=params["warmup"],
        seed=params["seed"],
        device=device,
        report=report,
    )
    metadata = {
        "config_digest": provenance.digest_json(params),
        "artifact_digest": str(policy.metadata.get("base_digest")),
        "code_digest": job.code,
        "device": device,
        "machine": json.dumps(watch.record()),
        "backend": str(policy.metadata.get("backend")),
        "official_time_bias": str(engine["flash"]["official_time_bias"]).lower(),
    }
    control = profiling.full_against_full(policy, recorded, samples=params["samples"], seed=params["seed"])
    provenance.json_dump({"policy": job.wildcards["policy"], **control}, job.output["control"])
    schemas.write_table(job.output["rounds"], rows, schemas.PROFILE, metadata)


def loaded(job: Job, engine: dict[str, Any]) -> Policy:
    """Return the policy of the job's artifact, of whatever family, for one round at a time."""
    base = job.directory("base")
    draft = job.directory("draft") if "draft" in job.input else None
    name = registry.family_of(base)
    where = {"device": engine["device"], "dtype": engine["dtype"], "backend": backend_of(job.input, engine)}
    if name == registry.PI0:
        return FlashPolicy.load(base, draft, settings=FlashSettings.from_dict(engine["flash"]), **where)
    family = registry.load(name)
    own = {field.name for field in dataclasses.fields(family.Settings)}
    settings = family.Settings(**{key: value for key, value in engine["flash"].items() if key in own})
    return family.load(base, draft, settings=settings, action_stats=None, together=1, sessions=1, **where)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
