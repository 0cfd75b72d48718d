"""Check the simulator side's environment (rule check_libero_env)."""

from flashtrail import environment
from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run


def main(job: Job) -> None:
    """Write interpreter, versions and the checks of one rendered frame of each suite."""
    provenance.json_dump(environment.check_libero_env(*job.params["suites"]), job.output["record"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
