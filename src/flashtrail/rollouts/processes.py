"""Simulator processes from the outside: start, ask, wait for whichever answers first, end.

A process that dies or does not answer in time is an answer too (`failed: simulator`): native code crashes and hangs,
and neither may stop a shard.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

import flashtrail
from flashtrail.rollouts.lending import KEPT, Lender, Loan

COMMAND = (sys.executable, "-P", "-m", "flashtrail.rollouts.worker")  # -P: no modules from the working directory
# What of a shard's spec its simulator is made of: a worker may serve the shards in which all of it is the same.
SIMULATOR_NEEDS = ("suite", "task_id", "seed", "scene_seed", "hard_reset", "horizon")
_PR_SET_PDEATHSIG = 1


class SimulatorProcess:
    """One worker process; started on the first request, and again after it was lost.

    It is lost when it ends, when an answer takes longer than `timeout_s`, or when it is silent for longer than it
    announced (`worker.Heartbeat`). With a `lender` it is borrowed from the run's keeper, if there is one.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        timeout_s: float,
        command: Sequence[str] = COMMAND,
        lender: Lender | None = None,
    ) -> None:
        self._settings, self._timeout_s, self._command = dict(settings), timeout_s, list(command)
        self._lender = lender
        self._loan: Loan | None = None
        self._sound, self._unanswered = True, False  # no answer was a failure; one is due
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._deadline = self._due = 0.0
        self._within_s = timeout_s

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a request; `answer` is due within the time limit."""
        self._deadline = time.monotonic() + self._timeout_s
        self._due, self._within_s = self._deadline, self._timeout_s
        if self._connection is None:
            self._start()
        assert self._connection is not None
        self._unanswered = True
        with contextlib.suppress(OSError):  # it has ended: `answer` reports how
            self._connection.send_bytes(json.dumps(request).encode())

    def answer(self) -> dict[str, Any] | None:
        """Return the answer if it is there, or why there will be none; None while it may still come."""
        assert self._connection is not None
        try:
            while self._connection.poll():
                message: dict[str, Any] = json.loads(self._connection.recv_bytes())
                if "within_s" not in message:
                    self._unanswered = False
                    self._sound &= "failed" not in message
                    if message.get("failed") == "simulator":
                        self.close()  # one simulator per process and life: the next attempt gets a new one
                    return message
                self._within_s = message["within_s"]
                self._due = time.monotonic() + self._within_s
        except (EOFError, OSError):
            return self._lost(f"the simulator process ended ({self._exit_text()})")
        now = time.monotonic()
        if now > self._deadline:
            return self._lost(f"the simulator gave no answer within {self._timeout_s:g} s and was ended")
        if now > self._due:
            return self._lost(f"the simulator gave no sign of life for {self._within_s:g} s and was ended")
        return None

    def close(self) -> None:
        """End the process at once; it holds nothing that is not recorded."""
        if self._loan is not None:
            self._loan.back("kill")
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = self._loan = None

    def leave(self) -> None:
        """Hand a borrowed process back for the next shard, if nothing went wrong in it; end any other."""
        if self._loan is not None and self._sound and not self._unanswered:
            with contextlib.suppress(OSError):
                self._loan.connection.send_bytes(b"null")
            self._loan.back("keep")
            self._connection = self._loan = None
        self.close()

    @property
    def connection(self) -> Connection:
        """What to wait on."""
        assert self._connection is not None
        return self._connection

    def _start(self) -> None:
        self._sound = True
        if self._lender is not None:
            needs = {name: self._settings.get(name) for name in SIMULATOR_NEEDS}
            needs["code"] = self._settings["metadata"].get("code_digest")
            self._loan = self._lender.borrow("simulator", [*self._command, *KEPT], _environment(), needs)
        if self._loan is not None:
            self._connection = self._loan.connection
            with contextlib.suppress(OSError):
                send_handle(self._connection, 2, self._loan.pid)  # what it prints belongs to our log
        else:
            self._connection = self._started()
        with contextlib.suppress(OSError):
            self._connection.send_bytes(json.dumps(self._settings).encode())

    def _started(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
        return Connection(ours.detach())

    def _lost(self, why: str) -> dict[str, Any]:
        self.close()
        return {"failed": "simulator", "error": why}

    def _exit_text(self) -> str:
        if self._loan is not None:
            code, self._loan = self._loan.back("ended"), None
        else:
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            code = self._process.returncode
        if code is None:
            return "it closed its connection"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def wait_any(processes: Sequence[SimulatorProcess], timeout_s: float = 1.0) -> None:
    """Return as soon as one of the processes has an answer, or after `timeout_s`."""
    wait([process.connection for process in processes], timeout_s)


def _environment() -> dict[str, str]:
    """One thread each (processes are the parallelism), and this package importable whether installed or not."""
    source = str(Path(flashtrail.__file__).resolve().parent.parent)
    path = os.pathsep.join(dict.fromkeys([source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}


def leave_with_parent(parent: int, every_s: float = 1.0) -> None:
    """End this process once `parent` is gone: a shard killed with SIGKILL leaves no simulator running.

    Linux is asked to do it (a simulator stuck in native code may hold the interpreter); elsewhere a thread watches.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_s)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
