"""Run a few episodes of each task and keep what the policy saw (rule record_observations)."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from flashtrail.base.jobs import Job, run
from flashtrail.rollouts import observing, recordings
from flashtrail.serving.handles import server_command
from flashtrail.serving.launch import PolicyServerProcess, free_port


def main(job: Job) -> None:
    """Start the server, run the episodes task by task, write one .npz."""
    arm, port = job.params["arm"], free_port()
    command = server_command(job.input, arm["engine"], arm["flash"], port)
    log = job.directory("observations") / "server.log"
    recorded = []
    # A simulator after another one in the same process renders other pictures: a process for each task.
    fresh = multiprocessing.get_context("spawn")
    with (
        PolicyServerProcess(command, log, port, arm["rollout"]["server_ready_timeout_s"]) as server,
        ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as processes,
    ):
        for task in job.params["tasks"]:
            seen, lines = processes.submit(observing.of_task, arm, task, server.url).result()
            print(*lines, sep="\n", flush=True)
            recorded += seen
    recordings.save(recorded, job.output["observations"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
