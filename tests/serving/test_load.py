"""A small share of `make bench-server`: sessions that ask, sessions that come and go, and nothing left behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from serving.in_process import running
from serving.test_limits import metrics, until
from serving.test_rounds import Batching

from flashtrail.serving.launch import PolicyServerProcess, free_port

_spec = importlib.util.spec_from_file_location("load", Path(__file__).parents[2] / "benchmarks/load.py")
load = sys.modules["load"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(load)
OBSERVATIONS = load.synthetic_observations(4, ["open it", "put the bowl on the plate"])


@pytest.fixture
def server_process(scripted_server, tmp_path):
    command, environment = scripted_server
    port = free_port()
    with PolicyServerProcess(command(port), tmp_path / "log", port, 60, env=environment) as process:
        yield process


def test_sessions_that_ask_without_pause(server_process) -> None:
    asyncio.run(load.ask_for(server_process.url, 8, 1.0, OBSERVATIONS))
    before = load.Held.by(server_process.pid)
    found = asyncio.run(load.ask_for(server_process.url, 8, 2.0, OBSERVATIONS))
    held = asyncio.run(load.let_go(server_process.pid, before))
    assert not found.errors and len(found.times_ms) >= 8 and found.seconds >= 2.0
    assert found.line().startswith("  8 sessions")
    assert held.files <= before.files and held.threads <= before.threads
    assert held.memory_mb - before.memory_mb < 20


def test_connections_that_come_and_go_leave_nothing(server_process) -> None:
    asyncio.run(load.come_and_go(server_process.url, 20, OBSERVATIONS[0]))
    before = load.Held.by(server_process.pid)
    assert asyncio.run(load.come_and_go(server_process.url, 200, OBSERVATIONS[0])) == []
    held = asyncio.run(load.let_go(server_process.pid, before))
    assert held.files <= before.files and held.threads <= before.threads
    assert held.memory_mb - before.memory_mb < 20


def test_every_session_is_closed_and_every_round_counted(policy) -> None:
    with running(policy) as server:
        found = asyncio.run(load.ask_for(server.url, 4, 0.5, OBSERVATIONS))
        until(lambda: server.sessions == 0)
        assert metrics(server)['flashtrail_rounds_total{route="full"}'] == len(found.times_ms) == len(policy.calls)
    # Each session begins with a reset and tells what it executed of the reply before.
    assert sum(call["reset"] for call in policy.calls) >= 4
    assert {call["executed_steps"] for call in policy.calls} <= {0, *range(1, 13)}


def test_an_error_is_counted_and_no_answer_is_invented(policy) -> None:
    policy.error = RuntimeError("no")
    with running(policy) as server:
        found = asyncio.run(load.ask_for(server.url, 3, 0.5, OBSERVATIONS))
    assert len(found.errors) == 3 and not found.times_ms


def test_a_leak_is_seen() -> None:
    before = load.Held.by(os.getpid())
    read, write = os.pipe()
    after = load.Held.by(os.getpid())
    os.close(read), os.close(write)
    assert after.files == before.files + 2
    with running(Batching()):
        assert load.Held.by(os.getpid()).threads > before.threads
