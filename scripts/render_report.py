"""Execute one report's notebook and export it (rules render_chapter, render_final)."""

from flashtrail.base.jobs import Job, run
from flashtrail.report import rendering


def main(job: Job) -> None:
    """Run the notebook with this job's inputs as parameters; write the notebook and one HTML file."""
    parameters = {name: value for name, value in job.input.items() if name != "notebook"}
    parameters |= {name: job.params[name] for name in ("arms", "grids")}
    rendering.render(job.input["notebook"], job.output["notebook"], job.output["html"], parameters)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
