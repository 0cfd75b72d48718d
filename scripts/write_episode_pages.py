"""Write the pages of one arm's episodes (rule write_episode_pages)."""

from flashtrail.base.jobs import Job, run
from flashtrail.report import episode_pages
from flashtrail.tables import schemas


def main(job: Job) -> None:
    """Write the arm's directory of pages, whole: the list is the output that the workflow knows."""
    files = {name: job.input[name] for name in schemas.SCHEMAS}
    count = episode_pages.write_arm(job.directory("pages"), files, job.input["sheets"], **job.params["upwards"])
    print(f"{job.output['pages']}: {count} episodes", flush=True)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
