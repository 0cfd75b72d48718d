"""What a session may hold, and what frees it: silence, a full house, half-open sockets, clients that leave."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest
from serving.in_process import running
from serving.test_server import ask, get
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect

from flashtrail.serving.client import PolicyClient, ServerUnavailable
from flashtrail.serving.protocol import packb, unpackb
from flashtrail.serving.server import Limits, ServerStartError


def opened(server):
    return connect(server.url, compression=None, proxy=None)


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.01)


def handshaken(server) -> socket.socket:
    """A socket that has shaken hands and from then on speaks for itself."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    lines = [
        "GET / HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
    ]
    sock.sendall("\r\n".join([*lines, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]).encode())
    answer = b""
    while b"\r\n\r\n\x82\x01\x80" not in answer:  # the handshake, then the frame with the empty map
        answer += sock.recv(4096)
    return sock


def metrics(server) -> dict[str, float]:
    lines = [line for line in get(server, "/metrics")[1].splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_a_full_house_says_so_and_has_room_again(policy) -> None:
    with running(policy, limits=Limits(max_sessions=2)) as server:
        with opened(server), opened(server):
            with pytest.raises(InvalidStatus) as refused, opened(server):
                pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.body == b"all 2 sessions are taken (--max-sessions)\n"
            with pytest.raises(ServerUnavailable, match="all 2 sessions are taken"):
                PolicyClient(server.url, timeout_s=0.3)
            assert get(server, "/healthz")[0] == 200
        until(lambda: server.sessions == 0)
        with opened(server):
            assert metrics(server)['flashtrail_errors_total{kind="full"}'] >= 2


def test_a_silent_session_is_dropped_and_a_busy_one_is_not(policy, observation) -> None:
    with running(policy, limits=Limits(idle_s=0.5)) as server, opened(server) as silent, opened(server) as busy:
        assert [c.recv(timeout=10) for c in (silent, busy)] == [b"\x80", b"\x80"]
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            ask(busy, observation)
            time.sleep(0.05)
        with pytest.raises(ConnectionClosedOK) as closed:
            silent.recv(timeout=10)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "idle for 0.5 s: session dropped")
        ask(busy, observation)
        assert server.sessions == 1


def test_being_dropped_for_silence_is_infrastructure_to_our_client(policy, observation) -> None:
    with running(policy, limits=Limits(idle_s=0.2)) as server, PolicyClient(server.url) as client:
        client.infer(observation)
        until(lambda: server.sessions == 0)
        with pytest.raises(ServerUnavailable, match="idle for"):
            client.infer(observation)


@pytest.mark.parametrize("start", [b"", b"\x82\xfe\xff\xff\0\0\0\0 a message that never ends", b"\x02\x81\0\0\0\0a"])
def test_a_half_open_or_slow_sender_is_dropped(policy, observation, start) -> None:
    """It answers no ping: nothing sent, half a frame, one fragment of a message."""
    limits = Limits(ping_interval_s=0.2, ping_timeout_s=0.2)
    with running(policy, limits=limits) as server, opened(server) as other, handshaken(server) as stalled:
        other.recv(timeout=10)
        stalled.sendall(start)
        until(lambda: server.sessions == 1)
        assert ask(other, observation)["accepted_prefix_len"] == 1


def test_a_slow_sender_that_answers_pings_is_dropped_for_silence(policy) -> None:
    with running(policy, limits=Limits(idle_s=0.3)) as server, handshaken(server) as slow:
        slow.sendall(b"\x82\xfe\xff\xff\0\0\0\0")
        for _ in range(200):
            try:
                slow.sendall(b"x")
            except OSError:
                break
            time.sleep(0.02)
        until(lambda: server.sessions == 0)


def test_whoever_leaves_while_waiting_has_no_round_run(policy, observation) -> None:
    with running(policy) as server, opened(server) as busy:
        busy.recv(timeout=10)
        policy.gate.clear()
        busy.send(packb(observation))
        assert policy.entered.wait(10)
        leaver = opened(server)
        leaver.recv(timeout=10)
        leaver.send(packb(observation))
        leaver.close()
        until(lambda: server.sessions == 1)
        policy.gate.set()
        assert unpackb(busy.recv(timeout=10))["accepted_prefix_len"] == 1
        ask(busy, observation)
        assert len(policy.calls) == 2


def test_a_connection_torn_in_mid_round_frees_its_session(policy, observation) -> None:
    with running(policy) as server, opened(server) as torn:
        torn.recv(timeout=10)
        policy.gate.clear()
        torn.send(packb(observation))
        assert policy.entered.wait(10)
        torn.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: server.sessions == 0)  # while its round still runs
        policy.gate.set()
        assert metrics(server)['flashtrail_errors_total{kind="lost"}'] == 1


def test_the_page_counts_rounds_sessions_waits_stages_and_errors(policy, observation) -> None:
    timing = {"route_type": "draft", "verify_ms": 2.0, "action_verify_ms": 2.0, "batch_size": 4}
    with running(policy) as server, opened(server) as one, opened(server) as bad:
        one.recv(timeout=10), bad.recv(timeout=10)
        ask(one, observation)
        result = {"accepted_prefix_len": 3, "policy_timing": timing}
        policy.replies = [{"actions": np.zeros((50, 7)), **result}]
        ask(one, observation)
        bad.send(b"garbage")
        assert bad.recv(timeout=10)
        until(lambda: server.sessions == 1)
        until(lambda: metrics(server)['flashtrail_rounds_total{route="draft"}'] == 1)
        page = metrics(server)
    assert page['flashtrail_rounds_total{route="full"}'] == 1
    assert page["flashtrail_sessions"] == 1 and page["flashtrail_sessions_opened_total"] == 2
    assert page["flashtrail_queue_wait_seconds_count"] == page["flashtrail_infer_seconds_count"] == 2
    assert page['flashtrail_stage_seconds_sum{stage="verify"}'] == pytest.approx(0.002)
    assert page['flashtrail_errors_total{kind="protocol"}'] == 1
    assert page["flashtrail_batch_rounds_sum"] == 5


def test_a_message_over_the_limit_is_counted(policy) -> None:
    with running(policy) as server, opened(server) as connection:
        connection.recv(timeout=10)
        connection.send(b"\0" * 4_000_000)
        until(lambda: server.sessions == 0)
        assert metrics(server)['flashtrail_errors_total{kind="size"}'] == 1


def test_the_page_wants_the_token(policy) -> None:
    with running(policy, token="s3cret") as server:
        assert get(server, "/metrics")[0] == 401
        assert get(server, "/metrics", Authorization="Bearer s3cret")[0] == 200


@pytest.mark.parametrize("name", ["max_sessions", "idle_s", "max_batch", "ping_timeout_s"])
def test_limits_below_the_possible_are_one_line(name) -> None:
    with pytest.raises(ServerStartError, match=f"{name} 0 must be more than 0"):
        Limits(**{name: 0})
