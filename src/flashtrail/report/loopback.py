"""A small web server for the browsers of this machine: who may ask it, for what, and how long it listens to anyone.

Loopback only; GET and HEAD only. Every address begins with a token that is drawn at the start: other web pages and
other users of the machine do not know it, and a page whose name was made to lead here does not pass as `Host`. What
lies at a place a `Site` says; tornado reads requests and sends files.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado import httpserver, iostream, web

from flashtrail.base.errors import cause
from flashtrail.serving import binding

HOST = "127.0.0.1"
CONNECTIONS, HEADERS_S, CONNECTED_S = 64, 10.0, 120.0  # open at once; until a request is whole; in all
# A report's own policy, in its head, is stricter; a file that has none asks nothing of anyone all the same.
_FILES = (
    "default-src 'none'; img-src 'self' data:; media-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)

Site = Callable[[str], "tuple[str, str] | Path | None"]
"""What lies at a place below the token: a page and its policy, a regular file, or nothing."""


def serve(site: Site, port: int) -> tuple[str, Server]:
    """Give out a site on the running event loop; return its address, which nobody else is told, and the server.

    Raises ServerStartError where the port is taken; with port 0 the system chooses one.
    """
    sock, token = binding.reserve_port(HOST, port), secrets.token_urlsafe(16)
    every = [(r"/?([^/]*)(?:/(.*))?", _Request, {"site": site, "token": token})]
    app = web.Application(every, log_function=lambda handler: None)
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # a bad request is the sender's affair
    server = Server(
        app, idle_connection_timeout=HEADERS_S, body_timeout=HEADERS_S, max_body_size=1024, max_header_size=2**14
    )
    sock.setblocking(False)
    sock.listen(CONNECTIONS)
    server.add_socket(sock)
    return f"http://{HOST}:{sock.getsockname()[1]}/{token}/", server


class Server(httpserver.HTTPServer):
    """Holds so many connections, each for so long; a browser connects again by itself."""

    _streams: tuple[iostream.IOStream, ...] = ()

    def handle_stream(self, stream: iostream.IOStream, address: Any) -> None:
        """Serve a connection for a while, or hang up on the one too many."""
        self._streams = tuple(one for one in self._streams if not one.closed())
        if len(self._streams) >= CONNECTIONS:
            stream.close()
            return
        self._streams += (stream,)
        asyncio.get_running_loop().call_later(CONNECTED_S, stream.close)
        super().handle_stream(stream, address)


class _Request(web.StaticFileHandler):
    """One request and its answer."""

    SUPPORTED_METHODS = ("GET", "HEAD")
    found: tuple[str, str] | Path | None = None

    def initialize(self, site: Site, token: str) -> None:  # type: ignore[override]
        """Take what all requests share."""
        self.root, self._site, self._token = "/", site, token

    def set_default_headers(self) -> None:
        """Nothing that is answered goes to another site or is kept."""
        self.set_header("Content-Security-Policy", f"{_FILES}; frame-ancestors 'none'")
        for name in ("Cross-Origin-Resource-Policy", "Cross-Origin-Opener-Policy"):
            self.set_header(name, "same-origin")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Server", "flashtrail")

    def prepare(self) -> None:
        """Refuse who is not asked for by our name, and other pages of the browser."""
        if not binding.addressed(self.request.headers.get_list("Host"), ()):
            raise web.HTTPError(421, reason="this server does not answer to that name (Host)")
        if self.request.headers.get_list("Origin"):
            raise web.HTTPError(403, reason="other web pages may not ask (Origin)")

    async def get(self, token: str, place: str | None, include_body: bool = True) -> None:  # type: ignore[override]
        """Answer with what lies there."""
        mine = hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode())
        if mine and place is None:
            self.redirect(f"/{token}/")  # its last slash was lost, as in a copied line
            return
        self.found = self._site(place) if mine and place is not None else None
        if self.found is None:
            raise web.HTTPError(404, reason="nothing is here: use the address that was printed")
        if isinstance(self.found, Path):
            await super().get("", include_body)
        else:
            text, policy = self.found
            self.set_header("Content-Security-Policy", f"{policy}; frame-ancestors 'none'")
            self.write(text)

    async def head(self, token: str, place: str | None) -> None:  # type: ignore[override]
        """Answer without the content."""
        await self.get(token, place, include_body=False)

    def parse_url_path(self, url_path: str) -> str:
        """Return the file: the site has looked for it."""
        return str(self.found)

    def validate_absolute_path(self, root: str, absolute_path: str) -> str:
        """Return it again; the site has checked it, links included."""
        return absolute_path

    def compute_etag(self) -> str | None:
        """Return the mark of a page, by which a reader sees that nothing has changed; a file has its time."""
        return None if isinstance(self.found, Path) else web.RequestHandler.compute_etag(self)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say why in one line."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{self._reason}\n")

    def log_exception(self, *about: Any) -> None:
        """Print a fault of ours as one line; it must not cross the wire."""
        if not isinstance(about[1], web.HTTPError):
            print(f"error: {cause(f'{type(about[1]).__name__}: {about[1]}')}", file=sys.stderr, flush=True)
