"""Compute the verdict of every claim (rule evaluate_claims)."""

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.claims import verdicts


def main(job: Job) -> None:
    """Judge claims.yaml on this run's files; write verdicts with their counts, intervals and rows."""
    files = {kind: value for kind, value in job.input.items() if kind != "claims"}
    result = verdicts.evaluate(job.input["claims"], {**files, "arms": job.params["arms"]})
    for claim in result["claims"]:
        print(f"{claim['id']}: {claim['verdict']}")
    provenance.json_dump(result, job.output["claims"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
