"""Write the page of all arms' episodes (rule index_episodes)."""

from flashtrail.base.jobs import Job, run
from flashtrail.report import episode_browser


def main(job: Job) -> None:
    """A picture of each episode, by arm; and one row per start, its end in every arm as a link."""
    files = {name: job.input[name] for name in ("episodes", "rounds")}
    places = (job.output["page_index"], files, job.params["arms"], job.params["report"])
    episode_browser.write_index(*places, sheets=job.input["sheets"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
