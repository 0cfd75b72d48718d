"""The official client package, unmodified, against our server."""

from __future__ import annotations

import re
import types

import numpy as np
import pytest

pytest.importorskip("openpi_client", reason="openpi-client is not installed in this environment")
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from serving.conftest import ROOT

from flashtrail.serving.protocol import packb


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_official_client_plays_an_episode(server, policy, observation) -> None:
    client = WebsocketClientPolicy("127.0.0.1", server.port)
    assert client.get_server_metadata() == {}
    first = client.infer({**observation, "__executed_steps__": 0, "__reset_policy_state__": True})
    second = client.infer({**observation, "__executed_steps__": 12, "__trace_infer_id__": 1})
    assert list(first) == ["actions", "accepted_prefix_len", "policy_timing", "server_timing"]
    np.testing.assert_array_equal(second["actions"], np.full((50, 7), 2.0))
    assert second["policy_timing"] == {"total_ms": 1.0, "route_type": "full"}
    np.testing.assert_array_equal(policy.calls[0]["obs"]["observation/image"], observation["observation/image"])
    client._ws.close()


def test_official_client_raises_its_own_error(server, observation) -> None:
    client = WebsocketClientPolicy("127.0.0.1", server.port)
    del observation["prompt"]
    with pytest.raises(RuntimeError, match="Error in inference server:\nprompt: missing"):
        client.infer(observation)
    client._ws.close()


def test_official_client_is_let_in_with_its_api_key(policy, observation) -> None:
    from serving.in_process import running

    with running(policy, token="k") as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port, api_key="k")
        assert client.infer(observation)["accepted_prefix_len"] == 1
        client._ws.close()


def test_the_lines_for_a_robot_in_the_documentation_run(policy, observation) -> None:
    from serving.in_process import running

    text = (ROOT / "docs" / "serving.md").read_text()
    lines = re.search(r"```python\n(from openpi_client.*?)```", text, re.DOTALL)
    told: list[np.ndarray] = []
    robot = types.SimpleNamespace(step=told.append)
    done = types.new_class("Done", exec_body=lambda body: body.update(__bool__=lambda _: len(told) >= 3))()
    image, wrist, state = (observation[f"observation/{name}"] for name in ("image", "wrist_image", "state"))
    with running(policy, token="k") as server:
        assert lines
        code = lines[1].replace("wss://robots.example.org", server.url)
        exec(code, seen := {"image": image, "wrist": wrist, "state": state, "robot": robot, "done": done, "token": "k"})
        seen["policy"]._ws.close()
    assert [(call["executed_steps"], call["reset"]) for call in policy.calls] == [(0, True), (1, False)]
    assert [action[0] for action in told] == [1, 2, 2]  # rounds 1 and 2, of which as many actions are accepted


def test_both_codecs_write_the_same_bytes(observation) -> None:
    assert packb(observation) == msgpack_numpy.packb(observation)
