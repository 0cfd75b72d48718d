"""Record demonstrations of one robot (rule record_robot_demonstrations)."""

from flashtrail.base.errors import UserError
from flashtrail.base.jobs import Job, run
from flashtrail.training.lift import demonstrations


def main(job: Job) -> None:
    """Record until so many may be trained on."""
    work = job.directory("demonstrations")
    if demonstrations.of_robot(work, job.wildcards["robot"], job.params["demonstrations"]):
        raise UserError(f"{work}: the demonstrations have faults: move {work} away and record them again")


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
