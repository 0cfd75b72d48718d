"""Probe one policy's candidates and stop unless exactly one matches (rule probe_checkpoints)."""

from flashtrail import provenance
from flashtrail.checkpoints import probe
from flashtrail.jobs import Job, run


def main(job: Job) -> None:
    """Write the verdicts with their reasons; they are in the log also when none or two match."""
    record = probe.probe(job.params["source"]["candidates"])
    for candidate in record["candidates"]:
        print(f"{candidate['uri']}: {candidate['class']} ({candidate['reason']})", flush=True)
    probe.select(record)
    provenance.json_dump(record, job.output["record"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
