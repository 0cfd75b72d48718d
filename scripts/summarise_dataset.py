"""Summarise a set of demonstrations (rule summarise_dataset)."""

from pathlib import Path

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.datasets import survey


def main(job: Job) -> None:
    """Write the record of a set, and first and last pictures of some of its episodes."""
    path, *features = (job.params["dataset"][key] for key in ("path", "cameras", "state", "action"))
    found = survey.survey(Path(path), dict(zip(("cameras", "state", "action"), features, strict=True)))
    with provenance.write_atomic(job.output["sheet"]) as picture:
        provenance.json_dump(survey.record(found, path, picture), job.output["record"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
