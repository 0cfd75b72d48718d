"""A server's connections, less patient than the library's: with peers that do not read, and with too many of them.

The library waits for such a peer without end: a reply, a ping and even a close frame stay behind what is unread, and
the answers to a flood of pings are kept whether they are read or not. Knows bytes that are on their way out; knows no
message and no session.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

from websockets.asyncio.server import ServerConnection

MAX_UNREAD_BYTES = 2**20  # a reply has some 5 kB
_SAY_AGAIN_S = 10.0

log = logging.getLogger("flashtrail.serving")


class PatientConnection(ServerConnection):
    """Cut off once its peer has read nothing for `ping_timeout` seconds, or leaves MAX_UNREAD_BYTES unread."""

    _stuck: asyncio.TimerHandle | None = None

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
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._at_ease()
        super().connection_lost(exc)

    def _at_ease(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


class FullHouse:
    """An event loop's exception handler: says now and then that no file is left for more connections.

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
            log.warning("no file is left for another connection (ulimit -n): those that ask have to wait")
