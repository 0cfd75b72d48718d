"""A synchronous client of the official protocol, for rollouts, profiling and tools.

Two kinds of failure, which the tables keep apart: `PolicyError` is the server's answer to this request,
`ServerUnavailable` is infrastructure and never a policy's failure.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.proxy import get_proxy
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from flashtrail.base.errors import UserError, cause
from flashtrail.serving import TOKEN_VARIABLE
from flashtrail.serving.binding import is_loopback
from flashtrail.serving.protocol import (
    EXECUTED_STEPS_KEY,
    NOISE_SEED_KEY,
    RESET_KEY,
    NotFlashError,
    ProtocolError,
    packb,
    parse_reply,
    unpackb,
)

_MAX_REPLY_BYTES, _MAX_METRICS_BYTES = 16 * 2**20, 2**18
_RETRY_S = 0.25
_PING_INTERVAL_S = 20.0
_HTTP_TIMEOUT_S = 5.0
_NO_SUCH_PAGE = (400, 404, 426)  # the official server knows no page but /healthz: 426 from websockets' own refusal
_METADATA_REMEDY = "correct HTTP_PROXY, HTTPS_PROXY or NO_PROXY, or see the server's log"


class PolicyError(UserError):
    """The server refused the request, or its policy failed on it or returned actions that are not finite."""


class ServerUnavailable(UserError):
    """No server, a lost connection, no answer in time, or an answer outside the protocol: infrastructure."""


@dataclass(frozen=True)
class Reply:
    """One round's answer.

    `actions` (H, D) float64 in the environment's units; `accepted_prefix_len` leading ones are verified;
    `policy_timing` and `server_timing` as sent (ms; empty where a server sends none); `roundtrip_ms` from before
    packing the request to after unpacking the reply.
    """

    actions: np.ndarray
    accepted_prefix_len: int
    policy_timing: dict[str, Any]
    server_timing: dict[str, Any]
    roundtrip_ms: float


class PolicyClient:
    """One session with a policy server at `url` (``ws://host:port``); usable as a context manager.

    Connecting is retried while the server refuses, up to `timeout_s`; an answer may take `reply_timeout_s`, and that to
    a ping `ping_timeout_s` (an official server answers none while it infers, and its first round may compile). After
    any error the session is over: its state on the server is gone, so open a new client and start a new episode.
    Actions that are not finite are such an error, unless `finite` is False: then the caller has to hold them.
    Not safe for use from several threads at once.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 60.0,
        *,
        reply_timeout_s: float = 600.0,
        ping_timeout_s: float = 60.0,
        token: str | None = None,
        finite: bool = True,
    ) -> None:
        self.url, self._finite = url, finite
        self._ping_timeout_s = ping_timeout_s
        self._headers = {"Authorization": f"Bearer {token.strip()}"} if token else {}
        self._reply_timeout_s = reply_timeout_s
        self._stack = contextlib.ExitStack()
        self._connection: ClientConnection | None = self._connect(timeout_s)
        self._handshake = self._read_handshake()

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server says of its policy: the handshake frame, and ``GET /metadata`` where there is one.

        Raises ServerUnavailable if that request fails: such a server is not taken for an official one.
        """
        return {**self._handshake, **_fetch_metadata(self.url, self._headers)}

    def infer(
        self,
        obs: Mapping[str, Any],
        executed_steps: int | None = None,
        reset: bool = False,
        noise_seed: list[int] | int | None = None,
    ) -> Reply:
        """Send one observation and wait for the reply.

        `executed_steps` says how many actions of the previous reply were executed; `reset` begins an episode;
        `noise_seed` (entropy words) fixes the flow noise where the server supports it, others ignore it. Raises
        PolicyError, ServerUnavailable, ProtocolError where `obs` cannot be packed, or NotFlashError.
        """
        request = dict(obs)
        if executed_steps is not None:
            request[EXECUTED_STEPS_KEY] = int(executed_steps)
        if reset:
            request[RESET_KEY] = True
        if noise_seed is not None:
            request[NOISE_SEED_KEY] = noise_seed
        start = time.perf_counter()
        payload = packb(request)
        answer = self._exchange(payload)
        reply = self._parse(answer)
        return Reply(**reply, roundtrip_ms=(time.perf_counter() - start) * 1000)

    def close(self) -> None:
        """End the session; safe to call twice."""
        self._connection = None
        with contextlib.suppress(OSError, WebSocketException):
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _connect(self, timeout_s: float) -> ClientConnection:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self._stack.enter_context(
                    connect(
                        self.url,
                        compression=None,
                        max_size=_MAX_REPLY_BYTES,
                        additional_headers=self._headers,
                        proxy=proxy_of(self.url),
                        open_timeout=max(0.1, min(10.0, deadline - time.monotonic())),
                        ping_interval=_PING_INTERVAL_S,
                        ping_timeout=self._ping_timeout_s,
                        close_timeout=2,
                    )
                )
            except InvalidStatus as error:
                status = error.response.status_code
                if status == 401:
                    raise ServerUnavailable(f"{self.url} requires a token (HTTP 401): set {TOKEN_VARIABLE}") from None
                body = (error.response.body or b"").decode("utf-8", "replace").strip()
                if status == 421:
                    raise ServerUnavailable(f"{self.url}: {body[:200]} (HTTP 421)") from None
                problem: Exception = error if status != 503 else OSError(cause(body) or "HTTP 503")
            except (OSError, InvalidHandshake, EOFError, ConnectionClosed) as error:
                problem = error
            except (WebSocketException, ValueError) as error:
                raise ServerUnavailable(f"{self.url} cannot be used: {error}") from None
            if time.monotonic() + _RETRY_S > deadline:
                raise ServerUnavailable(
                    f"no policy server at {self.url} within {timeout_s:g} s ({type(problem).__name__}: {problem})"
                ) from None
            time.sleep(_RETRY_S)

    def _read_handshake(self) -> dict[str, Any]:
        frame = self._receive(_HTTP_TIMEOUT_S * 2)
        try:
            if isinstance(frame, bytes) and isinstance(metadata := unpackb(frame, _MAX_REPLY_BYTES), dict):
                return metadata
        except ProtocolError:
            pass
        self.close()
        raise ServerUnavailable(f"{self.url} is not a policy server: its first frame is not a metadata map")

    def _exchange(self, payload: bytes) -> bytes | str:
        if self._connection is None:
            raise ServerUnavailable(f"the session with {self.url} is over: open a new client")
        try:
            self._connection.send(payload)
        except ConnectionClosed:
            pass  # the server may have said why before it closed: read that first
        except OSError as error:
            self.close()
            raise ServerUnavailable(f"lost the connection to {self.url}: {error}") from None
        return self._receive(self._reply_timeout_s)

    def _receive(self, timeout_s: float) -> bytes | str:
        assert self._connection is not None
        try:
            return self._connection.recv(timeout=timeout_s)
        except TimeoutError:
            message = f"no answer from {self.url} within {timeout_s:g} s"
        except ConnectionClosed as error:
            frame = error.rcvd
            why = f"closed with {frame.code} {frame.reason}".strip() if frame else "connection lost"
            message = f"lost the session with {self.url}: {why}"
        except OSError as error:
            message = f"lost the connection to {self.url}: {error}"
        except BaseException:
            self.close()  # interrupted: an answer that arrives later must not meet the next request
            raise
        self.close()
        raise ServerUnavailable(message)

    def _parse(self, answer: bytes | str) -> dict[str, Any]:
        if isinstance(answer, str):
            self.close()
            raise PolicyError(cause(answer) or "(empty error frame)")  # the official server sends a traceback
        try:
            reply = parse_reply(answer, _MAX_REPLY_BYTES)
        except NotFlashError:
            self.close()
            raise NotFlashError(
                f"{self.url} is not a FLASH server: its replies lack accepted_prefix_len (how many actions to execute)"
            ) from None
        except ProtocolError as error:
            self.close()
            raise ServerUnavailable(f"{self.url} sent a bad reply: {error}") from None
        if self._finite and not np.isfinite(reply["actions"]).all():
            self.close()
            raise PolicyError("actions: the policy returned a value that is not finite")
        return reply


def healthy(host: str, port: int, timeout_s: float = 2.0) -> Mapping[str, str] | None:
    """Return the headers of ``GET /healthz`` (lower-case names) if it answers 200, else None; never raises."""
    try:
        status, headers, _ = _http_get(host, port, "/healthz", {}, timeout_s)
    except (OSError, http.client.HTTPException):
        return None
    return headers if status == 200 else None


def fetch_metrics(url: str, token: str | None = None) -> bytes:
    """Return the server's /metrics page, of at most _MAX_METRICS_BYTES; ServerUnavailable says why there is none."""
    page = _fetch(url, "/metrics", {"Authorization": f"Bearer {token.strip()}"} if token else {})
    if page is None:
        raise ServerUnavailable(f"{url} has no /metrics page, as official servers have none: use flashtrail serve")
    return page[:_MAX_METRICS_BYTES]


def _fetch_metadata(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    if (body := _fetch(url, "/metadata", headers)) is None:
        return {}
    try:
        metadata = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _unavailable(url, "/metadata", error) from None
    if not isinstance(metadata, dict):
        raise _unavailable(url, "/metadata", "answered without a JSON object")
    return metadata


def _fetch(url: str, path: str, headers: Mapping[str, str]) -> bytes | None:
    """Return a page of the server; None where it knows no such page."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname is None:
        return None
    tls = parts.scheme == "wss"
    try:
        where = parts.hostname, parts.port or (443 if tls else 80)
        status, _, body = _http_get(*where, path, headers, _HTTP_TIMEOUT_S, tls, proxy_of(url))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unavailable(url, path, error) from None
    if status == 401:
        raise ServerUnavailable(f"{url} requires a token (HTTP 401): set {TOKEN_VARIABLE}")
    if status != 200 and status not in _NO_SUCH_PAGE:
        raise _unavailable(url, path, f"answered with HTTP {status}")
    return body if status == 200 else None


def _unavailable(url: str, path: str, reason: Exception | str) -> ServerUnavailable:
    said = reason if isinstance(reason, str) else f"failed ({type(reason).__name__}: {' '.join(str(reason).split())})"
    proxy = proxy_of(url)
    through = f" through the proxy {urllib.parse.urlsplit(proxy).hostname}" if proxy else ""
    return ServerUnavailable(f"GET {path} of {url} {said[:180]}{through}: {_METADATA_REMEDY}")


def _http_get(
    host: str,
    port: int,
    path: str,
    headers: Mapping[str, str],
    timeout_s: float,
    tls: bool = False,
    proxy: str | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """GET a page; through a tunnel if there is a proxy, as the session itself does."""
    kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    if proxy is None:
        connection = kind(host, port, timeout=timeout_s)
    else:
        at = urllib.parse.urlsplit(proxy)
        if at.scheme != "http" or at.hostname is None:
            raise ValueError(f"{at.scheme}:// proxies are not supported for this request")
        connection = kind(at.hostname, at.port or 80, timeout=timeout_s)
        connection.set_tunnel(host, port, headers=_proxy_headers(at))
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return response.status, names, response.read(_MAX_REPLY_BYTES)
    finally:
        connection.close()


def _proxy_headers(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    credentials = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def proxy_of(url: str) -> str | None:
    """Return the proxy on the way to a server, for the session and ``GET /metadata`` alike; None: direct.

    As HTTP_PROXY, HTTPS_PROXY and NO_PROXY say, by websockets' order of preference; never to this machine itself.
    """
    return None if is_loopback(urllib.parse.urlsplit(url).hostname or "") else get_proxy(parse_uri(url))
