"""The policy server: the official websocket protocol, with state per connection and a live event loop.

Knows messages, connections and signals; knows nothing of what the policy computes and imports no torch. One
connection is one session. A bad message or a failing policy ends its own session with a one-line text frame and
close code 1011; the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hmac
import http
import ipaddress
import itertools
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from flashtrail.errors import UserError
from flashtrail.provenance import write_atomic
from flashtrail.serving.protocol import (
    LIBERO_SCHEMA,
    ObservationSchema,
    ProtocolError,
    packb,
    parse_request,
    reply_message,
)
from flashtrail.serving.rounds import Policy, PolicySession, RoundWorker

INSTANCE_HEADER = "X-Flashtrail-Instance"
_DRAIN_S = 4.0  # rounds in flight get this long after SIGTERM; with the closing handshakes it stays under 5 s
_CLOSE_S = 1.0
_LEAVING_REASON = "server leaving"
_ERROR_REASON = "internal error; one line in the previous frame"

log = logging.getLogger("flashtrail.serving")


class ServerStartError(UserError):
    """The server cannot start as asked: port taken, unknown host, or an open bind without a token."""


def check_bind(host: str, token: str | None) -> None:
    """Refuse to listen beyond this machine without a token; ServerStartError says what to do."""
    if token or host == "localhost":
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    raise ServerStartError(
        f"--host {host} is open to other machines and needs a token: give --token-file, and put TLS (a reverse "
        "proxy such as caddy or nginx) before it, or bind 127.0.0.1"
    )


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet: the port is ours, and clients are still refused.

    Raises ServerStartError where it is taken. With port 0 the system chooses one.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, number)
    except OSError as error:
        raise ServerStartError(f"cannot bind {host}: {error.strerror or error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _bind_error(host, port, error) from None
    return sock


def _bind_error(host: str, port: int, error: OSError) -> ServerStartError:
    if error.errno == errno.EADDRINUSE:
        return ServerStartError(f"port {port} on {host} is taken: stop what listens there or give another --port")
    return ServerStartError(f"cannot bind {host}:{port}: {error.strerror or error}")


class PolicyServer:
    """Serves one policy to many connections, one round at a time.

    `handshake_metadata` is the first frame of every connection; official clients expect the empty map. What the
    policy says of itself is at ``GET /metadata``. `sock` is a socket from `reserve_port`; without it `host` and
    `port` are bound at `start`. `token`, if given, is demanded in the Authorization header (``Bearer`` or
    ``Api-Key``) of everything but ``/healthz``.
    """

    def __init__(
        self,
        policy: Policy,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        *,
        sock: socket.socket | None = None,
        schema: ObservationSchema = LIBERO_SCHEMA,
        handshake_metadata: Mapping[str, Any] | None = None,
        instance: str | None = None,
    ) -> None:
        check_bind(host, token)
        self._host, self._port, self._token, self._sock = host, port, token, sock
        self._policy, self._schema, self._instance = policy, schema, instance
        self._handshake = packb(dict(handshake_metadata or {}))
        self._serials = itertools.count(1)
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._worker: RoundWorker | None = None
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port that is really bound (interesting with port 0)."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect: ``ws://host:port``."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"ws://{host}:{self._port}"

    async def start(self) -> None:
        """Listen; return when clients can connect. Raises ServerStartError where the port is taken."""
        sock = self._sock or reserve_port(self._host, self._port)
        self._port = sock.getsockname()[1]
        try:
            self._server = await serve_websocket(
                self._handle,
                sock=sock,
                compression=None,
                process_request=self._answer_http,
                server_header=None,
                open_timeout=10,
                ping_interval=20,
                ping_timeout=60,  # a simulator may hold its interpreter for long while it compiles a scene
                close_timeout=_CLOSE_S,
                max_size=self._schema.max_message_bytes,
                max_queue=2,
                logger=_quiet_logger(),
            )
        except OSError as error:
            sock.close()
            raise _bind_error(self._host, self._port, error) from None
        self._worker = RoundWorker(self._policy)

    async def stop(self) -> bool:
        """Refuse new connections, let rounds in flight answer, close the sessions with 1001.

        Returns False where a round outlived the time given to it; its thread may then still be busy.
        """
        assert self._server is not None and self._worker is not None
        self._draining = True
        self._server.close(close_connections=False)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _DRAIN_S)
        closing = [connection.close(1001, _LEAVING_REASON) for connection in self._server.connections]
        await asyncio.gather(*closing, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), _CLOSE_S)
        return self._worker.stop(0.1)

    # --- HTTP ---

    def _answer_http(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/healthz":
            response = connection.respond(http.HTTPStatus.OK, "OK\n")
            if self._instance:
                response.headers[INSTANCE_HEADER] = self._instance
            return response
        if self._token and not _authorized(request.headers, self._token):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a valid token is required\n")
        if path == "/metadata":
            body = (json.dumps(dict(self._policy.metadata), sort_keys=True, default=str) + "\n").encode()
            headers = Headers([("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
            headers["Connection"] = "close"
            return Response(200, "OK", headers, body)
        return None

    # --- sessions ---

    async def _handle(self, connection: ServerConnection) -> None:
        serial = next(self._serials)
        session = PolicySession()
        timing: dict[str, float] = {}
        log.debug("session %d opened", serial)
        try:
            await connection.send(self._handshake)
            while not self._draining:
                start = time.perf_counter()
                raw = await connection.recv()
                if self._draining:
                    break
                with self._round_in_flight():
                    timing = await self._round(connection, session, raw, start, timing)
            await connection.close(1001, _LEAVING_REASON)
        except ConnectionClosed:
            pass
        except ProtocolError as error:
            await self._refuse(connection, serial, str(error))
        except Exception as error:
            # The cause stays here: its text may hold paths, and a traceback is nobody else's business.
            log.exception("session %d: the policy failed", serial)
            await self._refuse(
                connection, serial, f"policy failed: {type(error).__name__} (session {serial}, see server log)"
            )
        finally:
            log.debug("session %d closed", serial)

    async def _round(
        self,
        connection: ServerConnection,
        session: PolicySession,
        raw: bytes | str,
        start: float,
        previous: Mapping[str, float],
    ) -> dict[str, float]:
        """Answer one request; return the `prev_*` timings for the next reply (definitions: FLASH wire facts)."""
        assert self._worker is not None
        received, received_at = time.perf_counter(), time.time()
        request = parse_request(raw, self._schema)
        unpacked = time.perf_counter()
        outcome = await self._worker.submit(session, request)
        packing = time.perf_counter()
        packb(reply_message(outcome.result, None))  # its time must be known before the reply that reports it
        pack_ms = (time.perf_counter() - packing) * 1000
        unpack_ms = (unpacked - received) * 1000
        reply = reply_message(
            outcome.result,
            {
                "ws_recv_ms": (received - start) * 1000,
                "ws_unpack_ms": unpack_ms,
                "infer_ms": outcome.infer_ms,
                "policy_time_ms": outcome.infer_ms,
                "server_recv_timestamp_s": received_at,
                **previous,
                "ws_pack_ms": pack_ms,
                "serve_time_ms": unpack_ms + outcome.infer_ms + pack_ms,
                "server_response_timestamp_s": time.time(),
            },
        )
        payload = packb(reply)
        sending = time.perf_counter()
        await connection.send(payload)
        sent = time.perf_counter()
        return {"prev_total_ms": (sent - start) * 1000, "prev_ws_send_ms": (sent - sending) * 1000}

    @contextlib.contextmanager
    def _round_in_flight(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _refuse(self, connection: ServerConnection, serial: int, line: str) -> None:
        log.warning("session %d ended: %s", serial, line)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(line)
        await connection.close(1011, _ERROR_REASON)


def _authorized(headers: Headers, token: str) -> bool:
    values = headers.get_all("Authorization")
    scheme, _, given = (values[0] if len(values) == 1 else "").partition(" ")
    known = scheme.lower() in ("bearer", "api-key")
    return hmac.compare_digest(given.strip().encode(), token.encode()) and known


@functools.cache
def _quiet_logger() -> logging.Logger:
    """Silence the library: it reports every health probe, and what breaks a session is logged in `_handle`."""
    logger = logging.getLogger("flashtrail.serving.websockets")
    logger.setLevel(logging.CRITICAL)
    return logger


# --- running ---


def serve(
    policy: Policy,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    sock: socket.socket | None = None,
    ready_file: str | Path | None = None,
    instance: str | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT, then drain and return; the value is `PolicyServer.stop`'s.

    `ready_file` is written (``host port``) once clients can connect.
    """
    server = PolicyServer(policy, host, port, token, sock=sock, instance=instance)
    return asyncio.run(_serve_until_signalled(server, ready_file))


async def _serve_until_signalled(server: PolicyServer, ready_file: str | Path | None) -> bool:
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    await server.start()
    log.info("serving on %s (process %d)", server.url, os.getpid())
    if ready_file is not None:
        with write_atomic(ready_file) as path:
            path.write_text(f"{server._host} {server.port}\n")
    await leave.wait()
    log.info("leaving: rounds in flight are answered first")
    drained = await server.stop()
    log.info("left" if drained else "left while a round was still running")
    return drained


@contextlib.contextmanager
def running(policy: Policy, **options: Any) -> Iterator[PolicyServer]:
    """Serve from a thread of this process, on a free loopback port, while the block runs; for tests and tools.

    `options` are those of `PolicyServer`.
    """
    started, failures = threading.Event(), list[BaseException]()
    handle: dict[str, Any] = {}

    async def main() -> None:
        server = PolicyServer(policy, **{"port": 0, **options})
        leave = asyncio.Event()
        handle.update(server=server, leave=leave, loop=asyncio.get_running_loop())
        await server.start()
        started.set()
        await leave.wait()
        await server.stop()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work, name="policy-server", daemon=True)
    thread.start()
    started.wait()
    if failures:
        raise failures[0]
    try:
        yield handle["server"]
    finally:
        handle["loop"].call_soon_threadsafe(handle["leave"].set)
        thread.join()
