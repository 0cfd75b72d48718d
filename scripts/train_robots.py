"""Train a policy from demonstrations of its robots (rule train_robots)."""

import argparse
import shutil
from pathlib import Path

from flashtrail.base import provenance
from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints.artifact import take_artifact
from flashtrail.tables import measurements
from flashtrail.training.lift import robots

METHOD = (
    "Frames: of all robots' demonstrations. Steps: of the optimizer, in all; a batch has as many frames of each robot."
)
RUNS = Path("results/lift/robots/runs")


def main(job: Job) -> None:
    """Train in a directory that a killed run finds again, then put the artifact in its place; note what it took."""
    asked, files, parents = job.params["train"], list(job.input["demonstrations"]), list(job.input["parent"])
    began = provenance.digest_json([asked, job.code, *map(provenance.sha256_file, map(Path, [*files, *parents]))])
    out = RUNS / f"{job.wildcards['policy']}-{began[:16]}"
    flags = ["--out", str(out), "--threads", str(job.threads), "--steps", str(asked["steps"] * len(files))]
    flags += [word for key in ("rate", "seed") for word in (f"--{key}", str(asked[key]))]
    for (robot, count), file in zip(asked["robots"].items(), files, strict=True):
        flags += ["--robot", f"{robot}={count}:{file}"]
    if parents:
        flags += ["--of", str(Path(parents[0]).parent), "--like", asked["like"] or ""]
    parser = argparse.ArgumentParser()
    robots.add_arguments(parser)
    robots.run(parser.parse_args(flags))
    done = provenance.json_load(out / "offline.json")
    take_artifact(out / "artifact", job.directory("manifest"))
    rows = {
        "demonstrations": ("Demonstrations trained on", sum(asked["robots"].values())),
        "frames": ("Their frames", done["frames"]["train"]),
        "steps": ("Optimizer steps", done["step"]),
        "seconds": ("Seconds of training", done["seconds"]),
    }
    figures = [measurements.figure(name, title, value, None, 1, "run") for name, (title, value) in rows.items()]
    title = f"Training: {job.wildcards['policy']}, {', '.join(asked['robots'])}"
    measurements.write(Path(job.output["record"]), title, METHOD, figures)
    shutil.rmtree(out)


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
