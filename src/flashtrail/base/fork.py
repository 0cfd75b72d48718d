"""Run a script in a fork of the run's fork server (`forkserver.py`), or, where it makes none, in an interpreter.

    python -I -S fork.py ADDRESS PYTHON SCRIPT

Run by file; knows nothing but the standard library, of which it imports little: each job waits for it.
"""

import json
import os
import signal
import socket
import struct
import sys

_PATIENCE_S = 60.0  # the server imports for the first job of a script, while that of another waits


def main(address: str, python: str, *command: str) -> int:
    """Return the exit code of the script; it is 1 where the fork was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a word: the fork then ends before it begins
        if not asked(server, address, command):
            os.execv(python, [python, *command])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the fork, too
        server.settimeout(None)
        return int(server.recv(16) or 1)


def asked(server: socket.socket, address: str, command: tuple[str, ...]) -> bool:
    """Return whether the fork server has made a fork that runs the command."""
    server.settimeout(_PATIENCE_S)
    try:
        server.connect(f"\0{address}")
        _, uid, _ = struct.unpack("3i", server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid != os.getuid():
            return False
        said = {"command": command, "directory": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
        socket.send_fds(server, [json.dumps(said).encode()], [0, 1, 2])
        return server.recv(16) == b"forked"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
