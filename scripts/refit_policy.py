"""Train a policy further on corrections and demonstrations (rule refit_policy)."""

import argparse
import tempfile
import time
from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints.artifact import take_artifact
from flashtrail.tables import measurements
from flashtrail.training.lift import files, refit

METHOD = "Corrections: hand-overs to the expert, or episodes of its own. Seconds: of one run, from reading to export."


def main(job: Job) -> None:
    """Train in a directory that goes, then put the artifact in its place; note how long it took."""
    asked, started, counts = job.params["refit"], time.monotonic(), (0, 0)
    with tempfile.TemporaryDirectory() as work:
        out, gathered = Path(work, "run"), Path(work, "corrections.hdf5")
        flags = ["--artifact", str(job.directory("parent")), "--data", job.input["demonstrations"], "--out", str(out)]
        flags += [word for key in ("parts", "steps", "rate", "seed") for word in (f"--{key}", str(asked[key]))]
        if parts := job.input["corrections"]:
            counts = files.gather([Path(part) for part in parts], asked["count"], asked["keep"], gathered)
            flags += ["--corrections", str(gathered)]
        parser = argparse.ArgumentParser()
        refit.add_arguments(parser)
        refit.run(parser.parse_args([*flags, "--threads", str(job.threads)]))
        take_artifact(out / "artifact", job.directory("manifest"))
    rows = {
        "corrections": ("Corrections trained on", counts[0]),
        "steps": ("Their control steps", counts[1]),
        "seconds": ("Seconds of the refit", time.monotonic() - started),
    }
    figures = [measurements.figure(name, title, value, None, 1, "refit") for name, (title, value) in rows.items()]
    measurements.write(Path(job.output["record"]), f"Learning: {job.wildcards['policy']}", METHOD, figures)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
