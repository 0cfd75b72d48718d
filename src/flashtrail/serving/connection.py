"""A server's connections, less patient than the library's: with peers that do not read, flood, or are too many.

The library waits for a peer that does not read without end: a reply, a ping and even a close frame stay behind what is
unread. It answers every ping, however many come, and while it does nobody else is served.
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
# Frames beside the work that was asked for: pings, pongs, crumbs of messages. A client that keeps its connection alive
# sends one in 20 s; a message in fragments of 1 KiB and more costs nothing.
SMALL_FRAMES_PER_S, SMALL_FRAMES_AT_ONCE, _FREE_BYTES = 50, 200, 1024
HELD_S = 5.0  # a flood's connection is not read for so long before it is cut: whoever comes again at once gains nothing
FLOOD = f"more than {SMALL_FRAMES_PER_S} small frames a second"
SLICE = 2**12  # bytes of a flood that are looked at before it can be cut off: some 600 pings
_METHOD = re.compile(rb"([A-Z]{1,16}) ")
_METHODS = (b"GET", b"HEAD")
_NOT_ALLOWED = (
    b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 31\r\n\r\nonly GET and HEAD are answered\n"
)
_SAY_AGAIN_S = 10.0

log = logging.getLogger("flashtrail.serving")


class PatientConnection(ServerConnection):
    """Cut off once its peer has read nothing for `ping_timeout` seconds, leaves MAX_UNREAD_BYTES unread, or floods.

    A request of another method than GET and HEAD is answered here: the library gives one with a body no answer.
    """

    _stuck: asyncio.TimerHandle | None = None
    _leaving: asyncio.TimerHandle | None = None
    _first = b""
    _method_seen = False
    _allowance = float(SMALL_FRAMES_AT_ONCE)
    _counted_at = 0.0

    def pause_writing(self) -> None:
        """So much is unread that nothing more should be written."""
        super().pause_writing()
        if self.ping_timeout is not None:
            self._stuck = self.loop.call_later(self.ping_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """The peer has read on."""
        self._at_ease()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes came in; the library may have answered some of them at once."""
        if not self._method_seen:
            data = self._first = self._first + data
            if not self._may_go_on():
                return
        for start in range(0, len(data), SLICE):
            if self._leaving is not None:
                return  # what a peer says that is being cut off is not even looked at
            super().data_received(data[start : start + SLICE])
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def process_event(self, event: Any) -> None:
        """A request or a frame is whole; one small frame too many ends the connection."""
        if self._leaving is not None:
            return
        if isinstance(event, Frame) and not self._affordable(event):
            self.transport.pause_reading()
            self._leaving = self.loop.call_later(HELD_S, self._say_why)
            return
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._at_ease()
        if self._leaving is not None:
            self._leaving.cancel()
        super().connection_lost(exc)

    def _may_go_on(self) -> bool:
        """Whether the library may see what came first; not before its method is known, and not if it is another."""
        found = _METHOD.match(self._first)
        if found and found[1] not in _METHODS:
            self._method_seen = True
            self.transport.write(_NOT_ALLOWED)
            self._leave()
            return False
        self._method_seen = found is not None or re.fullmatch(rb"[A-Z]{0,16}", self._first) is None
        return self._method_seen

    def _affordable(self, frame: Frame) -> bool:
        now = self.loop.time()
        earned = (now - self._counted_at) * SMALL_FRAMES_PER_S + len(frame.data) / _FREE_BYTES
        self._allowance = min(SMALL_FRAMES_AT_ONCE, self._allowance + earned) - 1
        self._counted_at = now
        return self._allowance >= 0

    def _say_why(self) -> None:
        self.protocol.fail(CloseCode.POLICY_VIOLATION, FLOOD)
        self.send_data()
        self._leave()

    def _leave(self) -> None:
        """Give the peer a moment to read why, then cut the connection."""
        self._leaving = self.loop.call_later(self.close_timeout or 0, self.transport.abort)

    def _at_ease(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


class FullHouse:
    """An event loop's exception handler: says now and then that the file-descriptor limit is reached.

    asyncio logs a traceback for each that waits, thousands a second. The open sessions go on, and those that wait are
    taken in when files are free again.
    """

    def __init__(self) -> None:
        self._said_at = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what asyncio could not raise to anybody."""
        if "socket.accept()" not in context.get("message", ""):
            loop.default_exception_handler(context)
        elif loop.time() - self._said_at >= _SAY_AGAIN_S:
            self._said_at = loop.time()
            log.warning("file-descriptor limit reached (ulimit -n): new connections are queued")
