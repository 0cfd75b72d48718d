"""The server on the wire: golden transcripts, errors, sessions, probes, tokens."""

from __future__ import annotations

import http.client
import json
import threading

import numpy as np
import pytest
from serving.in_process import running
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect

from flashtrail.serving.client import healthy
from flashtrail.serving.protocol import packb, unpackb
from flashtrail.serving.server import ServerStartError, reserve_port


def get(server, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def ask(connection, message) -> dict:
    connection.send(message if isinstance(message, bytes | str) else packb(message))
    answer = connection.recv(timeout=20)
    assert isinstance(answer, bytes), answer
    return unpackb(answer)


def test_golden_episode_is_answered_byte_for_byte(
    policy, raw_connection, transcripts, golden_bytes, golden_replies
) -> None:
    policy.replies = [{k: v for k, v in r.items() if k != "server_timing"} for r in golden_replies]
    connection = raw_connection()
    messages = transcripts["episode"]["messages"]
    assert golden_bytes(messages[0]["file"]) == b"\x80"
    for request, expected in zip(messages[1::2], messages[2::2], strict=True):
        connection.send(golden_bytes(request["file"]))
        answer, golden = connection.recv(timeout=20), golden_bytes(expected["file"])
        # All but the server's own timing is the same to the byte; those are floats, so the length is too.
        stem = golden.index(b"server_timing")
        assert answer[:stem] == golden[:stem] and len(answer) == len(golden)
        decoded = unpackb(answer)
        assert list(decoded) == expected["top_level_key_order"]
        assert list(decoded["server_timing"]) == list(expected["decoded"]["server_timing"])
        assert all(type(value) is float for value in decoded["server_timing"].values())
    assert [call["executed_steps"] for call in policy.calls] == [0, 12, 12, 0]
    assert [call["reset"] for call in policy.calls] == [True, False, False, False]


def test_timing_adds_up(raw_connection, observation) -> None:
    connection = raw_connection()
    first, second = (ask(connection, observation)["server_timing"] for _ in range(2))
    assert first["infer_ms"] == first["policy_time_ms"]
    parts = first["ws_unpack_ms"] + first["policy_time_ms"] + first["ws_pack_ms"]
    assert first["serve_time_ms"] == pytest.approx(parts)
    assert second["prev_total_ms"] >= first["ws_recv_ms"] + first["serve_time_ms"]
    assert second["server_recv_timestamp_s"] >= first["server_response_timestamp_s"]


@pytest.mark.parametrize("name", ["error_missing_key", "error_garbage", "error_not_dict"])
def test_golden_errors_end_their_session_only(name, raw_connection, transcripts, golden_bytes, observation):
    survivor, victim = raw_connection(), raw_connection()
    assert ask(survivor, observation)["actions"][0, 0] == 1
    victim.send(golden_bytes(transcripts[name]["messages"][1]["file"]))
    line = victim.recv(timeout=10)
    assert isinstance(line, str) and "\n" not in line
    assert "Traceback" not in line and ".py" not in line
    if name == "error_missing_key":
        assert line.startswith("observation/wrist_image: missing")
    with pytest.raises(ConnectionClosedError) as closed:
        victim.recv(timeout=10)
    assert closed.value.rcvd.code == transcripts[name]["close_code"] == 1011
    assert ask(survivor, observation)["actions"][0, 0] == 2
    assert ask(raw_connection(), observation)["actions"][0, 0] == 1


def test_text_frame_is_refused(raw_connection) -> None:
    connection = raw_connection()
    connection.send("hello")
    assert connection.recv(timeout=10).startswith("message: expected a binary frame")
    with pytest.raises(ConnectionClosedError):
        connection.recv(timeout=10)


def test_message_over_the_size_limit_closes_its_session_only(raw_connection, observation) -> None:
    survivor, victim = raw_connection(), raw_connection()
    victim.send(b"\0" * 4_000_000)
    with pytest.raises(ConnectionClosedError) as closed:
        victim.recv(timeout=10)
    assert closed.value.rcvd.code == 1009
    assert ask(survivor, observation)["accepted_prefix_len"] == 1


def test_failing_policy_tells_neither_traceback_nor_path(policy, raw_connection, observation) -> None:
    connection = raw_connection()
    policy.error = RuntimeError("cannot open /secret/weights.safetensors\nsecond line")
    connection.send(packb(observation))
    line = connection.recv(timeout=10)
    assert line.startswith("policy failed: RuntimeError") and "secret" not in line and "\n" not in line
    with pytest.raises(ConnectionClosedError) as closed:
        connection.recv(timeout=10)
    assert closed.value.rcvd.code == 1011
    policy.error = None
    assert ask(raw_connection(), observation)["accepted_prefix_len"] == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actions", np.zeros(7)),
        ("actions", [[0.0]]),
        ("actions", np.full((50, 7), np.nan)),
        ("actions", np.full((50, 7), np.inf, np.float32)),
        ("accepted_prefix_len", 51),
        ("accepted_prefix_len", None),
        ("policy_timing", ...),
    ],
)
def test_policy_with_a_malformed_result_is_named(policy, server, raw_connection, observation, key, value) -> None:
    result = {"actions": np.zeros((50, 7)), "accepted_prefix_len": 3, "policy_timing": {}, key: value}
    policy.replies = [{k: v for k, v in result.items() if v is not ...}]
    connection = raw_connection()
    connection.send(packb(observation))
    assert connection.recv(timeout=10).startswith(f"{key}: ")
    page = get(server, "/metrics")[1]  # the policy's fault, not the client's
    assert 'errors_total{kind="policy"} 1.0' in page and 'errors_total{kind="protocol"} 0.0' in page


def test_two_sessions_do_not_disturb_each_other(policy, raw_connection, observation) -> None:
    one, other = raw_connection(), raw_connection()
    counts = [ask(c, observation)["accepted_prefix_len"] for c in (one, one, other, one, other)]
    assert counts == [1, 2, 1, 3, 2]
    assert ask(one, {**observation, "__reset_policy_state__": True})["accepted_prefix_len"] == 1
    assert ask(other, observation)["accepted_prefix_len"] == 3
    assert policy.sessions == 2


def test_one_round_at_a_time(policy, raw_connection, observation) -> None:
    connections = [raw_connection() for _ in range(4)]
    threads = [threading.Thread(target=ask, args=(c, observation)) for c in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(policy.calls) == 4 and policy.most_at_once == 1


def test_event_loop_lives_during_a_long_round(policy, server, raw_connection, observation) -> None:
    busy = raw_connection()
    policy.gate.clear()
    busy.send(packb(observation))
    assert policy.entered.wait(10)
    assert get(server, "/healthz") == (200, "OK\n")
    assert busy.ping().wait(10)
    raw_connection()  # a new client is greeted as well
    policy.gate.set()
    assert unpackb(busy.recv(timeout=10))["accepted_prefix_len"] == 1


def test_client_that_leaves_in_mid_round_costs_nothing(policy, raw_connection, observation) -> None:
    leaver, other = raw_connection(), raw_connection()
    policy.gate.clear()
    leaver.send(packb(observation))
    assert policy.entered.wait(10)
    leaver.close()
    policy.gate.set()
    assert ask(other, observation)["accepted_prefix_len"] == 1


def test_round_in_flight_is_answered_before_the_server_leaves(policy, observation) -> None:
    serving = running(policy)
    server = serving.__enter__()
    with connect(server.url, compression=None, proxy=None) as connection:
        connection.recv(timeout=10)
        policy.gate.clear()
        connection.send(packb(observation))
        assert policy.entered.wait(10)
        leaving = threading.Thread(target=serving.__exit__, args=(None, None, None))
        leaving.start()
        while healthy("127.0.0.1", server.port, timeout_s=0.2) is not None:
            pass  # until it listens no more, while the round is still held back by the gate
        policy.gate.set()
        assert unpackb(connection.recv(timeout=10))["accepted_prefix_len"] == 1
        with pytest.raises(ConnectionClosedOK) as closed:
            connection.recv(timeout=10)
        assert closed.value.rcvd.code == 1001
        leaving.join()


def test_pages(policy, server) -> None:
    assert get(server, "/healthz") == (200, "OK\n")
    status, body = get(server, "/metadata")
    assert (status, json.loads(body)) == (200, policy.metadata)
    assert get(server, "/")[0] == 426


def test_health_answers_as_upstream(server, golden_bytes) -> None:
    expected = json.loads(golden_bytes("index.json"))["healthz"]
    assert get(server, "/healthz") == (expected["status"], expected["body"])


def test_token_is_demanded_of_everything_but_health(policy) -> None:
    with running(policy, token="s3cret") as server:
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/metadata")[0] == 401
        assert get(server, "/metadata", Authorization="Bearer s3cret")[0] == 200
        assert get(server, "/metadata", Authorization="Bearer s3cre")[0] == 401
        assert get(server, "/metadata", Authorization="Basic s3cret")[0] == 401
        with pytest.raises(InvalidStatus), connect(server.url, proxy=None):
            pass
        headers = {"Authorization": "Api-Key s3cret"}
        with connect(server.url, proxy=None, additional_headers=headers) as connection:
            assert connection.recv(timeout=10) == b"\x80"


def test_compression_is_not_negotiated(server) -> None:
    with connect(server.url, compression="deflate", proxy=None) as connection:
        assert connection.response.headers.get("Sec-WebSocket-Extensions") is None


def test_taken_port_is_one_line(policy, server) -> None:
    with pytest.raises(ServerStartError, match=f"port {server.port} on 127.0.0.1 is taken"):
        reserve_port("127.0.0.1", server.port)


def test_port_taken_between_bind_and_listen_is_one_line(policy) -> None:
    first, second = reserve_port("127.0.0.1", 0), None
    second = reserve_port("127.0.0.1", first.getsockname()[1])
    first.listen()
    with first, pytest.raises(ServerStartError, match="is taken"), running(policy, sock=second):
        pass
