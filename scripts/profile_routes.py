"""Time both routes on recorded observations, alone on the device (rule profile_routes)."""

import json

from flashtrail.base import machine, provenance
from flashtrail.base.jobs import Job, run
from flashtrail.benchmark import profiling
from flashtrail.rollouts import recordings
from flashtrail.rollouts.spec import device_of
from flashtrail.serving.handles import backend_of
from flashtrail.tables import schemas


def main(job: Job) -> None:
    """Load the artifact in this process, without a server in between; write one row per round."""
    import torch

    engine, params = job.params["engine"], job.params
    torch.set_num_threads(engine["threads"])
    draft = job.directory("draft") if "draft" in job.input else None
    policy = profiling.load(job.directory("base"), draft, engine, backend_of(job.input, engine))
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


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
