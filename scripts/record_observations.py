"""Run a few episodes of each task and keep what the policy saw (rule record_observations)."""

from flashtrail.jobs import Job, run
from flashtrail.rollouts import recordings
from flashtrail.rollouts.simulator import LiberoSimulator
from flashtrail.serving.client import PolicyClient
from flashtrail.serving.handles import server_command
from flashtrail.serving.launch import PolicyServerProcess, free_port


def main(job: Job) -> None:
    """Start the server, run the episodes task by task, write one .npz."""
    arm, port = job.params["arm"], free_port()
    settings = {key: arm[key] for key in ("seed", "scene_seed")} | {"hard_reset": arm["rollout"]["hard_reset"]}
    command = server_command(job.input, arm["engine"], arm["flash"], port)
    log = job.directory("observations") / "server.log"
    recorded = []
    with PolicyServerProcess(command, log, port, arm["rollout"]["server_ready_timeout_s"]) as server:
        for task in job.params["tasks"]:
            simulator = LiberoSimulator(arm["suite"], task, **settings)
            with PolicyClient(server.url) as client:
                recorded += recordings.record_task(arm, task, simulator, client)
            simulator.close()
    recordings.save(recorded, job.output["observations"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
