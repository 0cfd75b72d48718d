"""Write the page of all arms' episodes (rule index_episodes)."""

from flashtrail.base.jobs import Job, run
from flashtrail.report import episode_browser


def main(job: Job) -> None:
    """A picture of each episode, by arm; and one row per start, its end in every arm as a link."""
    # A drill is not in an arm's recorded settings: its summary would call it an arm without a fault.
    files = {name: job.input[name] for name in ("episodes", "rounds", "summaries") if name in job.input}
    places = (job.output["page_index"], files, job.params["arms"], job.params["report"])
    episode_browser.write_index(*places, sheets=job.input["sheets"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
