"""Who may come in: where a server may listen without a token, web pages, and both clients behind TLS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading

import numpy as np
import pytest
from serving.in_process import running
from serving.test_server import get
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flashtrail.base.errors import UserError
from flashtrail.serving import TOKEN_VARIABLE, command
from flashtrail.serving.binding import ServerStartError, check_bind, is_loopback, reserve_port
from flashtrail.serving.client import PolicyClient, ServerUnavailable
from flashtrail.serving.server import PolicyServer

OPEN = ["0.0.0.0", "::", "0", "", "192.0.2.1", "127.1", "::ffff:0.0.0.0", "::ffff:192.0.2.1", "example.org", "a" * 70]
CLOSED = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST"]


@pytest.mark.parametrize("host", OPEN)
def test_open_bind_without_a_token_is_refused_and_says_how(policy, host) -> None:
    with pytest.raises(
        ServerStartError, match=r"needs a token: give --token-file, and put TLS before it \(such as caddy"
    ):
        PolicyServer(policy, host, 0)
    check_bind(host, "token")


@pytest.mark.parametrize("host", CLOSED)
def test_loopback_needs_no_token(host) -> None:
    check_bind(host, None)


def test_localhost_that_is_another_machine_needs_a_token(monkeypatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(0, 0, 0, "", (a, 0)) for a in ("127.0.0.1", "192.0.2.1")])
    assert not is_loopback("localhost")


@pytest.mark.parametrize("host", ["", "a" * 70, "no such host"])
def test_a_host_that_is_none_is_one_line(host) -> None:
    with pytest.raises(ServerStartError, match="cannot bind '"):
        reserve_port(host, 0)


def test_a_web_page_may_not_connect(policy, server) -> None:
    """A browser lets any page open a websocket to loopback; only browsers say Origin."""
    with pytest.raises(InvalidStatus) as refused, connect(server.url, proxy=None, origin="http://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b"web pages may not connect (Origin)\n"
    assert get(server, "/metadata", Origin="http://evil.example")[0] == 403
    assert 'errors_total{kind="unauthorized"} 2.0' in get(server, "/metrics")[1]


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", "schlüssel".encode(), b"two\nlines"])
def test_a_token_file_that_holds_no_token_is_one_line(tmp_path, content) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UserError, match=r"token(-file .*| )"):
        command._token(tmp_path / "token")


def test_the_line_end_is_no_part_of_a_token(tmp_path, monkeypatch) -> None:
    (tmp_path / "token").write_text("s3cret\r\n")
    monkeypatch.setenv(TOKEN_VARIABLE, " s3cret\n")
    assert command._token(tmp_path / "token") == command._token(None) == "s3cret"
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert command._token(None) is None


# --- TLS ---


def certificate(directory) -> str:
    """Write a certificate for this machine, with its key, that signs itself."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes the certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName(names), False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "cert.pem").write_bytes(made.public_bytes(pem) + plain)
    return str(directory / "cert.pem")


@contextlib.contextmanager
def tls_before(port: int, pem: str):
    """A reverse proxy in little: takes TLS off, and passes on the bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    # A session ticket wakes the client's reading thread in the middle of its writing: Python 3.11 lets both into one
    # OpenSSL connection without a lock, and about one handshake of a hundred never ended.
    context.num_tickets = 0
    ready, told = threading.Event(), {}

    async def pump(reader, writer) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def passed_on(reader, writer) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # the loop ends
            await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    async def main() -> None:
        proxy = await asyncio.start_server(passed_on, "127.0.0.1", 0, ssl=context)
        told.update(loop=asyncio.get_running_loop(), leave=asyncio.Event(), port=proxy.sockets[0].getsockname()[1])
        ready.set()
        await told["leave"].wait()
        proxy.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield f"wss://localhost:{told['port']}"
    told["loop"].call_soon_threadsafe(told["leave"].set)
    thread.join(10)


@pytest.fixture
def behind_tls(policy, tmp_path, monkeypatch):
    pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", pem)
    monkeypatch.setenv("no_proxy", "localhost")
    with running(policy, token="s3cret") as server, tls_before(server.port, pem) as url:
        yield url


def test_our_client_behind_tls_learns_what_the_server_says_of_itself(behind_tls, policy, observation) -> None:
    with PolicyClient(behind_tls, token="s3cret\n") as client:
        assert client.infer(observation).accepted_prefix_len == 1
        assert client.metadata == policy.metadata
    with pytest.raises(ServerUnavailable, match="requires a token"):
        PolicyClient(behind_tls)


def test_the_official_client_behind_tls(behind_tls, observation) -> None:
    pytest.importorskip("openpi_client", reason="openpi-client is not installed in this environment")
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    client = WebsocketClientPolicy(behind_tls, api_key="s3cret")
    np.testing.assert_array_equal(client.infer(observation)["actions"], np.ones((50, 7)))
    client._ws.close()
    with pytest.raises(InvalidStatus):
        WebsocketClientPolicy(behind_tls)
