"""Roll out the episodes of one arm and task against one policy server (rules roll_out_shard, smoke)."""

from flashtrail.base.jobs import Job, run
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.rollouts.spec import shard_spec


def main(job: Job) -> None:
    """Start the server in the model environment, run the episodes, write the shard's tables and ledger."""
    directory, params = job.directory("ledger"), job.params
    places = directory / "server.log", directory.parents[1]  # its log; where all shards of all arms lie
    spec = shard_spec(params["arm"], params["task"], job.input, job.code, *places)
    gpu = params["arm"]["engine"]["device"] == "cuda"
    rolled = roll_out_shard(spec, directory, gpu=gpu, reuse=params.get("reuse", ()))
    rolled.check()  # an episode that could not be run fails the job: run again


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
