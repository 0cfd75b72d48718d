"""Forks of one process that has imported what a run's scripts import: one fork server a run, on the run's machine.

Many a job of the workflow takes longer to import what it needs than to do its work. So the process that the user
started (rules/common.smk, onstart) has a child which imports what a script names at its top when it is first asked for
it, and which is forked for each job of that script; `fork.py` is what Snakemake starts in a job's place. A fork has the
job's environment, directory and streams, and ends as a script does. None is made, and `fork.py` starts the interpreter
itself, where it could differ from that: another environment, a module of ours edited since it was imported, a thread
that a fork would lose. It listens on an abstract socket (Linux: nothing is left on the disk, however a run ends) and
answers only processes of the same user.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import gc
import importlib
import itertools
import json
import os
import runpy
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from flashtrail.base.peers import peer_is_us
from flashtrail.base.provenance import PACKAGE_ROOT

# The scripts that are forked: of many jobs, or importing what such scripts do. With each the modules that a notebook
# imports in its place.
SCRIPTS: Mapping[str, Sequence[str]] = {
    "roll_out_shard.py": (),
    "record_observations.py": (),
    "merge_shards.py": (),
    "evaluate_claims.py": (),
    "write_step_log.py": (),
    "write_episode_pages.py": (),
    "index_episodes.py": (),
    "render_report.py": tuple(f"flashtrail.report.{name}" for name in ("headline", "claims_chapter", "signal_chapter")),
}
_CLIENT = Path(__file__).with_name("fork.py")
_ONE_THREAD = dict.fromkeys(  # what Snakemake says to a job of one thread
    [*(f"{name}_NUM_THREADS" for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")), "VECLIB_MAXIMUM_THREADS"], "1"
)
_OWN = {"_", "SHLVL", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "TEMPDIR"}  # of a job; read by no import
_IMPORTS = (ast.Import, ast.ImportFrom)
_OPENING = (*_IMPORTS, ast.Expr, ast.Assign)  # Snakemake's own lines are such
_HEAR_S = 5.0
_MOST_BYTES = 1 << 20
_INTERRUPTED = 130


class ForkServer:
    """What was imported, and who may have a fork of it.

    `scripts`: by a script's name, modules that it needs beside those that it names. Others' jobs are not forked.
    """

    def __init__(self, scripts: Mapping[str, Sequence[str]]) -> None:
        self._scripts, self._prepared = scripts, set[str]()
        self._environment = _shared(os.environ)
        os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's allocator, to have no thread here
        self._files: dict[str, tuple[int, int]] = {}  # our modules, as they were when they were imported

    def serve(self, listener: socket.socket, parent: int) -> None:
        """Answer until the file descriptor `parent` says that its other end is closed."""
        watched: list[Any] = [listener, parent]
        while parent not in select.select(watched, [], [])[0]:
            client, _ = listener.accept()
            with (
                client,
                contextlib.suppress(OSError, ValueError, LookupError, TypeError),
            ):  # it died, or is none of ours
                client.settimeout(_HEAR_S)
                if peer_is_us(client):
                    self._answer(client, listener)

    def _answer(self, client: socket.socket, listener: socket.socket) -> None:
        said, streams, _, _ = socket.recv_fds(client, _MOST_BYTES, 3)
        try:
            asked = json.loads(said)
            if not self._may_fork(asked):
                client.send(b"no")
            elif os.fork() == 0:
                listener.close()  # or a server that has died would seem to be there for as long as its forks
                _become(asked, streams, client)
        finally:
            for stream in streams:
                os.close(stream)

    def _may_fork(self, asked: Mapping[str, Any]) -> bool:
        script = Path(asked["command"][0])
        name = script.name.partition(".")[2]  # Snakemake's copy is tmpXXXXXXXX.NAME
        if name not in self._scripts or _shared(asked["environment"]) != self._environment:
            return False
        if name not in self._prepared:
            self._prepare(name, script.read_text(encoding="utf-8"))
        if any(_stamp(file) != stamp for file, stamp in self._files.items()):
            return False
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208

    def _prepare(self, name: str, text: str) -> None:
        """Import what the script does before anything else; what cannot be imported is for the script to tell."""
        before = itertools.takewhile(lambda node: isinstance(node, _OPENING), ast.parse(text).body)
        for node in before:
            if isinstance(node, _IMPORTS):
                with contextlib.suppress(Exception):
                    exec(compile(ast.Module([node], []), name, "exec"), {})
        for module in self._scripts[name]:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        self._prepared.add(name)
        files = {str(getattr(module, "__file__", None)) for module in [*sys.modules.values()]}
        self._files |= {file: _stamp(file) for file in files if file.startswith(f"{PACKAGE_ROOT}{os.sep}")}
        gc.collect()
        gc.freeze()  # a collection in a fork would walk, and so copy, what they share


def _shared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _OWN}


def _stamp(file: str) -> tuple[int, int]:
    try:
        found = Path(file).stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


# --- in a fork ---


def _become(asked: Mapping[str, Any], streams: Sequence[int], client: socket.socket) -> NoReturn:
    """Run the command as `python SCRIPT ARG...` does, and tell the client how it ended."""
    code = 1
    try:
        client.settimeout(None)
        for own, stream in enumerate(streams):
            os.dup2(stream, own)
        _reopen()
        client.send(b"forked")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(asked["directory"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        tempfile.tempdir = None  # it is looked for again, there
        code = _run(asked["command"])
        threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does at its end, as far as it matters
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        client.send(str(code).encode())
    finally:
        os._exit(code)


def _reopen() -> None:
    """Open Python's streams again: the server's own were opened on files that could seek, and would try to."""
    for own, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        was = getattr(sys, name)
        lines = 1 if name == "stderr" or os.isatty(own) else -1
        stream = open(own, mode, lines, was.encoding, was.errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(command: Sequence[str]) -> int:
    """Run a script and return its exit code; an exception is shown as the interpreter shows it."""
    sys.argv[:] = command
    sys.path.insert(0, str(Path(command[0]).parent))
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


# --- in the process of the run ---


class Started(NamedTuple):
    """A fork server, and what runs a script in a fork of it: the words that a shell has in the interpreter's place."""

    process: subprocess.Popen[bytes]
    words: str

    def stop(self) -> None:
        """End it; its forks go on."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start(python: str = sys.executable, scripts: Mapping[str, Sequence[str]] = SCRIPTS) -> Started | None:
    """Start the fork server of this process, with which it ends; None where there can be none.

    `python`: the interpreter, by its path. `scripts`: as `ForkServer` has it.
    """
    if not sys.platform.startswith("linux"):
        return None
    address = f"flashtrail-{secrets.token_hex(16)}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"\0{address}")
            listener.listen(1024)
            server = subprocess.Popen(
                [python, "-P", "-m", "flashtrail.base.forkserver", str(listener.fileno()), json.dumps(scripts)],
                stdin=subprocess.PIPE,  # its end says that this process has ended
                stdout=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                env={**os.environ, **_ONE_THREAD},
            )
    except OSError as error:
        print(f"no fork server ({error}); each job imports by itself", file=sys.stderr, flush=True)
        return None
    started = Started(server, shlex.join([python, "-I", "-S", str(_CLIENT), address, python]))
    atexit.register(started.stop)
    return started


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the jobs
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks tell by themselves how they ended
    with socket.socket(fileno=int(sys.argv[1])) as bound:
        ForkServer(json.loads(sys.argv[2])).serve(bound, 0)
