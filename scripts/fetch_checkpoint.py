"""Fetch the matching checkpoint, its tokenizer and its draft (rule fetch_checkpoint)."""

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints import fetch, probe


def main(job: Job) -> None:
    """Bring source/ to what the locations hold; fetched.json lists every file with its size and hash."""
    candidate = probe.select(provenance.json_load(job.input["record"]))
    source = job.params["source"]
    fetch.fetch(candidate, job.directory("fetched"), source["tokenizer"], source["draft"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
