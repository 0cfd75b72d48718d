"""Whose turn it is, and the one process behind the page (`stage`), which is the current visitor's.

Standard library only: it runs beside gradio, without the project's packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Message = dict[str, Any]
_ACTED = ("predict", "play")  # orders that need a simulator


class Turns:
    """First come, first served; whoever does not ask for `patience_s` has left."""

    def __init__(self, patience_s: float = 10.0) -> None:
        self._patience_s, self._lock = patience_s, threading.Lock()
        self._asked: dict[str, float] = {}  # by ticket, in the order of arrival: when it was last asked for

    def before(self, ticket: str) -> int:
        """Return how many are before this ticket, which joins the queue if it is new; 0: its turn."""
        with self._lock:
            now = time.monotonic()
            self._asked[ticket] = now
            self._asked = {t: asked for t, asked in self._asked.items() if now - asked <= self._patience_s}
            return list(self._asked).index(ticket)

    def leave(self, ticket: str) -> None:
        """Let the next one in."""
        with self._lock:
            self._asked.pop(ticket, None)

    def has(self, visitor: str) -> bool:
        """Whether it is the turn of this visitor, whose name begins each of their tickets."""
        with self._lock:
            return next(iter(self._asked), "").startswith(f"{visitor}:")


class Backstage:
    """The stage process: started when it is asked, again where another simulator is wanted or it is lost."""

    def __init__(self, python: Path, root: Path, logs: Path, beside: Sequence[str] = ()) -> None:
        self._command = [str(python), "-P", "-m", "flashtrail.studio.stage", str(root), str(logs)]
        self._beside = beside  # directories with sets of demonstrations
        self._log, self._lock = logs / "stage.log", threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._needs: Sequence[Any] | None = None  # what its simulator is of
        self._owes = False  # the last message of an order whose visitor has left

    def ask(self, order: Message) -> Iterator[Message]:
        """Yield the stage's messages to an order, an empty one in each second of silence; the last one has ``last``."""
        needs = [order.get(name) for name in ("suite", "task", "seed")] if order["do"] in _ACTED else None
        if self._owes or (needs and self._needs and needs != self._needs):
            self._settle()
            if needs and self._needs and needs != self._needs:
                self.close()
        try:
            connection = self._connection or self._start()
            self._needs, self._owes = needs or self._needs, True
            self.tell(order)
            while True:
                if not connection.poll(1.0):
                    yield {}
                    continue
                message: Message = json.loads(connection.recv_bytes())
                self._owes = not message.get("last")
                if message.get("lost"):
                    self.close()
                yield message
                if message.get("last"):
                    return
        except (EOFError, OSError):
            code = self.close()
            yield {"failed": f"the process behind the page ended (exit code {code}); see {self._log}", "last": True}

    def tell(self, order: Message) -> None:
        """Send an order without waiting for an answer."""
        with self._lock, contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.send_bytes(json.dumps(order).encode())

    def close(self) -> int | None:
        """End the process and, with it, its server; return how it ended."""
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
        self._connection, self._needs, self._owes = None, None, False
        if process is None:
            return None
        try:
            return process.wait(15.0)  # it leaves by itself, and takes its server down
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            assert process.stdin is not None
            process.stdin.close()

    def _settle(self) -> None:
        """End what a visitor who has left was watching; a stage that does not answer is ended itself."""
        self.tell({"end": True})
        deadline = time.monotonic() + 10.0
        try:
            while self._owes and self._connection is not None and self._connection.poll(deadline - time.monotonic()):
                self._owes = not json.loads(self._connection.recv_bytes()).get("last")
        except (EOFError, OSError, ValueError):
            pass
        if self._owes:
            self.close()

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno()), *self._beside],
                stdin=subprocess.PIPE,  # the lifeline: it closes when this process ends, however it does
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ},
            )
        self._connection = Connection(ours.detach())
        return self._connection
