"""A client that pings as fast as it can and reads every answer: port and seconds; prints what it got as JSON."""

import base64
import json
import os
import select
import socket
import sys
import time

port, seconds, again = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:] == ["again"]
PINGS = b"\x89\x80\0\0\0\0" * 200_000  # as much as fits goes out at once: the server meets thousands in one read


def handshaken() -> socket.socket:
    """Return a socket that has shaken hands."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
    sock.sendall("\r\n".join([*lines, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", ""]).encode())
    answer = b""
    while b"\r\n\r\n\x82\x01\x80" not in answer:
        answer += sock.recv(4096)
    return sock


def flood(sock: socket.socket, until: float) -> bytes:
    """Ping, and read, until the server has had enough; return all that it said."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sock.setblocking(False)
    said, left = bytearray(), PINGS
    while time.monotonic() < until:
        readable, writable, _ = select.select([sock], [sock], [], 0.1)
        try:
            if readable:
                part = sock.recv(1 << 18)
                if not part:
                    break
                said += part
            if writable:
                left = left[sock.send(left) :] or PINGS
        except OSError:
            break
    return bytes(said)


deadline, connections, pongs, close = time.monotonic() + seconds, 0, 0, None
while time.monotonic() < deadline and (again or not connections):
    sock = handshaken()
    connections += 1
    print("flooding", flush=True) if connections == 1 else None
    said = flood(sock, deadline)
    sock.close()
    pongs += said.count(b"\x8a\0")
    if (at := said.find(b"\x88")) >= 0:
        close = [int.from_bytes(said[at + 2 : at + 4], "big"), said[at + 4 : at + 2 + said[at + 1]].decode()]
print(json.dumps({"connections": connections, "pongs": pongs, "close": close}))
