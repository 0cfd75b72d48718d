"""Derive the predicates' bounds from clean episodes (rule derive_bounds)."""

from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.drills import bounds, logs


def main(job: Job) -> None:
    """Read the clean reference's tables and write the bounds with their origin."""
    found = logs.joined(logs.of_tables(Path(path).parent) for path in job.input["steps"])
    reference = bounds.derive([logged.episode for logged in found.episodes], logs.origin(found))
    bounds.save(reference, job.output["bounds"])
    print(f"bounds of {reference.episodes} clean episodes, {reference.rewarded} rewarded")


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
