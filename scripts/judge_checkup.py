"""Hold the checkup's success to the published one (rule judge_checkup)."""

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.claims import checkup


def main(job: Job) -> None:
    """Write the verdict with its counts, intervals and what would settle it; print it as one sentence."""
    figures, params = job.input["published"], job.params
    figures = [figures] if isinstance(figures, str) else figures
    found = checkup.judge(job.input["episodes"], figures, params["key"], params["scene_seed"])
    print(found["sentence"], flush=True)
    provenance.json_dump(found, job.output["checkup"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
