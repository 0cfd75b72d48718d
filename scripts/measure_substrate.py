"""Train and ask the core of fluid apart from any robot (rule measure_substrate)."""

from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.benchmark.substrate.__main__ import measure


def main(job: Job) -> None:
    """Write one measurement."""
    measure(job.params["substrate"], Path(job.output["measurement"]))


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
