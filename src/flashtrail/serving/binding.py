"""Where the server listens, the host names it answers to, and who may connect: loopback, or whoever has the token."""

from __future__ import annotations

import argparse
import contextlib
import errno
import hmac
import http
import ipaddress
import re
import socket
from collections.abc import Collection, Sequence

from websockets.datastructures import Headers

from flashtrail.base.errors import UserError

TLS_HINT = "such as caddy reverse-proxy --from NAME --to 127.0.0.1:PORT"

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]/@\s]+))(?::\d{1,5})?")


class ServerStartError(UserError):
    """The server cannot start as asked: port taken, unknown host, or an open bind without a token."""


def tcp_port(text: str) -> int:
    """Return a port, 0 for any; a type of argparse."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a TCP port (0 to 65535)")
    return int(text)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`: a loopback address, or localhost if it resolves to one."""
    names = [host]
    if host.lower() == "localhost":
        with contextlib.suppress(OSError):
            names = [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    addresses = [_address(name) for name in names]
    return all(address is not None and address.is_loopback for address in addresses)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `name` spells, an IPv4 address mapped into IPv6 as IPv4; None if it is not an address."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def check_bind(host: str, token: str | None) -> None:
    """Refuse to listen beyond this machine without a token; ServerStartError says what to do."""
    if not token and not is_loopback(host):
        raise ServerStartError(
            f"--host {host!r} is open to other machines and needs a token: give --token-file, and put TLS before it "
            f"({TLS_HINT}), or bind 127.0.0.1"
        )


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet: the port is ours, and clients are still refused.

    Raises ServerStartError where it is taken. With port 0 the system chooses one.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, number)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be looked up
        raise ServerStartError(f"cannot bind {host!r}: {getattr(error, 'strerror', None) or error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise bind_error(host, port, error) from None
    return sock


def bind_error(host: str, port: int, error: OSError) -> ServerStartError:
    """Return the error for a bind that failed."""
    if error.errno == errno.EADDRINUSE:
        return ServerStartError(
            f"port {port} on {host} is taken: stop what listens there or give another --port (make: PORT=)"
        )
    return ServerStartError(f"cannot bind {host}:{port}: {error.strerror or error}")


def refusal(headers: Headers, token: str | None, own: Collection[str] = ()) -> tuple[http.HTTPStatus, str] | None:
    """Return the status and the reason that refuse a request with these headers, or None.

    Only browsers send Origin: any page open in a browser on this machine could reach a server on loopback. A page whose
    domain was made to resolve to this machine (DNS rebinding) sends no Origin with a GET, but its domain as Host. `own`
    are the names and addresses that this server answers to, besides those of loopback.
    """
    if not addressed(headers.get_all("Host"), own):
        return (
            http.HTTPStatus.MISDIRECTED_REQUEST,
            "this server does not answer to that name (Host): flashtrail serve --allow-host NAME",
        )
    if headers.get_all("Origin"):
        return http.HTTPStatus.FORBIDDEN, "web pages may not connect (Origin)"
    if token and not authorized(headers, token):
        return http.HTTPStatus.UNAUTHORIZED, "a valid token is required"
    return None


def addressed(values: Sequence[str], own: Collection[str]) -> bool:
    """Whether exactly one Host header gives a name or address of loopback, or one of `own`; its port is ignored.

    A foreign address cannot reach this server; a foreign name can be made to resolve to it (DNS rebinding).
    """
    match = _HOST.fullmatch(values[0].strip()) if len(values) == 1 else None
    if match is None:
        return False
    name = _plain(match[1] or match[2])
    address = _address(name)
    loopback = name == "localhost" if address is None else address.is_loopback
    return loopback or name in map(_plain, own)


def _plain(name: str) -> str:
    """Return a name in the form that is compared: lower case; an address in its usual form, without a zone."""
    name = name.lower().rstrip(".")
    return str(_address(name.partition("%")[0]) or name)


def authorized(headers: Headers, token: str) -> bool:
    """Whether exactly one Authorization header gives the token; compared in constant time."""
    values = headers.get_all("Authorization")
    scheme, _, given = (values[0] if len(values) == 1 else "").partition(" ")
    known = scheme.lower() in ("bearer", "api-key")
    return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode()) and known
