"""Summarise one arm's tables (rule summarize_arm)."""

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.claims import summaries


def main(job: Job) -> None:
    """Write counts with their intervals, routes, accepted prefixes and latencies."""
    summary = summaries.summarize_arm(job.input["episodes"], job.input["rounds"], job.input["steps"])
    provenance.json_dump(summary, job.output["summary"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
