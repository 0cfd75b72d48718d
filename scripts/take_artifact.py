"""Check a finished artifact and copy it to where its policy is served from (rule take_artifact)."""

from flashtrail.base.jobs import Job, run
from flashtrail.checkpoints import artifact


def main(job: Job) -> None:
    """The artifact directory appears when it is whole."""
    manifest = artifact.take_artifact(job.params["artifact"], job.directory("manifest"))
    print(f"{job.params['artifact']}: digest {manifest['digest'][:12]}, {len(manifest['files'])} files checked")


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
