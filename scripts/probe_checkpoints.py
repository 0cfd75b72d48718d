"""Probe one policy's candidates and stop unless exactly one matches (rule probe_checkpoints)."""

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints import probe
from flashtrail.policies import facts as policy_facts


def main(job: Job) -> None:
    """Write the verdicts with their reasons; they are in the log also when none or two match."""
    source = job.params["source"]
    declared = {name: source[name] for name in policy_facts.NAMES if source.get(name) is not None}
    record = probe.probe(source["candidates"], declared, source["policy"])
    for candidate in record["candidates"]:
        print(f"{candidate['uri']}: {candidate['class']} ({candidate['reason']})", flush=True)
    probe.select(record)
    provenance.json_dump(record, job.output["record"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
