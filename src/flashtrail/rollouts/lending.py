"""The shard's side of the run's keeper (`keeper.py`): borrow a simulator or a server, hand it back or have it ended.

Where no keeper is named or it is in trouble there is nothing to borrow, and the shard starts its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

from flashtrail.base.peers import peer_is_us

ADDRESS = "FLASHTRAIL_KEEPER"  # the name of its abstract socket
# A simulator's words: on stdin come several specs, one after another, each with the log of its shard.
KEPT = ("--kept", "0")
_PATIENCE_S = 20.0  # the keeper may be starting others, or waiting for one to end


class Loan:
    """A worker that is ours until we say how it left.

    `connection` is its, `pid` its process; `used`: whether another shard had it before; `own`: of the shard for which
    it was started, see `Lender.borrow`.
    """

    def __init__(self, keeper: Connection, asked: Mapping[str, Any]) -> None:
        self._keeper = keeper
        keeper.send_bytes(json.dumps(asked).encode())
        self.pid, self.used, self.own = self._answer()
        if not keeper.poll(_PATIENCE_S):
            raise TimeoutError("no worker came")
        self.connection = Connection(recv_handle(keeper))

    def back(self, how: str) -> int | None:
        """Hand the worker back: ``keep`` it, ``kill`` it, or it has ``ended``; return the exit code it had by itself.

        None where it was ended now; the keeper ends it too if this process says nothing any more.
        """
        self.connection.close()
        with contextlib.closing(self._keeper), contextlib.suppress(OSError, EOFError, ValueError):
            self._keeper.send_bytes(json.dumps(how).encode())
            code: int | None = self._answer()
            return code
        return None

    def _answer(self) -> Any:
        if not self._keeper.poll(_PATIENCE_S):
            raise TimeoutError("it does not answer")
        return json.loads(self._keeper.recv_bytes())


class Lender:
    """Borrows from the run's keeper; after its first trouble there is none. `counted` gets the pid of each worker."""

    def __init__(self, say: Callable[[str], object], counted: Callable[[int], object]) -> None:
        self._say, self._counted, self._address = say, counted, os.environ.get(ADDRESS)

    def borrow(
        self,
        kind: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        needs: Mapping[str, Any],
        own: Mapping[str, Any] | None = None,
    ) -> Loan | None:
        """Return a worker of `command` that has had no other `needs` than these, nor any other environment.

        `own` is for one that has to be started, and need not be equal: ``port`` (for ``{port}`` in the command),
        ``log`` (a path) and ``environment`` (more variables).
        """
        if self._address is None:
            return None
        asked = {
            "kind": kind,
            "command": [*command],
            "environment": {**environment},
            "directory": str(Path.cwd()),
            "needs": {**needs},
            "own": {**(own or {})},
        }
        try:
            loan = Loan(_connected(self._address), asked)
        except (OSError, EOFError, ValueError, TypeError) as error:
            self._address = None
            self._say(f"the run's keeper is not at hand ({error or 'it has ended'}): starting our own processes")
            return None
        self._counted(loan.pid)
        if loan.used:
            log = f"; its log: {loan.own['log']}" if "log" in loan.own else ""
            self._say(f"a {kind} of an earlier shard is at hand{log}")
        return loan


def _connected(address: str) -> Connection:
    with contextlib.ExitStack() as stack:
        keeper = stack.enter_context(socket.socket(socket.AF_UNIX))
        keeper.settimeout(_PATIENCE_S)
        keeper.connect(f"\0{address}")
        if not peer_is_us(keeper):
            raise PermissionError("another user answers in its place")
        keeper.settimeout(None)
        return Connection(keeper.detach())
