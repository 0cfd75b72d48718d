"""Who is at the other end of a local socket: what our processes say to each other is for those of the same user."""

from __future__ import annotations

import os
import socket
import struct


def peer_is_us(peer: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user (Linux)."""
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.getuid())
