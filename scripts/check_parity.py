"""Compare source model and artifact on fixed noise (rule check_parity)."""

from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints import parity


def main(job: Job) -> None:
    """Write each stage's error beside its tolerance; stop at the first stage that diverges, by name."""
    draft = job.directory("draft") if "draft" in job.input else None
    parity.check_parity(job.directory("fetched") / "source", job.directory("base"), draft, report=job.output["record"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
