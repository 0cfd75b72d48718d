"""Put an arm's shards together and count; refuse holes, doubles and shards of another plan (rule merge_shards)."""

from pathlib import Path

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.claims import summaries
from flashtrail.tables import merge, schemas


def main(job: Job) -> None:
    """Compare the shards with the episodes that the experiment asks for; write the arm's three tables and summary."""
    shards = [Path(ledger).parent for ledger in job.input["ledgers"]]
    merged = merge.merge_shards(shards, merge.with_artifact(job.params["expected"], job.input))
    merge.write_merged(merged, job.directory("episodes"))
    summary = summaries.summarize_arm(**{table: job.output[table] for table in schemas.SCHEMAS})
    provenance.json_dump(summary, job.output["summary"])
    print(f"{job.wildcards['arm']}: {len(merged.episodes)} episodes, {len(merged.rounds)} rounds")


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
