"""The client: retrying, replies, and which trouble is the policy's and which is infrastructure."""

from __future__ import annotations

import contextlib
import http.server
import threading

import numpy as np
import pytest
from serving.in_process import running
from websockets.sync.server import serve as serve_sync

from flashtrail.base.errors import UserError
from flashtrail.serving import client as client_module
from flashtrail.serving.client import PolicyClient, PolicyError, ServerUnavailable, healthy
from flashtrail.serving.launch import free_port
from flashtrail.serving.protocol import packb


@contextlib.contextmanager
def impostor(handler):
    """A server that speaks websocket and then does as `handler` says."""
    with serve_sync(handler, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def official(answer):
    """Greet, then answer every request with `answer`."""

    def handler(connection) -> None:
        connection.send(packb({"served": "elsewhere"}))
        for _ in connection:
            connection.send(answer)

    return handler


def test_rounds_of_an_episode(server, policy, observation) -> None:
    with PolicyClient(server.url) as client:
        first = client.infer(observation, executed_steps=0, reset=True, noise_seed=[7, 0, 3])
        second = client.infer(observation, executed_steps=1)
    assert first.actions.shape == (50, 7) and first.actions.dtype == np.float64
    assert (first.accepted_prefix_len, second.accepted_prefix_len) == (1, 2)
    assert second.policy_timing["route_type"] == "full"
    assert second.roundtrip_ms >= second.server_timing["serve_time_ms"]
    assert [(c["executed_steps"], c["reset"], c["noise_seed"]) for c in policy.calls] == [
        (0, True, [7, 0, 3]),
        (1, False, None),
    ]
    second.actions[0] = 0  # the caller may write into its copy


def test_metadata_of_our_server_and_of_one_without_the_page(server, policy) -> None:
    with PolicyClient(server.url) as client:
        assert client.metadata == policy.metadata
    with impostor(official(b"")) as url, PolicyClient(url) as client:
        assert client.metadata == {"served": "elsewhere"}


def test_executed_steps_are_absent_unless_given(server, policy, observation) -> None:
    with PolicyClient(server.url) as client:
        client.infer(observation)
    assert policy.calls[0]["executed_steps"] is None and policy.calls[0]["reset"] is False


def test_refused_request_is_a_policy_error_and_ends_the_session(server, observation) -> None:
    del observation["observation/state"]
    with PolicyClient(server.url) as client:
        with pytest.raises(PolicyError, match=r"^observation/state: missing"):
            client.infer(observation)
        with pytest.raises(ServerUnavailable, match="is over"):
            client.infer(observation)


def test_traceback_of_the_official_server_becomes_the_exception(golden_bytes, observation) -> None:
    text = golden_bytes("error_missing_key_02_server.txt").decode()
    with (
        impostor(official(text)) as url,
        PolicyClient(url) as client,
        pytest.raises(PolicyError, match=r"^KeyError: 'observation/wrist_image'$"),
    ):
        client.infer(observation)


CUDA = """Traceback (most recent call last):
  File "serve.py", line 58, in _handler
    action = self._policy.infer(obs)
             ^^^^^^^^^^^^^^^^^^^^^^^
RuntimeError: CUDA error: out of memory
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CUDA, "RuntimeError: CUDA error: out of memory"),
        (
            CUDA
            + "\nDuring handling of the above exception, another exception occurred:\n\n"
            + CUDA.replace("memory", "luck"),
            "RuntimeError: CUDA error: out of luck",
        ),
        ("the model is warming up\ntry again later", "the model is warming up"),
        ("\n", "(empty error frame)"),
    ],
)
def test_the_recorded_cause_is_the_exception_and_no_advice_that_follows(text, line, observation) -> None:
    with impostor(official(text)) as url, PolicyClient(url) as client, pytest.raises(PolicyError) as caught:
        client.infer(observation)
    assert str(caught.value) == line


def test_server_that_lacks_our_extras_is_understood(observation) -> None:
    answer = packb({"actions": np.zeros((10, 7), np.float32), "accepted_prefix_len": 4, "extra": 1})
    with impostor(official(answer)) as url, PolicyClient(url) as client:
        reply = client.infer(observation, noise_seed=[1])
    assert (reply.policy_timing, reply.server_timing) == ({}, {})
    assert reply.actions.dtype == np.float64


@pytest.mark.parametrize(
    "answer",
    [
        b"\xc1",
        packb([1]),
        packb({"accepted_prefix_len": 1}),
        packb({"actions": np.zeros((2, 7)), "accepted_prefix_len": 3}),
        packb({"actions": np.zeros((2, 7)), "accepted_prefix_len": 1, "policy_timing": 3}),
    ],
)
def test_reply_outside_the_protocol_is_infrastructure(answer, observation) -> None:
    with (
        impostor(official(answer)) as url,
        PolicyClient(url) as client,
        pytest.raises(ServerUnavailable, match="sent a bad reply"),
    ):
        client.infer(observation)


def test_actions_that_are_not_finite_are_the_policys_fault(observation) -> None:
    answer = packb({"actions": np.full((2, 7), np.nan), "accepted_prefix_len": 1})
    with (
        impostor(official(answer)) as url,
        PolicyClient(url) as client,
        pytest.raises(PolicyError, match="not finite"),
    ):
        client.infer(observation)


def test_whoever_holds_what_is_not_finite_may_have_it(observation) -> None:
    answer = packb({"actions": np.full((2, 7), np.nan), "accepted_prefix_len": 1})
    with impostor(official(answer)) as url, PolicyClient(url, finite=False) as client:
        assert np.isnan(client.infer(observation).actions).all()


def test_connection_lost_in_mid_round_is_infrastructure(observation) -> None:
    def handler(connection) -> None:
        connection.send(b"\x80")
        connection.recv()
        connection.socket.close()

    with (
        impostor(handler) as url,
        PolicyClient(url) as client,
        pytest.raises(ServerUnavailable, match="lost the"),
    ):
        client.infer(observation)


def test_answer_that_never_comes_is_infrastructure(server, policy, observation) -> None:
    policy.gate.clear()
    with (
        PolicyClient(server.url, reply_timeout_s=0.2) as client,
        pytest.raises(ServerUnavailable, match=r"no answer .* within 0.2 s"),
    ):
        client.infer(observation)
    policy.gate.set()


def test_server_that_leaves_is_infrastructure(policy, observation) -> None:
    with running(policy) as server:
        client = PolicyClient(server.url)
    with pytest.raises(ServerUnavailable, match="1001"):
        client.infer(observation)


def test_no_server_within_the_time_is_one_line() -> None:
    with pytest.raises(ServerUnavailable, match=r"no policy server at .* within 0.3 s") as caught:
        PolicyClient(f"ws://127.0.0.1:{free_port()}", timeout_s=0.3)
    assert "\n" not in str(caught.value)


def test_client_waits_for_a_server_that_comes_later(policy, observation) -> None:
    port, leave = free_port(), threading.Event()

    def later() -> None:
        refused.wait(10)
        with running(policy, port=port):
            leave.wait(30)

    refused = threading.Event()
    thread = threading.Thread(target=later)
    thread.start()
    with pytest.raises(ServerUnavailable):
        PolicyClient(f"ws://127.0.0.1:{port}", timeout_s=0)
    refused.set()
    with PolicyClient(f"ws://127.0.0.1:{port}", timeout_s=20) as client:
        assert client.infer(observation).accepted_prefix_len == 1
    leave.set()
    thread.join()


def test_missing_token_is_told_at_once(policy) -> None:
    with running(policy, token="k") as server:
        with pytest.raises(ServerUnavailable, match="requires a token"):
            PolicyClient(server.url)
        with PolicyClient(server.url, token="k") as client:
            assert client.metadata == policy.metadata


@pytest.mark.parametrize("frame", ["hello", b"\xc1", packb([1])])
def test_stranger_is_not_taken_for_a_policy_server(frame) -> None:
    with (
        impostor(lambda connection: connection.send(frame)) as url,
        pytest.raises(ServerUnavailable, match="not a policy server"),
    ):
        PolicyClient(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_bad_url_is_one_line(url) -> None:
    with pytest.raises(ServerUnavailable, match="cannot be used"):
        PolicyClient(url, timeout_s=5)


def test_both_kinds_of_trouble_are_user_errors_and_differ() -> None:
    assert issubclass(PolicyError, UserError) and issubclass(ServerUnavailable, UserError)
    assert not issubclass(PolicyError, ServerUnavailable) and not issubclass(ServerUnavailable, PolicyError)


def test_health_probe_never_raises(server) -> None:
    assert healthy("127.0.0.1", server.port) is not None
    assert healthy("127.0.0.1", free_port()) is None


class _Page(http.server.BaseHTTPRequestHandler):
    """A proxy, or a front of a server: answers what it is told to, and notes what it was asked."""

    def _answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_CONNECT = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def page():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    server.asked, server.answer = [], (200, b"{}")
    server.at = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((502, b"bad"), "HTTP 502"),
        ((401, b""), "HTTP 401"),
        ((200, b"<html>"), "failed"),
        ((200, b"[" * 100_000), "failed"),
        ((200, b"[]"), "without a JSON object"),
    ],
)
def test_metadata_that_cannot_be_had_is_said(page, answer, said) -> None:
    page.answer = answer
    with pytest.raises(ServerUnavailable, match=said):
        client_module._fetch_metadata(f"ws://{page.at}", {})


@pytest.mark.parametrize("status", [404, 426])
def test_a_server_without_the_page_is_an_official_one(page, status) -> None:
    page.answer = (status, b"")
    assert client_module._fetch_metadata(f"ws://{page.at}", {}) == {}


def test_a_metrics_page_is_bounded_and_an_official_server_has_none(page) -> None:
    page.answer = (404, b"")
    with pytest.raises(ServerUnavailable, match="has no /metrics page, as official servers have none"):
        client_module.fetch_metrics(f"ws://{page.at}")
    page.answer = (200, b"x" * 2**20)
    assert len(client_module.fetch_metrics(f"ws://{page.at}")) == 2**18


def test_session_and_metadata_take_the_same_way(page, monkeypatch) -> None:
    """Through the proxy of the environment, straight where NO_PROXY says so, and straight to this machine."""
    for name in ("ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{page.at}")
    page.answer = (403, b"")
    with pytest.raises(ServerUnavailable, match=r"through the proxy 127\.0\.0\.1"):
        client_module._fetch_metadata("ws://policy.invalid:8000", {})
    with pytest.raises(ServerUnavailable):
        PolicyClient("ws://policy.invalid:8000", 0.1)
    assert set(page.asked) == {"CONNECT policy.invalid:8000"} and len(page.asked) >= 2
    assert client_module.proxy_of("ws://127.0.0.1:8000") is None
    monkeypatch.setenv("no_proxy", "policy.invalid")
    assert client_module.proxy_of("ws://policy.invalid:8000") is None
