"""Record demonstrations of Lift (rule record_lift_demonstrations)."""

import argparse

from flashtrail.base.errors import UserError
from flashtrail.base.jobs import Job, run
from flashtrail.training.lift import demonstrations


def main(job: Job) -> None:
    """Record the missing parts, as many at a time as the job has threads, and join them."""
    work = job.directory("demonstrations")
    if demonstrations.run(argparse.Namespace(work=work, processes=job.threads, worker=None, robot=None)):
        raise UserError(f"{work}: the demonstrations have faults: move {work} away and record them again")


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
