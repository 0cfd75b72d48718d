"""Write the index of all arms' episodes (rule index_episodes)."""

from flashtrail.base.jobs import Job, run
from flashtrail.report import episode_pages


def main(job: Job) -> None:
    """One row per start, its end in every arm as a link."""
    files = {name: job.input[name] for name in ("episodes", "rounds")}
    episode_pages.write_index(job.output["page_index"], files, job.params["arms"], job.params["report"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
