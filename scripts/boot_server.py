"""Boot a policy's server, ask for one round, take it down (rule boot_server)."""

import time
from pathlib import Path

import numpy as np

from flashtrail.base import machine, provenance
from flashtrail.base.errors import UserError
from flashtrail.base.jobs import Job, run
from flashtrail.serving.client import PolicyClient
from flashtrail.serving.handles import digests, server_command
from flashtrail.serving.launch import PolicyServerProcess, free_port

GREY = np.full((224, 224, 3), 127, np.uint8)
REQUEST = {
    "observation/image": GREY,
    "observation/wrist_image": GREY,
    "observation/state": np.zeros(8),
    "prompt": "put the bowl on the plate",
}


def main(job: Job) -> None:
    """Write the seconds to readiness and what one round answered; stop if either fails."""
    engine, port = job.params["engine"], free_port()
    command = server_command(job.input, engine, engine["flash"], port, settings=engine.get("settings"))
    log = Path(job.output["record"]).with_name("server.log")
    started, watch = time.monotonic(), machine.Watch(gpu=engine["device"] == "cuda")
    with PolicyServerProcess(command, log, port, engine["ready_timeout_s"]) as server:
        ready_s = time.monotonic() - started
        with PolicyClient(server.url) as client:
            reply = client.infer(REQUEST, reset=True, noise_seed=[0])
            metadata, load = dict(client.metadata), watch.record()
    if reply.actions.shape[1:] != (7,) or not np.isfinite(reply.actions).all():
        raise UserError(f"the server's first round gave actions of shape {reply.actions.shape}, not finite (any, 7)")
    record = {
        "ready_s": round(ready_s, 3),
        "ready_timeout_s": engine["ready_timeout_s"],
        "first_round_ms": round(reply.roundtrip_ms, 3),
        "route": reply.policy_timing.get("route_type"),
        "metadata": metadata,
        "machine": load,
        "artifact": digests(job.input),
    }
    print(f"ready after {ready_s:.1f} s, first round {reply.roundtrip_ms:.0f} ms")
    provenance.json_dump(record, job.output["record"])


if __name__ == "__main__":
    run(main, globals().get("snakemake"))
