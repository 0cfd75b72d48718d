"""Check the model side's environment (rule check_model_env)."""

from flashtrail import environment
from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run


def main(job: Job) -> None:
    """Write interpreter, versions, devices and checks; stop if a policy's device is not there."""
    provenance.json_dump(environment.check_model_env(job.params["devices"]), job.output["record"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
