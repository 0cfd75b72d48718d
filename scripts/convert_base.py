"""Convert the fetched checkpoint into the base artifact (rule convert_base)."""

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints import artifact


def main(job: Job) -> None:
    """Stream the tensors; the artifact directory appears when it is whole."""
    fetched = provenance.json_load(job.input["fetched"])
    source = job.directory("fetched") / "source"
    artifact.convert_base(source, job.directory("manifest"), job.params["dtype"], fetched)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
