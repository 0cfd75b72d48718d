"""Convert the fetched draft head into the draft artifact (rule convert_draft)."""

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints import artifact


def main(job: Job) -> None:
    """Read the .pt without executing anything in it; refuse a head for other dims than the base model's."""
    fetched = provenance.json_load(job.input["fetched"])
    source = job.directory("fetched") / "source" / "draft.pt"
    artifact.convert_draft(source, job.directory("manifest"), job.params["dtype"], job.directory("base"), fetched)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
