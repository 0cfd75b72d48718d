"""Execute one report's notebook and export it (rules render_chapter, render_final)."""

from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.report import rendering

PROFILE = Path(".snakemake/flashtrail/profile")  # as the run was started (rules/common.smk)


def main(job: Job) -> None:
    """Run the notebook with this job's inputs as parameters; write the notebook and one HTML file."""
    parameters = {name: value for name, value in job.input.items() if name != "notebook"}
    parameters |= {name: job.params[name] for name in ("arms", "grids", "success") if name in job.params}
    if PROFILE.is_file():  # not a parameter of the rule: the same run under another profile is the same report
        profile = PROFILE.read_text(encoding="utf-8")
        parameters["repeat"] = f"snakemake --profile {profile} {job.output['html']}"
    rendering.render(job.input["notebook"], job.output["notebook"], job.output["html"], parameters)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
