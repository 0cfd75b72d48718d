"""A shard's policy server: borrowed from the run's keeper or started, started again if it dies, or an external one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flashtrail.base.errors import UserError
from flashtrail.experiment.shard import EXPERT, ShardSpec
from flashtrail.rollouts.lending import Lender, Loan
from flashtrail.serving import TOKEN_VARIABLE
from flashtrail.serving.client import PolicyClient
from flashtrail.serving.launch import INSTANCE_VARIABLE, PolicyServerProcess, free_port

SERVER_RESTARTS = 3
# What a server was made from beside its command: one may serve the shards whose metadata have all of it the same.
SERVER_NEEDS = ("code_digest", "artifact_digest", "execution")
_BACKOFF_S = (0.5, 2.0, 8.0)  # before each restart: what killed it may need time to pass
_CONNECT_S = 20.0
_DEAF_S = 10.0
_AWAY_S = 180.0  # a server that is not ours may be started again by its own keeper, or be deaf while it compiles


class BorrowedServer(PolicyServerProcess):
    """A policy server of the run's keeper, or one started here where there is none to borrow.

    `command` has ``{port}`` in it; it, this process's environment and `needs` are what servers are told apart by. One
    that another shard has had keeps its port and its log. On exit a borrowed one is handed back if nothing was raised,
    it answers and it is `sound` still; else it is ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: str | Path,
        ready_timeout_s: float,
        needs: Mapping[str, Any],
        lender: Lender | None = None,
    ) -> None:
        port = free_port()
        super().__init__([word.replace("{port}", str(port)) for word in command], log_path, port, ready_timeout_s)
        self._asked, self._needs, self._lender = list(command), needs, lender
        self._loan: Loan | None = None
        self._code = 0  # how a borrowed one ended
        self.sound = True

    def __exit__(self, *raised: object) -> None:
        self.sound &= not any(raised)
        super().__exit__(*raised)

    @property
    def pid(self) -> int:
        """Process id of the server, which also leads its process group."""
        return super().pid if self._loan is None else self._loan.pid

    def _start(self) -> None:
        own = {"port": self.port, "log": str(self.log_path), "environment": {INSTANCE_VARIABLE: self._instance}}
        if self._lender is not None:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            while (loan := self._lender.borrow("policy server", self._asked, self._env, self._needs, own)) is not None:
                self._become(loan.own)
                if not loan.used or self.answers():
                    self._loan = loan
                    return
                loan.back("kill")
        self._become(own)
        super()._start()

    def _become(self, own: Mapping[str, Any]) -> None:
        self.port, self.log_path = own["port"], Path(own["log"])
        self._instance = own["environment"][INSTANCE_VARIABLE]

    def _exit_code(self) -> int | None:
        if self._loan is not None and self._loan.connection.poll():  # it says nothing: its end is closed
            code, self._loan = self._loan.back("ended"), None
            self._code = -signal.SIGKILL if code is None else code
        if self._loan is not None:
            return None
        return self._code if self._process is None else super()._exit_code()

    def _end(self) -> None:
        if self._loan is None:
            super()._end()
            return
        self._loan.back("keep" if self.sound and self.answers() else "kill")
        self._loan = None


class NoServer:
    """In the place of a server where the simulator's own expert answers (`expert`): nothing runs, nothing can fail."""

    url, elsewhere = EXPERT, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing is held."""

    def metadata(self) -> dict[str, Any]:
        """Return what a server would say of itself: the expert understands no request, and each episode has its own."""
        return {"request_keys": []}

    def doubt(self) -> None:
        """There is nothing to doubt."""

    def revive(self) -> str | None:
        """There is nothing to revive."""
        return None


class Server:
    """A policy server that runs: ours, started again if it dies (a bounded number of times), or an external one."""

    def __init__(self, spec: ShardSpec, log_path: Path, simulators: int, lender: Lender | None = None) -> None:
        self._spec, self._log_path, self._simulators, self._lender = spec, log_path, simulators, lender
        self._restarts = 0
        self._process: BorrowedServer | None = None

    def __enter__(self) -> Self:
        if not self._spec.server.url:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Where a client connects."""
        return self._process.url if self._process is not None else str(self._spec.server.url)

    @property
    def elsewhere(self) -> bool:
        """Whether the server is external."""
        return bool(self._spec.server.url)

    def metadata(self) -> dict[str, Any]:
        """Return the server's metadata."""
        with PolicyClient(self.url, _CONNECT_S, token=os.environ.get(TOKEN_VARIABLE)) as client:
            return client.metadata

    def doubt(self) -> None:
        """Note that a round failed: no other shard is to have this server."""
        if self._process is not None:
            self._process.sound = False

    def revive(self) -> str | None:
        """Start our server again, after a pause, if it died or does not answer, and say so; None where it answers.

        UserError when that has happened too often, or an external server does not come back.
        """
        if self._process is None:
            self._wait_for_it()
            return None
        deadline = time.monotonic() + _DEAF_S
        while self._process.alive and time.monotonic() < deadline:
            if self._process.answers():
                return None
            time.sleep(0.1)
        if self._restarts >= SERVER_RESTARTS:
            self._process.check()
            log = self._process.log_path
            raise UserError(f"the policy server stopped answering {self._restarts + 1} times; see {log}")
        pause_s = _BACKOFF_S[min(self._restarts, len(_BACKOFF_S) - 1)]
        self._restarts += 1
        fate = "does not answer" if self._process.alive else f"is gone ({self._process.exit_text()})"
        self._process.sound = False
        self._process.__exit__(None, None, None)
        time.sleep(pause_s)
        self._start()
        return f"the policy server {fate}; started again after {pause_s:g} s ({self._restarts} of {SERVER_RESTARTS})"

    def _wait_for_it(self) -> None:
        try:
            PolicyClient(self.url, _AWAY_S, token=os.environ.get(TOKEN_VARIABLE)).close()
        except UserError as error:
            raise UserError(f"{error}; finished episodes are kept: start that server, and run again") from None

    def _start(self) -> None:
        spec, log = self._spec, self._log_path
        command = [word.replace("{simulators}", str(self._simulators)) for word in spec.server.command or ()]
        needs = {name: spec.metadata.get(name) for name in SERVER_NEEDS}
        process = BorrowedServer(command, log, spec.server_ready_timeout_s, needs, self._lender)
        self._process = None  # if it does not get ready, there is nothing to take down
        self._process = process.__enter__()
