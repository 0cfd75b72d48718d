"""Locations that answer and refuse: each refusal has its own sentence, and none reads as absence."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub
import pytest
from huggingface_hub import close_session
from trees import orbax_tree

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import probe, stores

SAID = {"horizon": 50, "delta_actions": True, "views": 2, "steps": 10, "max_token_len": 48}
URI = "hf://someone/private"
GATED = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted."}, "hf_right")
PRIVATE = (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, "hf_right")
INVALID = (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "hf_right")
FORBIDDEN = (403, {}, "hf_right")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", stores.GOOGLE_KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_login"))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with hub.serve({"someone/private": orbax_tree()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize(
    ("refusal", "token", "said"),
    [
        (GATED, None, "in a gated repository: accept its terms on its page and set HF_TOKEN"),
        (GATED, "hf_wrong", "accept its terms on its page with the account of HF_TOKEN"),
        (PRIVATE, None, r"in a private repository, or in none \(the hub says HTTP 401 for both\): set HF_TOKEN"),
        (INVALID, "hf_wrong", r"the hub refuses the token .*HTTP 401\): renew HF_TOKEN"),
        (FORBIDDEN, "hf_wrong", "the token in HF_TOKEN may not read"),
    ],
)
def test_the_hubs_refusals(
    service: Any, monkeypatch: pytest.MonkeyPatch, refusal: Any, token: str | None, said: str
) -> None:
    service.closed["someone/private"] = refusal
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    record = probe.probe([URI], SAID, "mine")
    assert (record["candidates"][0]["class"], record["candidates"][0]["listed"]) == (probe.UNKNOWN, False)
    with pytest.raises(UserError, match=said) as caught:
        probe.select(record)
    assert probe.NOT_FOUND not in str(caught.value)


def test_a_token_opens_a_private_repository(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service.closed["someone/private"] = PRIVATE
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert probe.probe_candidate(URI, SAID)["class"] == probe.LIBERO_JAX


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers everything with one status, and notes what it was asked with."""

    def _answer(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_CONNECT = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def answering(status: int, body: bytes = b"{}") -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    server.answer, server.asked = (status, body), []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.mark.parametrize("status", [401, 403])
def test_a_private_bucket(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    body = json.dumps({"error": {"code": status, "message": "Anonymous caller does not have access"}}).encode()
    with answering(status, body) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        found = probe.probe_candidate("gs://closed/pi0_libero")
    assert (found["class"], found["listed"]) == (probe.UNKNOWN, False)
    assert f"is in a private bucket: set {stores.GOOGLE_KEY}" in found["reason"]
    assert {authorization for _, authorization in server.asked} == {None}


def test_a_key_file_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for content in (None, "not json", '{"type": "nothing"}'):
        path = tmp_path / "key.json"
        if content is not None:
            path.write_text(content)
        monkeypatch.setenv(stores.GOOGLE_KEY, str(path))
        with pytest.raises(UserError, match=f"{stores.GOOGLE_KEY} names .*key.json, which cannot be used"):
            stores.open_location("gs://bucket/x")


def test_google_credentials_are_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = json.dumps({"access_token": "opened", "expires_in": 3600, "token_type": "Bearer"}).encode()
    denied = json.dumps({"error": {"code": 403, "message": "no"}}).encode()
    with answering(200, token) as google, answering(403, denied) as storage:
        key = {"type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r"}
        (tmp_path / "key.json").write_text(json.dumps(key))
        monkeypatch.setenv(stores.GOOGLE_KEY, str(tmp_path / "key.json"))
        monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", google.url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        found = probe.probe_candidate("gs://closed/pi0_libero")
    assert "Bearer opened" in {authorization for _, authorization in storage.asked}
    assert f"is closed to the account in {stores.GOOGLE_KEY}" in found["reason"]


@pytest.mark.parametrize("uri", ["gs://bucket/pi0_libero", "hf://someone/private"])
def test_stores_go_through_the_proxy_and_its_refusal_is_its_own(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    with answering(407, b"") as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://storage.invalid")
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        close_session()  # the hub's client reads the environment when it is made
        found = probe.probe_candidate(uri)
        assert any(".invalid" in path for path, _ in proxy.asked), "the proxy was not asked"
    assert (found["class"], found["listed"]) == (probe.UNKNOWN, False)
    close_session()
    assert "the proxy refuses or fails on the way to" in found["reason"]
    assert "correct HTTP_PROXY, HTTPS_PROXY or NO_PROXY" in found["reason"]
