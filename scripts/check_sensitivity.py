"""Ask a policy whether it looks at what it is shown (rule check_sensitivity)."""

from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.drills import sensitivity
from flashtrail.policies import registry
from flashtrail.rollouts import recordings
from flashtrail.serving.handles import backend_of
from flashtrail.tables import measurements


def main(job: Job) -> None:
    """Load the artifact in this process; write the figures as a measurement."""
    engine, artifact = job.params["engine"], job.directory("base")
    registry.load(registry.family_of(artifact)).set_threads(engine["threads"])
    where = {"device": engine["device"], "dtype": engine["dtype"], "backend": backend_of(job.input, engine)}
    recorded = recordings.load(job.input["observations"])
    figures = sensitivity.measure(
        sensitivity.asker(artifact, **where),
        recorded,
        seed=job.params["seed"],
        action_sd=sensitivity.action_sd(artifact),
    )
    print("\n".join(sensitivity.lines(figures)))
    title = f"What {job.wildcards['policy']} looks at"
    measurements.write(Path(job.output["measurement"]), title, sensitivity.METHOD, figures)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
