"""Compute the verdict of every claim, and keep the look at it (rule evaluate_claims)."""

import os

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.claims import looks, verdicts


def main(job: Job) -> None:
    """Judge claims.yaml on this run's files; write verdicts with their counts, intervals and rows."""
    files = {kind: value for kind, value in job.input.items() if kind != "claims"}
    asked = os.environ.get(looks.ASKED, "report")
    kept = {"arms": job.params["arms"], "looks": job.params["looks"], "asked": asked}
    result = verdicts.evaluate(job.input["claims"], {**files, **kept})
    for claim in result["claims"]:
        print(f"{claim['id']}: {claim['verdict']}")
    new = looks.append(job.params["looks"], result["claims"], asked, job.params["planned"])
    print(f"{new} new looks in {job.params['looks']}")
    provenance.json_dump(result, job.output["claims"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
