"""Record what the expert did in an arm's episodes, and what was seen before (rule record_corrections)."""

from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.datasets import corrections


def main(job: Job) -> None:
    """Write the corrections of one arm and task."""
    shard, target = job.directory("episodes"), Path(job.output["corrections"])
    print(corrections.record(shard, job.params["arm"], job.params["task"], target))


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
