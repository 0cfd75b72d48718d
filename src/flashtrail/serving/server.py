"""The policy server: the official websocket protocol, with state per connection and a responsive event loop.

One connection is one session. A bad message or a failing policy ends its own session with a one-line text frame and
close code 1011; the others go on. The session of a client that disconnects, stalls or stays silent is freed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import itertools
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from flashtrail.base.provenance import write_atomic
from flashtrail.policies.protocol import Refusal
from flashtrail.serving.binding import (
    TLS_HINT,
    ServerStartError,
    bind_error,
    check_bind,
    is_loopback,
    refusal,
    reserve_port,
)
from flashtrail.serving.connection import FileLimitHandler, PatientConnection
from flashtrail.serving.health import SessionHealth
from flashtrail.serving.metrics import CONTENT_TYPE, ServerMetrics
from flashtrail.serving.protocol import (
    LIBERO_SCHEMA,
    ProtocolError,
    Request,
    ResultError,
    pack_result,
    packb,
    parse_request,
    reply_message,
)
from flashtrail.serving.rounds import MAX_BATCH, Policy, PolicySession, RoundResult, RoundWorker

INSTANCE_HEADER = "X-Flashtrail-Instance"
_DRAIN_S = 3.0  # rounds in flight get this long after SIGTERM; with the closing handshakes it stays under 5 s
_CLOSE_S = 0.75
_LEAVING_REASON = "server leaving"
_ERROR_REASON = "internal error; one line in the previous frame"

log = logging.getLogger("flashtrail.serving")


@dataclass(frozen=True)
class Limits:
    """What the server grants: open sessions, seconds without a whole message, rounds in a pass, passes at once, pings.

    A peer that does not answer a ping within `ping_timeout_s` is dropped: half-open sockets, slow senders in the middle
    of a message and readers that do not read all end there. It is long because a simulator may hold its interpreter
    while it compiles a scene.
    """

    max_sessions: int = 64
    idle_s: float = 900.0
    max_batch: int = MAX_BATCH
    workers: int = 1
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ServerStartError(f"{field.name} {getattr(self, field.name)} must be more than 0")


class PolicyServer:
    """Serves one policy to many connections; rounds that come together may share a pass of the device.

    The first frame of every connection is the empty map, as official clients expect. What the policy says of itself
    is at ``GET /metadata``. `sock` is a socket from `reserve_port`; without it `host` and
    `port` are bound at `start`. `token`, if given, is demanded in the Authorization header (``Bearer`` or
    ``Api-Key``) of everything but ``/healthz``. `names`: those that clients may call this machine by, beside
    ``localhost``, `host` and the address they reach it at (``Host``). Once started, `port` is the port bound (with port
    0 the system's choice); `sessions` counts the open ones.
    """

    def __init__(
        self,
        policy: Policy,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        *,
        sock: socket.socket | None = None,
        instance: str | None = None,
        limits: Limits | None = None,
        names: Sequence[str] = (),
    ) -> None:
        check_bind(host, token)
        self._names = (host, *names)
        self._limits = limits or Limits()
        self.metrics = ServerMetrics()
        self.sessions = 0
        self.host, self.port, self._token, self._sock = host, port, token, sock
        self._policy, self._instance = policy, instance
        self._serials = itertools.count(1)
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._worker: RoundWorker | None = None
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where clients connect: ``ws://host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}"

    async def start(self) -> None:
        """Listen; return when clients can connect. Raises ServerStartError where the port is taken."""
        sock = self._sock or reserve_port(self.host, self.port)
        self.port = sock.getsockname()[1]
        asyncio.get_running_loop().set_exception_handler(FileLimitHandler())
        try:
            self._server = await serve_websocket(
                self._handle,
                sock=sock,
                compression=None,
                process_request=self._answer_http,
                process_response=_without_body,
                server_header=None,
                open_timeout=10,
                ping_interval=self._limits.ping_interval_s,
                ping_timeout=self._limits.ping_timeout_s,
                close_timeout=_CLOSE_S,
                max_size=LIBERO_SCHEMA.max_message_bytes,
                max_queue=2,
                create_connection=PatientConnection,
                logger=_quiet_logger(),
            )
        except OSError as error:
            sock.close()
            raise bind_error(self.host, self.port, error) from None
        self._worker = RoundWorker(self._policy, lambda: self.sessions, self._limits.max_batch, self._limits.workers)

    async def stop(self) -> bool:
        """Refuse new connections, let rounds in flight answer, close the sessions with 1001.

        Returns False where a round outlived the time given to it; its thread may then still be busy.
        """
        assert self._server is not None and self._worker is not None
        self._draining = True
        self._server.close(close_connections=False)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _DRAIN_S)
        open_still = list(self._server.connections)
        closing = [asyncio.ensure_future(connection.close(1001, _LEAVING_REASON)) for connection in open_still]
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_S)
        for connection in open_still:  # a peer that does not read cannot read the close frame
            connection.transport.abort()
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
        here = str((connection.local_address or ("",))[0])  # the address that the client reached us at
        if (refused := refusal(request.headers, self._token, (*self._names, here))) is not None:
            self.metrics.error("unauthorized")
            response = connection.respond(refused[0], f"{refused[1]}\n")
            if refused[0] == http.HTTPStatus.UNAUTHORIZED:
                response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if path == "/metadata":
            return _page(
                "application/json", json.dumps(dict(self._policy.metadata), sort_keys=True, default=str) + "\n"
            )
        if path == "/metrics":
            return _page(CONTENT_TYPE, self.metrics.page())
        if self.sessions >= self._limits.max_sessions:
            self.metrics.error("full")
            response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{self._full}\n")
            response.headers["Retry-After"] = "5"
            return response
        return None

    @property
    def _full(self) -> str:
        return f"all {self._limits.max_sessions} sessions are taken (--max-sessions)"

    # --- sessions ---

    async def _handle(self, connection: ServerConnection) -> None:
        if self.sessions >= self._limits.max_sessions:  # several connected at the same time
            self.metrics.error("full")
            await connection.close(1013, self._full)
            return
        serial = next(self._serials)
        self.sessions += 1
        health = self.metrics.opened()
        log.debug("session %d opened", serial)
        gone = asyncio.ensure_future(connection.wait_closed())
        try:
            await connection.send(packb({}))
            await self._converse(connection, gone, health)
            await connection.close(1001, _LEAVING_REASON)
        except TimeoutError:
            self.metrics.error("idle")
            log.info("session %d dropped: no message for %g s", serial, self._limits.idle_s)
            # No text frame: to a client it would be the answer to its next request.
            await connection.close(1001, f"idle for {self._limits.idle_s:g} s: session dropped")
        except ConnectionClosed as error:
            self._note_loss(serial, error)
        except ResultError as error:
            self.metrics.error("policy")
            await self._refuse(connection, serial, str(error))
        except ProtocolError as error:
            self.metrics.error("protocol")
            await self._refuse(connection, serial, str(error))
        except Refusal as error:
            self.metrics.error("policy")
            await self._refuse(connection, serial, f"policy refused: {error}")
        except Exception as error:
            # The cause stays in the log: its text may hold paths, and a traceback must not cross the wire.
            log.exception("session %d: the policy failed", serial)
            self.metrics.error("policy")
            await self._refuse(
                connection, serial, f"policy failed: {type(error).__name__} (session {serial}, see server log)"
            )
        finally:
            gone.cancel()
            self.sessions -= 1
            self.metrics.closed(health)
            log.debug("session %d closed", serial)

    async def _converse(self, connection: ServerConnection, gone: asyncio.Future[None], health: SessionHealth) -> None:
        """Answer one request after another until the server leaves; TimeoutError if none comes for too long."""
        session = PolicySession()
        timing: dict[str, float] = {}
        while not self._draining:
            start = time.perf_counter()
            async with asyncio.timeout(self._limits.idle_s):
                raw = await connection.recv()
            if self._draining:
                break
            with self._round_in_flight():
                timing = await self._round(connection, session, raw, start, timing, gone, health)

    def _note_loss(self, serial: int, error: ConnectionClosed) -> None:
        sent = error.sent
        if sent is not None and (sent.code == CloseCode.POLICY_VIOLATION or "fragments" in sent.reason):
            self.metrics.error("flood")
            log.warning("session %d ended: %s", serial, sent.reason)
        elif sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG:
            self.metrics.error("size")
            log.warning("session %d ended: a message over %d bytes", serial, LIBERO_SCHEMA.max_message_bytes)
        elif error.rcvd is None or error.rcvd.code not in (1000, 1001):
            self.metrics.error("lost")

    async def _infer(self, session: PolicySession, request: Request, gone: asyncio.Future[None]) -> RoundResult | None:
        """Return the round's result; None where the client left first: its round, if still waiting, is not run."""
        assert self._worker is not None
        answer = asyncio.ensure_future(self._worker.submit(session, request))
        try:
            waited_for: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            answer.cancel()

    async def _round(
        self,
        connection: ServerConnection,
        session: PolicySession,
        raw: bytes | str,
        start: float,
        previous: Mapping[str, float],
        gone: asyncio.Future[None],
        health: SessionHealth,
    ) -> dict[str, float]:
        """Answer one request; return the `prev_*` timings for the next reply (definitions: FLASH wire facts)."""
        received, received_at = time.perf_counter(), time.time()
        request = parse_request(raw)
        unpacked = time.perf_counter()
        outcome = await self._infer(session, request, gone)
        if outcome is None:
            return {}  # the next `recv` raises ConnectionClosed
        packing = time.perf_counter()
        pack_result(outcome.result)  # its time must be known before the reply that reports it
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
        self.metrics.round(outcome.wait_ms, outcome.infer_ms, outcome.result["policy_timing"], sent - received)
        health.note(request, outcome.result)  # the answer is on its way: it takes none of its time
        self.metrics.looked(health)
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


def _without_body(connection: ServerConnection, request: HttpRequest, response: Response) -> Response | None:
    """Answer HEAD as GET, without the body (its length stays in the headers)."""
    if request.method != "HEAD":
        return None
    return Response(response.status_code, response.reason_phrase, response.headers, b"")


def _page(content_type: str, body: str | bytes) -> Response:
    body = body.encode() if isinstance(body, str) else body
    headers = Headers([("Content-Type", content_type), ("Content-Length", str(len(body)))])
    headers["Connection"] = "close"
    return Response(200, "OK", headers, body)


@functools.cache
def _quiet_logger() -> logging.Logger:
    """Silence the library: it reports every health probe, and what breaks a session is logged in `_handle`."""
    logger = logging.getLogger("flashtrail.serving.websockets")
    logger.setLevel(logging.CRITICAL)
    return logger


async def serve(server: PolicyServer, ready_file: str | Path | None = None) -> bool:
    """Serve until SIGTERM or SIGINT, then drain and return; the value is `PolicyServer.stop`'s.

    `ready_file` is written (``host port``) once clients can connect.
    """
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    await server.start()
    log.info("serving on %s (process %d)", server.url, os.getpid())
    if not is_loopback(server.host):
        log.warning("the token crosses the network in plain text: put TLS before this port (%s)", TLS_HINT)
    if ready_file is not None:
        with write_atomic(ready_file) as path:
            path.write_text(f"{server.host} {server.port}\n", encoding="utf-8")
    await leave.wait()
    log.info("stopping: rounds in flight are answered first")
    drained = await server.stop()
    log.info("stopped" if drained else "stopped while a round was still running")
    return drained
