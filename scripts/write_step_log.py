"""Write a shard's steps as JSON lines (rule write_step_log)."""

from flashtrail.base.jobs import Job, run
from flashtrail.tables import step_log


def main(job: Job) -> None:
    """Read the shard's steps, in the order of its episodes, and write a line for each."""
    lines = step_log.of_tables(job.input["episodes"], job.input["steps"], job.params["tag"])
    step_log.write(job.output["step_log"], lines)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
