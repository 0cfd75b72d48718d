"""Let the kernels show that they are right and faster on this device (rule check_kernels)."""

from flashtrail import environment
from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run


def main(job: Job) -> None:
    """Write the examination's record, and apart from it the backend alone, which is what rollouts depend on."""
    draft = job.directory("draft") if "draft" in job.input else None
    record = environment.examine_kernels(job.directory("base"), draft, job.params["engine"], job.params["together"])
    print(f"backend {record['backend']}: {record['why']}")
    provenance.json_dump(record, job.output["record"])
    provenance.json_dump({"backend": record["backend"]}, job.output["handle"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
