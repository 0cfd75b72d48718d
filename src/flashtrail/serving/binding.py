"""Where the server listens and who may come in: loopback, or a token.

Knows addresses, sockets and the Authorization header; knows no message and no policy.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import ipaddress
import socket

from websockets.datastructures import Headers

from flashtrail.errors import UserError


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
        raise bind_error(host, port, error) from None
    return sock


def bind_error(host: str, port: int, error: OSError) -> ServerStartError:
    """Return what the user is told of a bind that failed."""
    if error.errno == errno.EADDRINUSE:
        return ServerStartError(f"port {port} on {host} is taken: stop what listens there or give another --port")
    return ServerStartError(f"cannot bind {host}:{port}: {error.strerror or error}")


def authorized(headers: Headers, token: str) -> bool:
    """Whether exactly one Authorization header gives the token; compared in constant time."""
    values = headers.get_all("Authorization")
    scheme, _, given = (values[0] if len(values) == 1 else "").partition(" ")
    known = scheme.lower() in ("bearer", "api-key")
    return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode()) and known
