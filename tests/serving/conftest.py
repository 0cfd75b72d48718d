"""A scripted policy, observations and a running server for the serving tests."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving.in_process import running
from websockets.sync.client import connect

from flashtrail.serving.protocol import unpackb

G3 = Path(__file__).parents[1] / "golden" / "G3_wire"
ROOT = Path(__file__).parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-messages", type=int, default=3000, help="malformed messages for the decoder (make fuzz)")
    parser.addoption("--fuzz-wire", type=int, default=120, help="malformed messages over a socket (make fuzz)")


def resident_mb() -> float:
    """Resident memory of this process, MB; the peak so far where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return pages * resource.getpagesize() / 1e6


class ScriptedPolicy:
    """Counts rounds per session and returns the count in every action; can be told to wait or to fail."""

    def __init__(self) -> None:
        self.metadata = {"artifact": "scripted", "device": "none"}
        self.calls: list[dict[str, Any]] = []
        self.sessions = 0
        self.running_now = 0
        self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.replies: list[dict[str, Any]] | None = None

    def new_session(self) -> dict[str, int]:
        self.sessions += 1
        return {"session": self.sessions, "round": 0}

    def infer(self, session, obs, *, executed_steps, reset, noise_seed):
        self.running_now += 1
        self.most_at_once = max(self.most_at_once, self.running_now)
        self.calls.append({"obs": obs, "executed_steps": executed_steps, "reset": reset, "noise_seed": noise_seed})
        self.entered.set()
        assert self.gate.wait(30)
        self.running_now -= 1
        if self.error is not None:
            raise self.error
        if self.replies is not None:
            return self.replies.pop(0)
        session["round"] = 1 if reset else session["round"] + 1
        actions = np.full((50, 7), session["round"], np.float64)
        return {
            "actions": actions,
            "accepted_prefix_len": min(12, session["round"]),
            "policy_timing": {"total_ms": 1.0, "route_type": "full"},
        }


@pytest.fixture
def policy() -> ScriptedPolicy:
    return ScriptedPolicy()


@pytest.fixture
def server(policy):
    with running(policy) as serving:
        yield serving
        policy.gate.set()


@pytest.fixture
def observation() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "observation/image": rng.integers(0, 256, (224, 224, 3), np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (224, 224, 3), np.uint8),
        "observation/state": rng.standard_normal(8),
        "prompt": "put the bowl on the plate",
    }


@pytest.fixture
def raw_connection(server):
    """Return a function that opens a bare websocket and reads the metadata frame."""
    with contextlib.ExitStack() as stack:

        def open_connection():
            connection = stack.enter_context(connect(server.url, compression=None, proxy=None))
            assert connection.recv(timeout=10) == b"\x80"
            return connection

        yield open_connection


@pytest.fixture(scope="session")
def transcripts() -> dict[str, dict[str, Any]]:
    index = json.loads((G3 / "index.json").read_text())
    return {connection["name"]: connection for connection in index["connections"]}


@pytest.fixture(scope="session")
def golden_bytes():
    return lambda name: (G3 / name).read_bytes()


@pytest.fixture(scope="session")
def golden_replies(transcripts, golden_bytes) -> list[dict[str, Any]]:
    """The decoded replies of the golden episode."""
    messages = transcripts["episode"]["messages"][1:]
    return [unpackb(golden_bytes(m["file"])) for m in messages if m["sender"] == "server"]


@pytest.fixture(scope="session")
def scripted_server():
    """Return a function that gives the command line of `scripted_server.py` and the environment for it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def command(port: int, mode: str = "good", *words: str) -> list[str]:
        return [sys.executable, str(Path(__file__).parent / "scripted_server.py"), str(port), mode, *words]

    return command, environment
