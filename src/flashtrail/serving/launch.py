"""Start a policy server as a process of its own, know when it is ready, and always take it down.

Both ends of the lifeline are here: the parent holds the write end of the server's stdin, and a server started with
``--exit-with-parent`` leaves when that pipe closes or its parent is gone, so that not even a parent killed with SIGKILL
leaves an orphan.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from flashtrail.base.errors import UserError
from flashtrail.serving.binding import ServerStartError, reserve_port
from flashtrail.serving.client import healthy

INSTANCE_VARIABLE = "FLASHTRAIL_INSTANCE"
_INSTANCE_HEADER = "x-flashtrail-instance"
_PROBE_S = 0.1
_TERM_GRACE_S = 6.0  # the server itself needs up to 5 s to let rounds in flight answer
_TAIL_LINES = 12
_TAIL_BYTES = 16384


class ServerError(UserError):
    """The server process did not get ready or ended too soon; `log_tail` holds the last lines of its log."""

    def __init__(self, message: str, log_path: Path, log_tail: list[str]) -> None:
        self.log_path, self.log_tail = log_path, log_tail
        tail = " | ".join(line.strip() for line in log_tail if line.strip()) or "(empty)"
        super().__init__(f"{message}; end of {log_path}: {tail}")


def free_port() -> int:
    """Return a TCP port that was free a moment ago. Another process may take it: ServerError then says so."""
    with reserve_port("127.0.0.1", 0) as sock:
        return int(sock.getsockname()[1])


class PolicyServerProcess:
    """Context manager: a server process that is ready on entry and gone, with its whole group, on exit.

    `command` must listen on 127.0.0.1:`port` and answer ``GET /healthz``; output goes to `log_path` (appended).
    SIGTERM to this process also takes the server down, if the context is entered in the main thread and nobody
    else handles that signal. ServerError carries the tail of the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: str | Path,
        port: int,
        ready_timeout_s: float,
        *,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command, self.log_path, self.port = list(command), Path(log_path), port
        self.ready_timeout_s = ready_timeout_s
        self._env = dict(os.environ if env is None else env)
        self._instance = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._previous_handler: Any = None

    @property
    def url(self) -> str:
        """Where a PolicyClient connects."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the server, which also leads its process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the server process still runs."""
        return self._exit_code() is None

    def answers(self) -> bool:
        """Whether a server answers on the port that is not somebody else's."""
        headers = healthy("127.0.0.1", self.port)
        # Two jobs may have been given the same free port: only our own server counts (others have no header).
        return headers is not None and headers.get(_INSTANCE_HEADER, self._instance) == self._instance

    def check(self) -> None:
        """Raise ServerError if the server is gone; call it after a ServerUnavailable to learn the cause."""
        if not self.alive:
            raise self._error(f"the policy server is gone ({self.exit_text()})")

    def __enter__(self) -> Self:
        self._catch_sigterm()
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._take_down()

    # --- life ---

    def _start(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:  # otherwise the health probe would find a stranger on the port and call our server ready
            reserve_port("127.0.0.1", self.port).close()
        except ServerStartError:
            raise self._error(f"port {self.port} on 127.0.0.1 is taken") from None
        try:
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,  # the lifeline: never written to, closes when this process ends
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**self._env, INSTANCE_VARIABLE: self._instance},
                )
        except OSError as error:
            raise self._error(f"cannot start {self.command[0]}: {error.strerror}") from None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_timeout_s
        while time.monotonic() < deadline:
            if not self.alive:
                raise self._error(f"the policy server ended before it was ready ({self.exit_text()})")
            if self.answers():
                return
            time.sleep(_PROBE_S)
        remedy = "let other programs end, or raise rollout.server_ready_timeout_s"
        raise self._error(f"the policy server was not ready within {self.ready_timeout_s:g} s: {remedy}")

    def _exit_code(self) -> int | None:
        """How the process ended, negative for a signal; None while it runs.

        Looks without reaping: while the leader is a zombie its group id cannot go to somebody else.
        """
        assert self._process is not None
        if self._process.returncode is not None:
            return self._process.returncode
        try:
            state = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return 0  # reaped elsewhere: its status is lost, and subprocess says 0 as well
        if state is None:
            return None
        return -state.si_status if state.si_code in (os.CLD_KILLED, os.CLD_DUMPED) else state.si_status

    def _take_down(self) -> None:
        try:
            self._end()
        finally:
            self._release_sigterm()

    def _end(self) -> None:
        """TERM the group, give it a moment, KILL what is left of it, reap the leader."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if self._exit_code() is None:
            _signal_group(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + _TERM_GRACE_S
            while self._exit_code() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def exit_text(self) -> str:
        """How the process ended: ``signal 9`` or ``exit code 3``."""
        code = self._exit_code()
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _error(self, message: str) -> ServerError:
        return ServerError(message, self.log_path, log_tail(self.log_path))

    # --- SIGTERM to the parent ---

    def _catch_sigterm(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._previous_handler = signal.SIG_DFL
            signal.signal(signal.SIGTERM, _leave)

    def _release_sigterm(self) -> None:
        if self._previous_handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous_handler)
            self._previous_handler = None


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds the context managers, as KeyboardInterrupt does


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def log_tail(path: str | Path, lines: int = _TAIL_LINES) -> list[str]:
    """Return the last lines of a log file; empty where there is none."""
    try:
        with Path(path).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


# --- the server's end of the lifeline ---


def leave_with_parent(grace_s: float = _TERM_GRACE_S) -> None:
    """Watch for the parent's end from a thread: then send this process SIGTERM, and kill it if it stays.

    The parent is gone when stdin reaches its end or the parent's process id changes (a simulator forked by the
    parent may hold the pipe open).
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], 0.5)
            if readable and not os.read(0, 4096):
                break
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
