"""Put an arm's shards together; refuse holes, doubles and shards of another plan (rule merge_shards)."""

from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.tables import merge


def main(job: Job) -> None:
    """Compare the shards with the episodes that the experiment asks for; write the arm's three tables."""
    shards = [Path(ledger).parent for ledger in job.input["ledgers"]]
    merged = merge.merge_shards(shards, merge.with_artifact(job.params["expected"], job.input))
    merge.write_merged(merged, job.directory("episodes"))
    print(f"{job.wildcards['arm']}: {len(merged.episodes)} episodes, {len(merged.rounds)} rounds")


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
