"""Count what the predicates say of each drill and of clean runs (rule diagnose_drills)."""

from pathlib import Path

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.drills import bounds, diagnosis, logs


def main(job: Job) -> None:
    """Judge every episode of the drills by the stored bounds; write counts, intervals, power and verdicts."""
    found = diagnosis.of_runs(
        bounds.load(job.input["bounds"]), [logs.of_tables(Path(path).parent) for path in job.input["steps"]]
    )
    for name, entry in found["verdicts"].items():
        print(f"{name}: {entry['verdict']}, run diagnosed as {entry['run_cause'] or 'nothing'}")
    provenance.json_dump(found, job.output["diagnosis"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
