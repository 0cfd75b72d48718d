"""Measure memory and time by the number of tokens, alone on the device (rule profile_scaling)."""

import json

from flashtrail.base import machine, provenance
from flashtrail.base.jobs import Job, run
from flashtrail.benchmark import scaling
from flashtrail.experiment.sections import Scaling
from flashtrail.rollouts.spec import device_of
from flashtrail.tables import measurements, schemas


def main(job: Job) -> None:
    """Take all passes, write one row a pass, and what is made of them."""
    settings = Scaling.model_validate(job.params["scaling"])
    device = device_of(provenance.json_load(job.input["model"]), settings.device)
    watch = machine.Watch(gpu=settings.device == "cuda")

    def report(line: str) -> None:
        watch.look()
        print(line)

    rows, left_out = scaling.measured(settings, job.threads, report)
    record = watch.record()
    metadata = {
        "config_digest": provenance.digest_json(job.params),
        "code_digest": job.code,
        "device": device,
        "machine": json.dumps(record),
        "threads": job.threads,
    }
    schemas.write_table(job.output["rows"], rows, schemas.SCALING, metadata)
    figures, unseen = scaling.figures(rows)
    where = f"{device}, {job.threads} threads ({machine.words(record)})"
    method = scaling.method(settings, where, [*left_out, *unseen])
    measurements.write(job.output["measurement"], scaling.TITLE, method, figures)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
