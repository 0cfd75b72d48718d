"""Keeps simulators and policy servers of finished shards for the next ones: one keeper a run, on the run's machine.

A child of the process that the user started (rules/common.smk, onstart), it starts each worker, lends it to one shard
at a time and ends it unless the shard said that all went well; whoever closes without a word has died. It listens on an
abstract socket (Linux: nothing is left on the disk, however a run ends) and answers only processes of the same user.
What is said is JSON; of a worker it knows only that two requests with equal words may share one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

from flashtrail.base import machine
from flashtrail.base.peers import peer_is_us
from flashtrail.rollouts.lending import ADDRESS
from flashtrail.rollouts.processes import leave_with_parent

IDLE_S = 600.0  # then an idle worker leaves: it has no shard left, or none for long
_SPARE = 0.25  # of the machine's memory: with less at hand idle workers leave, the one unused for longest first
_LOOK_S, _HEAR_S = 5.0, 5.0
_DYING_S = 5.0  # between the end of a worker's connection and that of its process
_MOST_BYTES = 1 << 22


@dataclass
class _Worker:
    """A worker process and the shard's end of its connection, which every borrower gets a copy of.

    `words`: what a request must equal; `own`: what the request that started it said beside that.
    """

    kind: str
    words: str
    own: dict[str, Any]
    process: subprocess.Popen[bytes]
    end: socket.socket
    since: float = field(default_factory=time.monotonic)

    @property
    def fit(self) -> bool:
        """Whether it waits for a borrower: it lives, and has said nothing since its last answer."""
        return self.process.poll() is None and not wait([self.end], 0)

    def leave(self, wait_s: float = 0.0) -> int | None:
        """End it; return how it had ended by itself, within `wait_s`, or None."""
        self.end.close()
        try:
            return self.process.wait(wait_s) if wait_s else self.process.poll()
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group
            self.process.wait()


class Keeper:
    """Lends workers until its parent is gone. `most`: idle workers of a kind at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: list[_Worker] = []  # the one unused for longest first
        self._lent: dict[Connection, _Worker | None] = {}  # by borrower; None: has not asked yet

    def serve(self, listener: socket.socket, parent: int) -> None:
        """Answer borrowers until the file descriptor `parent` says that its other end is closed."""
        try:
            while True:
                ready = wait([listener, parent, *self._lent], _LOOK_S)
                if parent in ready:
                    return
                for one in ready:
                    if isinstance(one, Connection):
                        self._hear(one)
                    else:
                        self._admit(listener)
                self._tidy()
        finally:
            for worker in [*self._idle, *filter(None, self._lent.values())]:
                worker.leave()

    def _admit(self, listener: socket.socket) -> None:
        stranger, _ = listener.accept()
        if peer_is_us(stranger):
            # Neither a borrower that stops in the middle of a word nor one that does not read may hold up the others.
            for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                stranger.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", int(_HEAR_S), 0))
            self._lent[Connection(stranger.detach())] = None
        else:
            stranger.close()

    def _hear(self, borrower: Connection) -> None:
        worker = self._lent[borrower]
        try:
            said = json.loads(borrower.recv_bytes(_MOST_BYTES))
            if worker is None:
                self._lend(borrower, said)
                return
            code = None
            if said == "keep":
                self._lent[borrower] = None
                worker.since = time.monotonic()
                self._idle.append(worker)
            else:
                code = worker.leave(_DYING_S if said == "ended" else 0.0)
            borrower.send_bytes(json.dumps(code).encode())
        except (EOFError, OSError, ValueError, KeyError, TypeError):  # it died, or is not one of ours
            pass
        if (left := self._lent.pop(borrower)) is not None:
            left.leave()
        borrower.close()

    def _lend(self, borrower: Connection, said: dict[str, Any]) -> None:
        own = said.pop("own")
        words = json.dumps(said, sort_keys=True)
        worker, used = None, True
        for idle in [worker for worker in self._idle if worker.words == words]:
            self._idle.remove(idle)
            if idle.fit:
                worker = idle
                break
            idle.leave()
        if worker is None:
            worker, used = _start(words, said, own), False
        self._lent[borrower] = worker
        borrower.send_bytes(json.dumps([worker.process.pid, used, worker.own]).encode())
        send_handle(borrower, worker.end.fileno(), worker.process.pid)

    def _tidy(self) -> None:
        """Let idle workers go that are one too many, old, or gone, or whose memory is needed."""
        now, spare = time.monotonic(), machine.spare_memory()
        for worker in list(self._idle):
            short = spare is not None and spare < _SPARE
            many = [one.kind for one in self._idle].count(worker.kind) > self._most
            if short or many or now - worker.since > IDLE_S or not worker.fit:
                self._idle.remove(worker)
                worker.leave()
                spare = machine.spare_memory()


def _start(words: str, said: dict[str, Any], own: dict[str, Any]) -> _Worker:
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as stack:
        log = stack.enter_context(Path(said["directory"], own["log"]).open("ab")) if "log" in own else None
        process = subprocess.Popen(
            [word.replace("{port}", str(own.get("port"))) for word in said["command"]],
            stdin=theirs.fileno(),  # a simulator's connection, a server's lifeline
            stdout=log or subprocess.DEVNULL,  # without a log: each borrower hands over its own
            stderr=log,
            start_new_session=True,
            env=said["environment"] | own.get("environment", {}),
            cwd=said["directory"],
        )
    return _Worker(said["kind"], words, own, process, ours)


def start(most: int, python: str = sys.executable) -> subprocess.Popen[bytes] | None:
    """Start the keeper of this process and name it to all that this process starts; None where there can be none.

    `python`: the interpreter, by its path. It ends with this process, and its workers with it.
    """
    if not sys.platform.startswith("linux"):
        return None
    address = f"flashtrail-{secrets.token_hex(16)}"
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{address}")
            listener.listen(1024)
            keeper = subprocess.Popen(
                [python, "-P", "-m", "flashtrail.rollouts.keeper", str(listener.fileno()), str(most)],
                stdin=subprocess.PIPE,  # its end says that this process has ended
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )
    except OSError as error:
        print(f"no keeper of simulators and servers ({error}); each shard starts its own", file=sys.stderr, flush=True)
        return None
    os.environ[ADDRESS] = address
    atexit.register(stop, keeper)
    return keeper


def stop(keeper: subprocess.Popen[bytes]) -> None:
    """End a keeper and all that it keeps."""
    os.environ.pop(ADDRESS, None)
    if keeper.stdin is not None:
        keeper.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        keeper.wait(5)
    keeper.kill()  # its workers leave with it, by themselves
    keeper.wait()


if __name__ == "__main__":
    leave_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then ends this process
    with socket.socket(fileno=int(sys.argv[1])) as bound:
        Keeper(int(sys.argv[2])).serve(bound, 0)
