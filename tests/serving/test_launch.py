"""The server process: readiness, crashes, and that nothing outlives its parent. Real processes, no model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from serving.in_process import running

from flashtrail.serving.client import PolicyClient, ServerUnavailable
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import PolicyServerProcess, ServerError, free_port


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has: it only waits for whoever adopted it)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_until(condition, limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def launch(tmp_path, scripted_server):
    command, environment = scripted_server

    def make(mode: str = "good", *words: str, timeout_s: float = 30.0) -> PolicyServerProcess:
        port = free_port()
        return PolicyServerProcess(
            command(port, mode, *words), tmp_path / "logs" / "server.log", port, timeout_s, env=environment
        )

    return make


def test_server_is_ready_inside_and_gone_after(launch, observation) -> None:
    with launch() as process:
        process.check()
        with PolicyClient(process.url) as client:
            assert client.infer(observation).accepted_prefix_len == 12
        pid = process.pid
        assert os.getpgid(pid) == pid != os.getpgrp()
    assert is_gone(pid) and not process.alive


def test_whole_group_is_gone_even_after_an_exception(launch, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), launch("family", str(tmp_path / "pids")):
        raise KeyboardInterrupt
    server, child = map(int, (tmp_path / "pids").read_text().split())
    assert is_gone(server) and wait_until(lambda: is_gone(child))


def test_server_not_ready_in_time_is_killed_and_its_log_shown(launch) -> None:
    process = launch("never", timeout_s=1.0)
    with pytest.raises(ServerError, match=r"was not ready within 1 s.*loading for ever") as caught, process:
        pass
    assert is_gone(process.pid)
    assert caught.value.log_tail[-1] == "loading for ever" and "\n" not in str(caught.value)


def test_server_that_ends_at_once_shows_its_exit_code_and_log(launch) -> None:
    with pytest.raises(ServerError, match=r"before it was ready \(exit code 3\).*no such checkpoint"), launch("exit"):
        pass


def test_crash_during_use_is_infrastructure_with_a_cause(launch, observation) -> None:
    with launch("crash") as process, PolicyClient(process.url) as client:
        with pytest.raises(ServerUnavailable):
            client.infer(observation)
        assert wait_until(lambda: not process.alive)
        with pytest.raises(ServerError, match=r"exit code 7.*fell off the bus"):
            process.check()


def test_server_killed_by_a_signal_is_told_as_such(launch) -> None:
    with launch() as process:
        os.kill(process.pid, signal.SIGKILL)
        assert wait_until(lambda: not process.alive)
        with pytest.raises(ServerError, match="signal 9"):
            process.check()


def test_stranger_on_the_port_is_not_taken_for_our_server(policy, scripted_server, tmp_path) -> None:
    command, environment = scripted_server
    with running(policy) as stranger:
        process = PolicyServerProcess(command(stranger.port), tmp_path / "log", stranger.port, 30, env=environment)
        with pytest.raises(ServerError, match=f"port {stranger.port} on 127.0.0.1 is taken"), process:
            pass


def test_stranger_that_takes_the_port_later_is_not_taken_for_our_server(policy, launch) -> None:
    process = launch("never", timeout_s=1.5)
    started = process._start

    def start_then_lose_the_port() -> None:
        started()
        stranger.__enter__()

    stranger = running(policy, port=process.port, instance="somebody else")
    process._start = start_then_lose_the_port
    with pytest.raises(ServerError, match="was not ready"), process:
        pass
    stranger.__exit__(None, None, None)


def test_missing_interpreter_is_one_line(tmp_path) -> None:
    with pytest.raises(ServerError, match="cannot start no-such-python"):
        PolicyServerProcess(["no-such-python"], tmp_path / "log", free_port(), 5).__enter__()


PARENT = """
    import sys, time
    from flashtrail.serving.launch import PolicyServerProcess
    port, log = int(sys.argv[1]), sys.argv[2]
    with PolicyServerProcess(sys.argv[3:], log, port, 30) as process:
        print(process.pid, flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_server_does_not_outlive_a_parent_that_is_signalled(number, scripted_server, tmp_path) -> None:
    command, environment = scripted_server
    port = free_port()
    words = [sys.executable, "-c", textwrap.dedent(PARENT), str(port), str(tmp_path / "log"), *command(port)]
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.send_signal(number)
        code = parent.wait(30)
    assert code == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT, signal.SIGKILL: -9}[number]
    assert wait_until(lambda: is_gone(server))


def test_command_spells_every_kind_of_setting() -> None:
    command = serve_command(
        "base",
        draft="draft",
        port=9,
        python="py",
        threads=2,
        settings={"tau_radius": 0.15, "t_list": (0.1, 0.05), "full_fallback": False, "force_full_each_round": True},
    )
    assert command[:6] == ["py", "-P", "-m", "flashtrail", "serve", "--exit-with-parent"]
    text = " ".join(command)
    assert "--artifact base --port 9 --device cpu --dtype float32 --draft draft --threads 2" in text
    assert "--tau-radius=0.15 --t-list 0.1 0.05 --no-full-fallback --force-full-each-round" in text
