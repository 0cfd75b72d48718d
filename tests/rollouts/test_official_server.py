"""An arm against a server that is not ours: what its tables hold, what stops it, and in how few words."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from rollouts.shards import HERE, WORKER, parts, rows, spec, start, wait_until
from serving.conftest import ScriptedPolicy
from serving.in_process import running

from flashtrail.base.errors import UserError
from flashtrail.experiment.shard import Server, ShardSpec
from flashtrail.rollouts import servers, worker
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.serving import client
from flashtrail.serving.client import PolicyClient, ServerUnavailable, healthy
from flashtrail.serving.launch import free_port
from flashtrail.simulators.observation import Observation

pytest.importorskip("openpi_client", reason="openpi-client is not installed in this environment")
VIEW = np.zeros((224, 224, 3), np.uint8)
SEEN = Observation(VIEW, VIEW, np.zeros(8), "move the point")


@contextlib.contextmanager
def official(mode: str = "", number: float = 0, port: int | None = None):
    """Start it and give its address."""
    port = port or free_port()
    words = [sys.executable, str(HERE / "official_server.py"), str(port), mode, str(number)]
    with subprocess.Popen(words) as process:
        try:
            wait_until(lambda: healthy("127.0.0.1", port) is not None)
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.kill()


def told(url: str, **more) -> ShardSpec:
    server = Server.model_validate({"url": url, **more.pop("server", {})})
    return spec(**more).model_copy(update={"server": server})


def rolled_out(url: str, out, **more) -> str:
    log = io.StringIO()
    roll_out_shard(told(url, **more), out, log=log, worker_command=WORKER).check()
    return log.getvalue()


def test_what_it_does_not_send_is_empty(tmp_path):
    with official() as url:
        rolled_out(url, tmp_path)
    read = rows(tmp_path, timing=True)
    assert [row["outcome"] for row in read["episodes"]] == ["success", "horizon", "horizon"]
    for row in read["rounds"]:
        assert (row["encoder_ms"], row["prefill_ms"], row["denoise_ms"]) == (1.0, 2.0, 3.0)
        assert (row["policy_ms"], row["serve_ms"]) == (6.5, 7.5)
        assert {row[name] for name in ("draft_ms", "verify_ms", "radius", "synchronized", "batch_size")} == {None}


def test_its_one_state_is_not_shared_by_simulators_or_shards(tmp_path):
    """Its actions tell how many clients it ever had at once: two shards of two simulators, one client at a time."""
    lock = str(tmp_path / "lock")
    with official("slow", 0.5) as url:
        server = {"url": url, "lock": lock}
        first = start(tmp_path / "a", told(url, simulators=2, server=server))
        wait_until(lambda: parts(tmp_path / "a"))
        log = rolled_out(url, tmp_path / "b", simulators=2, server={"lock": lock})
        assert first.wait(60) == 0
    assert "does not say that it keeps sessions apart" in log
    for name in "ab":
        assert {round(row["action"][0], 3) for row in rows(tmp_path / name)["steps"]} == {0.1}


def test_a_server_that_keeps_sessions_apart_has_all_simulators_at_once(tmp_path):
    policy = ScriptedPolicy()
    policy.metadata = {"request_keys": ["noise_seed"]}
    with running(policy) as server:
        log = rolled_out(server.url, tmp_path, simulators=2, server={"lock": "/nowhere/at/all"})
    assert "keeps sessions apart" not in log and policy.sessions == 2


def test_a_first_round_may_compile_for_longer_than_a_ping_may_take(monkeypatch):
    """It answers no ping meanwhile: a client that insists on one loses its session."""
    monkeypatch.setattr(client, "_PING_INTERVAL_S", 0.3)
    for patience_s, refused in ((0.3, pytest.raises(ServerUnavailable)), (60.0, contextlib.nullcontext())):
        with official("slow", 3) as url, PolicyClient(url, ping_timeout_s=patience_s) as session, refused:
            assert session.infer(SEEN.request()).accepted_prefix_len == 12


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_simulator_has_that_patience_with_a_server_elsewhere(monkeypatch, elsewhere):
    given = []

    def no_client(*_, **options):
        given.append(options["ping_timeout_s"])
        raise ServerUnavailable("none")

    monkeypatch.setattr(worker, "PolicyClient", no_client)
    monkeypatch.setattr(worker, "make_simulator", lambda _: types.SimpleNamespace(prompt="", horizon=1))
    simulator = worker.Worker(spec(stall_timeout_s=1.0), worker.Heartbeat(lambda _: None))
    request = {"key": ["libero_goal", 2, 0, 0], "url": "ws://127.0.0.1:1", "elsewhere": elsewhere}
    assert simulator.answer(request) == {"failed": "server", "error": "none"}
    assert given == [worker._REPLY_S if elsewhere else 60.0]


@pytest.mark.parametrize(
    ("mode", "number", "line"),
    [
        ("dim", 32, r"actions of shape \(50, 32\), the simulator takes \(any, 7\)"),
        ("dim", 6, r"actions of shape \(50, 6\), the simulator takes \(any, 7\)"),
        ("plain", 0, r"is not a FLASH server: its replies lack accepted_prefix_len"),
    ],
)
def test_a_server_for_something_else_stops_the_shard_with_one_line(tmp_path, mode, number, line):
    with official(mode, number) as url, pytest.raises(UserError, match=line):
        rolled_out(url, tmp_path)
    assert not parts(tmp_path)


def test_one_that_goes_away_for_good_stops_the_shard_and_costs_no_episode(tmp_path, monkeypatch):
    """And not each of the others a minute of waiting."""
    monkeypatch.setattr(servers, "_AWAY_S", 1.0)
    with (
        official("die", 5) as url,
        pytest.raises(UserError, match=r"no policy server at .* finished episodes are kept"),
    ):
        rolled_out(url, tmp_path)
    assert parts(tmp_path) == ["init_000_repeat_0"]


def test_one_that_is_started_again_by_its_keeper_costs_one_attempt(tmp_path):
    port = free_port()
    with official("die", 5, port) as url:
        first = start(tmp_path, told(url))
        wait_until(lambda: healthy("127.0.0.1", port) is None)
        time.sleep(1)
        with official(port=port):
            assert first.wait(120) == 0
    assert [row["outcome"] for row in rows(tmp_path)["episodes"]] == ["success", "horizon", "horizon"]


def test_its_traceback_is_told_as_its_exception(tmp_path):
    with official("raise", 2) as url:
        log = rolled_out(url, tmp_path)
    assert "attempt 1 failed (policy): KeyError: 'prompt'" in log and "Traceback" not in log
