"""Unasked work is rationed: pings, pongs, crumbs of messages, requests on one connection; and what HTTP is answered."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from serving.in_process import running
from serving.test_limits import handshaken, metrics, opened, until
from serving.test_server import ask, get
from websockets.asyncio import messages

from flashtrail.serving import connection
from flashtrail.serving.client import PolicyClient, ServerUnavailable
from flashtrail.serving.connection import FLOOD, SLICE, SMALL_FRAMES_AT_ONCE
from flashtrail.serving.protocol import packb, unpackb

FLOODER = Path(__file__).with_name("flooder.py")
PING, PONG, EMPTY_TEXT = b"\x89\x81\0\0\0\0x", b"\x8a\x80\0\0\0\0", b"\x01\x80\0\0\0\0"
CRUMB = b"\x00\x80\0\0\0\0"


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    monkeypatch.setattr(connection, "HELD_S", 0.3)


def said_until_closed(sock: socket.socket) -> bytes:
    said = b""
    try:
        while part := sock.recv(65536):
            said += part
    except OSError:
        pass
    return said


def test_a_client_that_floods_with_pings_and_reads_is_cut_and_others_go_on(policy, observation) -> None:
    """The flooder is a process of its own; the session beside it ends all its rounds while the flood goes on."""
    with running(policy) as server, opened(server) as healthy:
        assert healthy.recv(timeout=10) == b"\x80"
        command = [sys.executable, str(FLOODER), str(server.port), "600", "again"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as flooder:
            assert flooder.stdout.readline() == "flooding\n"
            try:
                for number in range(1, 31):
                    assert ask(healthy, observation)["actions"][0, 0] == number
                assert flooder.poll() is None, "the flood ended first: nothing was shown"
                until(lambda: metrics(server)['flashtrail_errors_total{kind="flood"}'] >= 2, 60)
            finally:
                flooder.kill()
        assert ask(healthy, observation)["actions"][0, 0] == 31


def test_a_flooder_is_told_why_and_its_answered_pings_are_few(policy) -> None:
    with running(policy) as server:
        done = subprocess.run([sys.executable, str(FLOODER), str(server.port), "60"], capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["close"] == [1008, FLOOD]
        assert SMALL_FRAMES_AT_ONCE <= told["pongs"] <= SMALL_FRAMES_AT_ONCE + SLICE / 6 + 1
        until(lambda: server.sessions == 0)
        assert metrics(server)['flashtrail_errors_total{kind="flood"}'] == 1


@pytest.mark.parametrize("start", [b"", EMPTY_TEXT], ids=["no message", "in a message"])
@pytest.mark.parametrize("frame", [PING, PONG, CRUMB], ids=["ping", "pong", "crumb"])
def test_every_kind_of_small_frame_is_rationed(policy, start, frame) -> None:
    if frame is CRUMB and not start:
        pytest.skip("a crumb belongs to a message")
    with running(policy) as server, handshaken(server) as sock:
        sock.sendall(start + frame * (2 * SMALL_FRAMES_AT_ONCE))
        assert FLOOD.encode() in said_until_closed(sock)
        until(lambda: server.sessions == 0)


def test_keeping_a_connection_alive_and_large_fragments_cost_nothing(policy, observation) -> None:
    whole = packb(observation)
    with running(policy) as server, opened(server) as other:
        assert other.recv(timeout=10) == b"\x80"
        for _ in range(4):  # 300 fragments each
            other.send(whole[i : i + 1024] for i in range(0, len(whole), 1024))
            assert unpackb(other.recv(timeout=20))["accepted_prefix_len"]
            assert all(other.ping().wait(10) for _ in range(20))


def test_too_many_fragments_are_not_logged_as_a_large_message(policy, monkeypatch, caplog) -> None:
    monkeypatch.setattr(messages, "MAX_FRAGMENTS", 50)  # else 4096, which takes a client that is not cut off before
    with caplog.at_level(logging.WARNING, "flashtrail.serving"), running(policy) as server, handshaken(server) as sock:
        sock.sendall(b"\x02\x80\0\0\0\0" + CRUMB * 60)
        assert b"too many fragments" in said_until_closed(sock)
        until(lambda: server.sessions == 0)
        page = metrics(server)
    assert page['flashtrail_errors_total{kind="flood"}'] == 1 and page['flashtrail_errors_total{kind="size"}'] == 0
    assert "too many fragments" in caplog.text and "a message over" not in caplog.text


def test_one_connection_gives_one_answer_to_http_at_most(policy) -> None:
    with running(policy) as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(b"GET /metadata HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
        assert said_until_closed(sock).count(b"HTTP/1.1") <= 1


# --- HTTP ---


def request(server, method: str, path: str, body: bytes | None = None, **headers: str):
    asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    asked.request(method, path, body=body, headers=headers)
    response = asked.getresponse()
    answer = response.status, dict(response.getheaders()), response.read()
    asked.close()
    return answer


@pytest.mark.parametrize("path", ["/healthz", "/metadata", "/metrics", "/"])
def test_head_is_get_without_a_body(server, path) -> None:
    status, headers, body = request(server, "HEAD", path)
    got, fully, page = request(server, "GET", path)
    assert body == b"" and len(page) > 0
    assert (status, headers["Content-Type"]) == (got if path != "/" else 405, fully["Content-Type"])
    if path in ("/healthz", "/metadata"):
        assert headers["Content-Length"] == fully["Content-Length"] == str(len(page))


@pytest.mark.parametrize("body", [None, b"x", b"y" * 100_000])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_are_told_what_is_allowed(server, method, body) -> None:
    status, headers, page = request(server, method, "/metadata", body)
    assert (status, headers["Allow"], page) == (405, "GET, HEAD", b"only GET and HEAD are answered\n")


def test_a_method_in_pieces_is_read_whole(server) -> None:
    for pieces, status in (
        ((b"P", b"O", b"ST / HTTP/1.1\r\n\r\n"), b"405"),
        ((b"G", b"ET /healthz HTTP/1.1\r\n\r\n"), b"200"),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                sock.sendall(piece)
            assert said_until_closed(sock).split(b" ")[1] == status


# --- Host ---


@pytest.mark.parametrize("path", ["/metadata", "/metrics", "/"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.0.2.1",
        "[::2]",
        "",
        "a b",
        "127.0.0.1@evil.example",
    ],
)
def test_a_page_whose_name_was_made_to_lead_here_reads_nothing(server, host, path) -> None:
    status, page = get(server, path, Host=host)
    assert status == 421 and "--allow-host" in page and "scripted" not in page


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "127.8.8.8", "[::1]:8000", "[::ffff:127.0.0.1]"],
)
def test_names_of_loopback_are_ours(server, host) -> None:
    assert get(server, "/metadata", Host=host)[0] == 200


def test_a_name_that_is_allowed_is_ours_and_both_clients_are_told_if_not(policy, observation) -> None:
    with running(policy, names=["Robots.example.org", "192.0.2.7"]) as server:
        assert get(server, "/metadata", Host="robots.example.org:443")[0] == 200
        assert get(server, "/metadata", Host="192.0.2.7")[0] == 200
        assert get(server, "/metadata", Host="other.example.org")[0] == 421
        assert get(server, "/healthz", Host="other.example.org")[0] == 200


def test_two_hosts_or_none_are_refused(server) -> None:
    for lines in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
            sock.sendall(b"GET /metadata HTTP/1.1\r\n" + lines + b"\r\n")
            assert b" 421 " in said_until_closed(sock)[:20]


def test_our_client_says_at_once_that_the_server_has_another_name(policy, monkeypatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *words, **more: real("127.0.0.1", *words, **more))
    with running(policy) as server, pytest.raises(ServerUnavailable, match="--allow-host NAME"):
        PolicyClient(f"ws://robots.example:{server.port}", timeout_s=600)


def test_the_address_that_a_client_reached_is_a_name_of_ours(policy) -> None:
    """Bound to all addresses, with a token: whoever came to one of them may call us by it, and by no other."""
    with running(policy, host="0.0.0.0", token="s3cret") as server:
        allowed = {"Authorization": "Bearer s3cret"}
        assert get(server, "/metadata", Host="127.0.0.1", **allowed)[0] == 200
        assert get(server, "/metadata", Host="192.0.2.1", **allowed)[0] == 421
