"""Simulators that outlive their shard: a process that lends built ones to the shards of a run on this machine.

Building a LIBERO simulator costs seconds, and a report has a shard for each arm and task. The process that the user
started has one keeper (rules/common.smk, onstart); it leaves when that process is gone, and the simulators with it. A
shard asks for a simulator process by all that its simulator depends on, and gets an idle one, which has it built, or a
new one. They talk over the shard's own socket, as if the shard had started it (`processes`).

Idle again is what says so once the shard has closed its end. What is still at work then, and what a shard gives up, is
killed. Where no keeper answers, a shard starts its own simulators.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "FLASHTRAIL_KEEPER"  # where the keeper of this run listens
MOST_IDLE = 12
LEAST_FREE = 0.2  # of the machine's memory: below it no idle simulator is kept
_SETTLE_S = 3.0  # from the end of a shard to the word of its simulator that it is idle
_ANSWER_S = 20.0
_MESSAGE_BYTES = 1 << 17
_OF_A_JOB = ("PWD", "OLDPWD", "SHLVL", "_")  # variables that differ between jobs and that no simulator depends on
KILL, ENDED, IDLE = b"kill", b"ended", b"idle"


class Lent:
    """A keeper's simulator process, as its shard sees it: what `subprocess.Popen` would say, and `leave`."""

    def __init__(self, lease: socket.socket) -> None:
        self._lease = lease
        self._code: int | None = None

    def kill(self) -> None:
        """End it at once."""
        if self._code is None:
            self._code = self._end(KILL)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, negative for a signal; subprocess.TimeoutExpired where it goes on."""
        if self._code is None:
            self._code = self._end(ENDED)
        return self._code

    def leave(self) -> None:
        """Give it back; its end of the shard's socket must be closed."""
        self._lease.close()

    def _end(self, word: bytes) -> int:
        """Have it ended; where the keeper itself is gone, its simulators are killed."""
        with self._lease:
            try:
                self._lease.send(word)
                return int(self._lease.recv(_MESSAGE_BYTES) or -signal.SIGKILL)
            except OSError:
                return -signal.SIGKILL


def lend(
    command: Sequence[str], simulator: Mapping[str, Any], env: Mapping[str, str], end: socket.socket
) -> Lent | None:
    """Return a process of `command` that talks over `end`; None where no keeper answers.

    `simulator`: the settings on which its simulator depends. It writes to this process's stderr.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return None
    about = {"command": list(command), "simulator": dict(simulator), "cwd": str(Path.cwd())}
    about["env"] = {name: value for name, value in env.items() if name not in _OF_A_JOB}
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        lease.settimeout(_ANSWER_S)
        lease.connect(address)
        socket.send_fds(lease, [json.dumps(about, sort_keys=True).encode()], [end.fileno(), 2])
        if lease.recv(_MESSAGE_BYTES) == IDLE:
            return Lent(lease)
    except OSError as error:
        print(f"no simulator to be had from the run's keeper ({error}); this shard starts its own", file=sys.stderr)
    lease.close()
    return None


def start() -> None:
    """Start the keeper of this process's run and leave its address in the environment, for the run's jobs."""
    directory = Path(tempfile.mkdtemp(prefix="flashtrail-keeper-"))  # nobody else can enter it
    address = str(directory / "socket")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(address)
            listener.listen()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
    except OSError:  # a path that is too long, no such sockets: shards start their own
        shutil.rmtree(directory, ignore_errors=True)
        return
    os.environ[VARIABLE] = address

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        shutil.rmtree(directory, ignore_errors=True)

    atexit.register(end)


@dataclass(eq=False)
class _Kept:
    """A simulator process. `control` passes it the sockets of shards, one after another; `lease` is a shard's."""

    key: bytes
    process: subprocess.Popen[bytes]
    control: socket.socket
    lease: socket.socket | None = None
    idle: bool = False
    since: float = 0.0  # when it was given back, or said that it is idle


class Keeper:
    """Lends simulator processes to whoever connects to `listener`, until `alive` reads its end."""

    def __init__(self, listener: socket.socket, alive: int) -> None:
        self._kept: list[_Kept] = []
        self._alive = alive
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._lend(listener))
        self._selector.register(alive, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve; no simulator is left at the end."""
        try:
            while True:
                for key, _ in self._selector.select(1.0):
                    if key.fd == self._alive:
                        return
                    if key.fd in self._selector.get_map():  # not ended by the one before
                        key.data()
                self._tidy()
        finally:
            for kept in self._kept:
                kept.process.kill()

    def _lend(self, listener: socket.socket) -> None:
        lease, _ = listener.accept()
        lease.settimeout(_ANSWER_S)  # a shard says at once what it needs
        descriptors: list[int] = []
        try:
            about, descriptors, *_ = socket.recv_fds(lease, _MESSAGE_BYTES, 2)
            kept = next((k for k in self._kept if k.key == about and k.idle), None) or self._start(about)
            socket.send_fds(kept.control, [b"go"], descriptors)
            lease.send(IDLE)
        except (OSError, ValueError, KeyError, TypeError):
            lease.close()
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        kept.lease, kept.idle = lease, False
        self._selector.register(lease, selectors.EVENT_READ, lambda: self._given_back(kept))

    def _start(self, about: bytes) -> _Kept:
        request = json.loads(about)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*request["command"], f"kept:{theirs.fileno()}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # until it has a shard's
                cwd=request["cwd"],
                env=request["env"],
                pass_fds=[theirs.fileno()],
            )
        kept = _Kept(about, process, ours)
        self._kept.append(kept)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._said(kept))
        return kept

    def _given_back(self, kept: _Kept) -> None:
        """A shard wants its simulator ended, or has closed its end: it is done, or gone."""
        assert kept.lease is not None
        try:
            word = kept.lease.recv(_MESSAGE_BYTES)
        except OSError:
            word = b""
        if word:
            if word == ENDED:  # as its shard sees it: it may take a moment
                with contextlib.suppress(subprocess.TimeoutExpired):
                    kept.process.wait(5)
            code = self._end(kept)
            with contextlib.suppress(OSError):
                kept.lease.send(str(code).encode())
        else:
            self._selector.unregister(kept.lease)
            kept.since = time.monotonic()
        kept.lease.close()
        kept.lease = None

    def _said(self, kept: _Kept) -> None:
        """A simulator process says that it is idle, or is gone: its shard then sees the end of its socket."""
        try:
            kept.idle = kept.control.recv(_MESSAGE_BYTES) == IDLE
        except OSError:
            kept.idle = False
        kept.since = time.monotonic()
        if not kept.idle:
            self._selector.unregister(kept.control)

    def _tidy(self) -> None:
        """End what is at work for nobody, what has ended by itself, and what is idle beyond the bounds."""
        now = time.monotonic()
        free = [kept for kept in self._kept if kept.lease is None]
        for kept in free:
            if kept.process.poll() is not None or (not kept.idle and now > kept.since + _SETTLE_S):
                self._end(kept)
        idle = sorted((kept for kept in free if kept.idle and kept in self._kept), key=lambda kept: kept.since)
        for kept in idle[: max(0, len(idle) - (MOST_IDLE if _share_free() > LEAST_FREE else 0))]:
            self._end(kept)

    def _end(self, kept: _Kept) -> int:
        """Kill it -> its exit code."""
        for end in filter(None, (kept.control, kept.lease)):
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
        kept.control.close()
        kept.process.kill()
        self._kept.remove(kept)
        return kept.process.wait()


def _share_free() -> float:
    """The share of this machine's memory that is available."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        sizes = {name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return sizes["MemAvailable"] / sizes["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError):
        return 1.0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then ends
    with socket.socket(fileno=int(sys.argv[1])) as own:
        Keeper(own, 0).run()
