"""A server process for the launch tests: port, mode and, for some modes, a file to write process ids to."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# Told before anything is imported: on a busy machine the imports alone may take the test's whole time limit.
print({"exit": "no such checkpoint", "never": "loading for ever"}.get(sys.argv[2], ""), end="", flush=True)

import numpy as np  # noqa: E402

from flashtrail.serving.launch import INSTANCE_VARIABLE, leave_with_parent  # noqa: E402
from flashtrail.serving.server import PolicyServer, reserve_port, serve  # noqa: E402


class Policy:
    def __init__(self, mode: str) -> None:
        self.metadata: dict = {}
        self.mode = mode

    def new_session(self) -> None:
        return None

    def infer(self, session, obs, **_):
        if self.mode == "crash":
            print("the device fell off the bus", flush=True)
            os._exit(7)
        if self.mode.startswith("slow"):
            time.sleep(float(self.mode.split()[1]))
        return {"actions": np.zeros((50, 7)), "accepted_prefix_len": 12, "policy_timing": {}}


def main() -> None:
    port, mode = int(sys.argv[1]), sys.argv[2]
    leave_with_parent()
    if mode == "exit":
        sys.exit(3)
    if mode == "never":
        time.sleep(600)
    if mode == "few files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    if mode == "family":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(sys.argv[3]).write_text(f"{os.getpid()} {child.pid}")
    sock = reserve_port("127.0.0.1", port)
    if not asyncio.run(serve(PolicyServer(Policy(mode), sock=sock, instance=os.environ.get(INSTANCE_VARIABLE)))):
        os._exit(1)  # as `flashtrail serve` does where a round does not end


main()
