"""Roll out a few episodes of each task and keep what the policy saw (rule record_observations)."""

import tempfile
from pathlib import Path

from flashtrail.base.jobs import Job, run
from flashtrail.experiment import shard as specs
from flashtrail.rollouts import recordings
from flashtrail.rollouts.lending import Lender
from flashtrail.rollouts.servers import Server
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.rollouts.spec import shard_spec


def main(job: Job) -> None:
    """Run each task's episodes as a shard, all against one server; write one .npz and drop the tables."""
    arm, code = job.params["arm"], job.params["shard"]["digest"]
    log = job.directory("observations") / "server.log"
    shards = [shard_spec(arm, task, job.input, code) for task in job.params["tasks"]]
    lender = None if arm["engine"]["device"] == "cuda" else Lender(print, lambda pid: None)
    recorded = []
    with Server(shards[0], log, 1, lender) as server, tempfile.TemporaryDirectory(prefix="flashtrail-") as place:
        for shard in shards:
            told = shard.model_copy(update={"server": specs.Server(url=server.url)})
            seen = Path(place, f"task_{shard.task_id}")
            roll_out_shard(told, seen, observations=seen).check()
            for file in sorted(seen.glob("init_*.npz")):
                recorded += recordings.load(file)
    recordings.save(recorded, job.output["observations"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
