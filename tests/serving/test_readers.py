"""Peers that do not read, and too many of them: freed in time, bounded in memory and log, no obstacle to leaving."""

from __future__ import annotations

import collections
import contextlib
import socket
import subprocess
import types

import numpy as np
from serving.conftest import resident_mb
from serving.in_process import running
from serving.test_limits import handshaken, until
from serving.test_server import ask

from flashtrail.serving.client import PolicyClient, healthy
from flashtrail.serving.connection import MAX_UNREAD_BYTES, PatientConnection
from flashtrail.serving.launch import free_port
from flashtrail.serving.protocol import packb
from flashtrail.serving.server import Limits


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    head = bytes([0x80 | size]) if size < 126 else b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + head + b"\0" * 4 + payload


def leave_unread(sock: socket.socket, sent: bytes) -> None:
    """Send until nothing more is taken: what comes back is left where it is."""
    sock.settimeout(0.5)
    try:
        while True:
            sock.sendall(sent)
    except TimeoutError:
        pass


def long_answers(policy, observation) -> bytes:
    """Let the policy answer at length, so that few answers fill every buffer; return a request as a frame."""
    answer = {"actions": np.zeros((20_000, 7)), "accepted_prefix_len": 0, "policy_timing": {}}
    policy.infer = lambda *_, **__: answer
    return frame(2, packb(observation))


def test_a_reader_that_does_not_read_frees_its_session(policy, observation) -> None:
    """Neither an idle time nor a ping finds it: the server is in the middle of sending, and its pings wait behind."""
    request = long_answers(policy, observation)
    limits = Limits(ping_interval_s=30, ping_timeout_s=1)
    with running(policy, limits=limits) as server, handshaken(server) as deaf:
        leave_unread(deaf, request)
        until(lambda: server.sessions == 0)


def test_a_slow_reader_is_let_be() -> None:
    """The patience begins anew each time that it has read on."""
    timers: list[types.SimpleNamespace] = []

    def call_later(seconds, what):
        timer = types.SimpleNamespace(seconds=seconds, what=what, ended=False)
        timer.cancel = lambda: setattr(timer, "ended", True)
        timers.append(timer)
        return timer

    connection = PatientConnection.__new__(PatientConnection)
    connection.loop, connection.ping_timeout = types.SimpleNamespace(call_later=call_later), 7.0
    connection.paused, connection.drain_waiters = False, collections.deque()
    connection.transport = types.SimpleNamespace(abort=lambda: None)
    for _ in range(2):
        connection.pause_writing()
        assert timers[-1].what is connection.transport.abort and not timers[-1].ended
        connection.resume_writing()
    assert [(timer.seconds, timer.ended) for timer in timers] == [(7.0, True)] * 2


def test_a_flood_of_pings_that_nobody_reads_the_answers_of_is_cut_off(policy, raw_connection, server, observation):
    other = raw_connection()
    before = resident_mb()
    with handshaken(server) as flooding:
        flooding.settimeout(10)
        pings, sent = frame(9, b"p" * 125) * 500, 0
        try:
            while sent < 100 * MAX_UNREAD_BYTES:
                flooding.sendall(pings)
                sent += len(pings)
        except ConnectionError:
            pass
    assert sent < 100 * MAX_UNREAD_BYTES and resident_mb() - before < 20
    until(lambda: server.sessions == 1)
    assert ask(other, observation)["accepted_prefix_len"] == 1


def test_a_reader_that_does_not_read_does_not_keep_the_server_from_leaving(policy, observation) -> None:
    request = long_answers(policy, observation)
    with running(policy) as server:
        deaf = handshaken(server)
        leave_unread(deaf, request)
    assert server.sessions == 0 and deaf.fileno() >= 0  # it left, and the reader is still there, unread
    deaf.close()


def test_no_file_left_for_another_connection_is_said_now_and_then_and_passes(
    scripted_server, observation, tmp_path
) -> None:
    port, (command, environment) = free_port(), scripted_server
    argv = command(port, "few files")
    pipe = subprocess.PIPE  # the lifeline
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(argv, env=environment, stdin=pipe, stderr=log) as process,
    ):
        with PolicyClient(f"ws://127.0.0.1:{port}") as client, contextlib.ExitStack() as crowd:
            client.infer(observation)
            for _ in range(150):
                crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            until(lambda: (tmp_path / "log").read_text())
            assert client.infer(observation).accepted_prefix_len == 12  # the open session goes on
        until(lambda: healthy("127.0.0.1", port) is not None)
        process.terminate()
        assert process.wait(10) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert 1 <= len(lines) < 10 and all("file-descriptor limit reached" in line for line in lines)
