"""A server's connections, stricter than the library's: peers that do not read, that flood, or that are too many.

The library waits without limit for a peer that does not read: a reply, a ping and even a close frame queue behind
unread data. It answers every ping, however many arrive, and serves nobody else meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame

MAX_UNREAD_BYTES = 2**20  # a reply has some 5 kB
# Small frames: pings, pongs, tiny fragments. A keepalive sends one every 20 s; fragments of 1 KiB and more are free.
SMALL_FRAMES_PER_S, SMALL_FRAMES_AT_ONCE, _FREE_BYTES = 50, 200, 1024
HELD_S = 5.0  # a flooding connection stays unread this long before it is cut: reconnecting at once gains nothing
FLOOD = f"more than {SMALL_FRAMES_PER_S} small frames a second"
SLICE = 2**12  # bytes processed before a flood can be cut off: some 600 pings
_METHOD = re.compile(rb"([A-Z]{1,16}) ")
_METHODS = (b"GET", b"HEAD")
_NOT_ALLOWED = (
    b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 31\r\n\r\nonly GET and HEAD are answered\n"
)
_REPORT_AGAIN_S = 10.0

log = logging.getLogger("flashtrail.serving")


class PatientConnection(ServerConnection):
    """Cut off once its peer has read nothing for `ping_timeout` seconds, leaves MAX_UNREAD_BYTES unread, or floods.

    A request of another method than GET and HEAD is answered here: the library gives one with a body no answer.
    """

    _stuck: asyncio.TimerHandle | None = None
    _ending: asyncio.TimerHandle | None = None
    _first = b""
    _method_seen = False
    _allowance = float(SMALL_FRAMES_AT_ONCE)
    _counted_at = 0.0

    def pause_writing(self) -> None:
        """The write buffer is full: the peer has `ping_timeout` seconds to read."""
        super().pause_writing()
        if self.ping_timeout is not None:
            self._stuck = self.loop.call_later(self.ping_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._stop_waiting()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes came in; the library may have answered some of them at once."""
        if not self._method_seen:
            data = self._first = self._first + data
            if not self._method_allowed():
                return
        for start in range(0, len(data), SLICE):
            if self._ending is not None:
                return  # the peer is being cut off: ignore what it sends
            super().data_received(data[start : start + SLICE])
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def process_event(self, event: Any) -> None:
        """A request or a frame is complete; one small frame too many ends the connection."""
        if self._ending is not None:
            return
        if isinstance(event, Frame) and not self._affordable(event):
            self.transport.pause_reading()
            self._ending = self.loop.call_later(HELD_S, self._refuse_flood)
            return
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_waiting()
        if self._ending is not None:
            self._ending.cancel()
        super().connection_lost(exc)

    def _method_allowed(self) -> bool:
        """Whether the library may see the first bytes: once their method is known, and if it is GET or HEAD."""
        match = _METHOD.match(self._first)
        if match and match[1] not in _METHODS:
            self._method_seen = True
            self.transport.write(_NOT_ALLOWED)
            self._abort_soon()
            return False
        self._method_seen = match is not None or re.fullmatch(rb"[A-Z]{0,16}", self._first) is None
        return self._method_seen

    def _affordable(self, frame: Frame) -> bool:
        now = self.loop.time()
        earned = (now - self._counted_at) * SMALL_FRAMES_PER_S + len(frame.data) / _FREE_BYTES
        self._allowance = min(SMALL_FRAMES_AT_ONCE, self._allowance + earned) - 1
        self._counted_at = now
        return self._allowance >= 0

    def _refuse_flood(self) -> None:
        self.protocol.fail(CloseCode.POLICY_VIOLATION, FLOOD)
        self.send_data()
        self._abort_soon()

    def _abort_soon(self) -> None:
        """Give the peer a moment to read why, then cut the connection."""
        self._ending = self.loop.call_later(self.close_timeout or 0, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


class FileLimitHandler:
    """An event loop's exception handler: reports from time to time that the file-descriptor limit is reached.

    asyncio logs a traceback for each waiting connection, thousands a second. Open sessions go on; waiting connections
    are accepted when descriptors are free again.
    """

    def __init__(self) -> None:
        self._reported_at = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error that asyncio cannot raise anywhere."""
        if "socket.accept()" not in context.get("message", ""):
            loop.default_exception_handler(context)
        elif loop.time() - self._reported_at >= _REPORT_AGAIN_S:
            self._reported_at = loop.time()
            log.warning("file-descriptor limit reached (ulimit -n): new connections are queued")
