"""Train a policy further on corrections and demonstrations (rule refit_policy)."""

import argparse
import tempfile
import time
from pathlib import Path

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints.artifact import take_artifact
from flashtrail.training.lift import files, refit


def main(job: Job) -> None:
    """Train in a directory that goes, then put the artifact in its place; note how long it took and its figures."""
    asked, started = job.params["refit"], time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        out = Path(work, "run")
        flags = ["--artifact", str(job.directory("parent")), "--data", job.input["demonstrations"], "--out", str(out)]
        flags += [word for key in ("parts", "steps", "rate", "seed") for word in (f"--{key}", str(asked[key]))]
        flags += ["--threads", str(job.threads)]
        steps = 0
        if parts := job.input["corrections"]:
            gathered = Path(work, "corrections.hdf5")
            steps = files.gather([Path(part) for part in parts], asked["count"], asked["keep"], gathered)
            flags += ["--corrections", str(gathered)]
        parser = argparse.ArgumentParser()
        refit.add_arguments(parser)
        refit.run(parser.parse_args(flags))
        figures = provenance.json_load(out / "offline.json")
        manifest = take_artifact(out / "artifact", job.directory("manifest"))
    about = {"refit": asked, "corrected_steps": steps, "seconds": round(time.monotonic() - started, 1)}
    provenance.json_dump(about | {"digest": manifest["digest"], "figures": figures}, job.output["record"])
    print(f"{job.wildcards['policy']}: {steps} steps of corrections, {about['seconds']:.0f} s")


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
