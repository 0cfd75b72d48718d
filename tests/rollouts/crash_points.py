"""A shard that dies at a file operation of one's choice: DIRECTORY, SCENARIO and FAULT (kill, full).

SCENARIO: fresh; mended, where an episode could not be run before; grown, whose first episodes are rows of its tables.

The real shard and recorder with a scripted simulator in the process itself, so that each life takes a fraction of a
second. Every Python-level operation that changes a file below DIRECTORY is counted, writes of Parquet included (the
writer is handed a file of ours). One life, a fork, forks at each operation: that fork is killed before it, or in the
middle of it where it is a write, or meets a full disk there and goes on to its own end; what it leaves is kept, and a
life goes on from that. Prints one JSON object per end. Does not see: what a C library opens.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import errno
import fcntl
import functools
import gc
import io
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  (Arrow imports these at its first table: once here, not once per life)
import pyarrow.pandas_compat  # noqa: F401
import pyarrow.parquet as pq
from rollouts.scripted import DRAFT, FULL, Policy, Simulator
from rollouts.shards import rows, spec

from flashtrail.base import machine
from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts import conditions, guards, shard
from flashtrail.rollouts.episode import run_episode

CHANGES = (
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "truncate",
    "link",
    "symlink",
    "fsync",
    "sendfile",
)
AUDITED = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
SPEC = spec(init_states=(0, 1, 2), server=["no", "{port}"], video="failures")


class Faults:
    """Counts file operations below `root`, and forks at each: the fork is killed or, with `full`, meets a full disk.

    Before each operation, and in the middle of each that can be torn; what the fork leaves below `root` is moved to
    ``kept/<number>``, torn ``kept/<number>-torn``, and the life goes on.
    """

    def __init__(self, root: Path, kept: Path, full: bool) -> None:
        self.root, self.kept, self.full = str(root), kept, full
        self.points: list[str] = []
        self.ends: list[dict[str, Any]] = []
        self.keeping = False  # in a fork, no operation is a point
        self.audited, self.auditing = 0, True
        self._original = {name: getattr(os, name) for name in CHANGES}
        self._open, self._os_open, self._write_table = io.open, os.open, pq.write_table

    def install(self) -> None:
        sys.addaudithook(self._audit)
        for name, original in self._original.items():
            setattr(os, name, self._counted(name, original))
        io.open = builtins.open = self._open_file
        os.open = self._open_descriptor
        pq.write_table = lambda table, where, **more: self._write_parquet(table, where, more)

    def point(self, name: str, what: Any, tear: Callable[[], Any] | None = None) -> None:
        """One operation is about to happen; `tear` does half of it."""
        if self.keeping:
            return
        self.points.append(f"{name} {what}")
        for half in [None, tear] if tear else [None]:
            self._end(half)

    def _end(self, tear: Callable[[], Any] | None) -> None:
        """End a fork here, in a copy of `root`, and keep what it leaves."""
        self.keeping, self.auditing = True, False
        aside, rename = f"{self.root}.aside", self._original["rename"]
        rename(self.root, aside)
        shutil.copytree(aside, self.root)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            TOLD.pipe = writing
            self._move_descriptors(aside)
            if tear is not None:
                tear()
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.kill(os.getpid(), signal.SIGKILL)
        hurt = {"end": "killed", "played": TOLD.played, "recorded": TOLD.recorded} | ended(child, reading, writing)
        at, torn = len(self.points), tear is not None
        rename(self.root, self.kept / (f"{at}-torn" if torn else str(at)))
        rename(aside, self.root)
        self.ends.append({"at": at, "torn": torn, "point": self.points[-1], "hurt": copy.deepcopy(hurt)})
        self.keeping, self.auditing = False, True

    def _move_descriptors(self, aside: str) -> None:
        """Open each file that is open below `aside` in the copy, where it stands, under its own number."""
        for link in Path("/proc/self/fd").iterdir():
            descriptor = int(link.name)
            with contextlib.suppress(OSError):  # the descriptor that read the directory
                path = str(link.readlink())
                if path.startswith(f"{aside}/"):
                    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
                    moved = self._os_open(path.replace(aside, self.root, 1), flags)
                    os.lseek(moved, os.lseek(descriptor, 0, os.SEEK_CUR), os.SEEK_SET)
                    os.dup2(moved, descriptor, inheritable=False)
                    os.close(moved)

    def _counted(self, name: str, original: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            tear = None
            if name == "sendfile":
                tear = lambda: original(*args[:3], os.fstat(args[1]).st_size // 2)  # noqa: E731
            if name in ("fsync", "sendfile"):
                self.point(name, Path(f"/proc/self/fd/{args[0]}").readlink(), tear)
            elif self._inside(args[0], named):
                self.point(name, args[0])
            # A kill does not need the disk to be waited for, and there are thousands of these.
            return None if name == "fsync" else original(*args, **named)

        return call

    def _open_descriptor(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and self._inside(path, named):
            self.point("open", path)
        return self._os_open(path, flags, *rest, **named)

    def _open_file(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or not self._inside(file, {}):
            return self._open(file, mode, buffering, *rest, **named)
        self.point("open", file)
        raw = _File(self, file, mode.replace("b", "").replace("t", ""))
        if "b" in mode:
            return io.BufferedWriter(raw, 1 << 16) if buffering else raw
        return io.TextIOWrapper(io.BufferedWriter(raw, 1 << 16), write_through=False)

    def _write_parquet(self, table: Any, where: Any, more: dict[str, Any]) -> None:
        with self._open_file(where, "wb") as stream:
            self._write_table(table, stream, **more)

    def _inside(self, path: Any, named: dict[str, Any]) -> bool:
        if named.get("dir_fd") is not None:
            path = Path(f"/proc/self/fd/{named['dir_fd']}").readlink() / os.fsdecode(path)
        return os.fsdecode(path).startswith(self.root)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.auditing:
            return
        if event in AUDITED:
            named = {"dir_fd": args[-1]} if event in ("os.remove", "os.rmdir", "os.mkdir") and args[-1] != -1 else {}
            self.audited += self._inside(args[0], named)
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            writes = isinstance(args[2], int) and args[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            self.audited += bool(writes) and self._inside(args[0], {})


class _File(io.FileIO):
    """A file whose writes are operations of their own."""

    def __init__(self, faults: Faults, path: Any, mode: str) -> None:
        self._faults, self._path = faults, path
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        half = bytes(data)[: len(data) // 2]
        self._faults.point("write", self._path, lambda: io.FileIO.write(self, half))
        return super().write(data)


@functools.cache
def scripted(key: EpisodeKey) -> bytes:
    """One episode, as it comes through a pipe; what the loop does in it is not what is tested here."""
    record = run_episode(
        Simulator(20 if key.init_state == 0 else None),
        Policy([(12, FULL), (0, DRAFT), (12, FULL), (9, DRAFT)]),
        key,
        condition=conditions.build(SPEC.condition),
        guard=guards.build(SPEC.guard),
        seed=7,
    )
    return pickle.dumps({"episode": record.episode, "rounds": record.rounds, "steps": record.steps})


class InProcess:
    """Stands for a simulator process: answers at once; init state 1 fails while `broken`."""

    broken = False
    faults: Faults | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def ask(self, request: dict[str, Any]) -> None:
        key = EpisodeKey(*request["key"])
        TOLD.played.append(key.name)
        if self.broken and key.init_state == 1:
            self._answer = {"failed": "simulator", "error": "it is broken"}
            return
        answer = pickle.loads(scripted(key))
        film = None if answer["episode"]["success"] else request["film"]
        if film is not None:
            self._shoot(film, key.name)
        self._answer = answer | {"video": film}

    def _shoot(self, film: str, text: str) -> None:
        """As a process of its own would: no operation of the shard."""
        opened, faults = os.open, self.faults
        if faults:
            opened, faults.auditing = faults._os_open, False
        descriptor = opened(film, os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(descriptor, text.encode() * 99)
        os.close(descriptor)
        if faults:
            faults.auditing = True

    def answer(self) -> dict[str, Any]:
        return self._answer

    def close(self) -> None:
        pass

    leave = close


class NoServer:
    url, elsewhere = "ws://none", False

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> NoServer:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def metadata(self) -> dict[str, Any]:
        return {}


class Told:
    """What a life has played and recorded, and the descriptor to which it says how it ended."""

    def __init__(self, pipe: int = -1) -> None:
        self.played: list[str] = []
        self.recorded: list[str] = []
        self.pipe = pipe

    def end(self, end: dict[str, Any]) -> None:
        with os.fdopen(self.pipe, "w") as stream:
            json.dump(end | {"played": self.played, "recorded": self.recorded}, stream)
        os._exit(0)


TOLD = Told()


def life(out: Path, faults: Faults | None = None, *, broken: bool = False, told: Any = SPEC) -> dict[str, Any]:
    """Run the shard in a fork until it ends, one way or another; say how, what it played and what it recorded."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        TOLD.pipe = writing
        _live(out, faults, broken, told)
    return {"end": "killed"} | ended(child, reading, writing)


def ended(child: int, reading: int, writing: int) -> dict[str, Any]:
    """Return what a fork said at its end, with its exit status; nothing else where it was killed."""
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    said = json.loads(text) if text else {}
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), **said}


def _live(out: Path, faults: Faults | None, broken: bool, told: Any) -> None:
    """Never returns: the life of the fork."""
    InProcess.broken, InProcess.faults = broken, faults
    shard.SimulatorProcess, shard.wait_any, shard.Server = InProcess, lambda *_: None, NoServer
    machine.Watch._own = lambda *_: 0.0  # it reads what /proc has of every process, four times a life
    record = shard.Recorder.record

    def recorded(self: Any, key: Any, episode: Any, *pictures: Any, **more: Any) -> None:
        record(self, key, episode, *pictures, **more)
        if episode.episode["outcome"] != "error":
            TOLD.recorded.append(key.name)

    shard.Recorder.record = recorded
    end: dict[str, Any] = {"end": "finished"}
    try:
        if faults:
            faults.install()
        else:
            os.fsync = lambda descriptor: None
        shard.roll_out_shard(told, out, log=io.StringIO())
    except UserError as error:
        end = {"end": "told", "line": str(error)}
    except BaseException as error:
        end = {"end": "crashed", "line": f"{type(error).__name__}: {error}"}
    if faults and not faults.keeping:
        end |= {"points": faults.points, "audited": faults.audited, "ends": faults.ends}
    TOLD.end(end)


def tables_of(out: Path) -> Any:
    """The shard's tables without timing columns, its ledger and its films: in a fork, since Arrow has threads."""
    films = {p.name: p.read_bytes().decode() for p in (out / "videos").glob("*")}
    return [rows(out), json.loads((out / "ledger.json").read_text()), films]


def leftovers(out: Path) -> list[str]:
    return sorted(str(p.relative_to(out)) for p in out.rglob("*") if "partial" in p.name or "assembled" in p.name)


def prepare(directory: Path, scenario: str) -> Path:
    """Return what a life begins with: nothing, parts of a shard one of whose episodes could not be run, or tables."""
    start = directory / "start"
    if scenario == "mended":
        assert life(start, broken=True)["end"] == "finished"
    elif scenario == "grown":  # as in an unpacked bundle, which has no parts
        shorter = SPEC.model_copy(update={"init_states": SPEC.init_states[:2]})
        assert life(start, told=shorter)["end"] == "finished"
        shutil.rmtree(start / "parts")
    else:
        start.mkdir()
    return start


def lives(directory: Path, scenario: str, fault: str) -> None:
    """Print the undisturbed life, then one line for each operation and each way to be disturbed in it."""
    start, place, kept = prepare(directory, scenario), directory / "place", directory / "kept"
    kept.mkdir()
    shutil.copytree(start, place)
    whole = life(place, Faults(place, kept, full=fault == "full"))
    ends = whole.pop("ends")
    print(json.dumps({"whole": whole}))
    expected = _forked(place)
    for end in gone_on(place, kept, ends, outputs_go=fault == "kill"):
        print(json.dumps(end | {"same": end.pop("tables") == expected}), flush=True)


def gone_on(place: Path, kept: Path, ends: list[dict[str, Any]], outputs_go: bool) -> Iterator[dict[str, Any]]:
    """Go on from what each end left; once where two left the same, byte for byte."""
    done: dict[Any, dict[str, Any]] = {}
    for end in ends:
        removed = outputs_go and end["at"] % 2 == 0
        shutil.rmtree(place)
        (kept / (f"{end['at']}-torn" if end["torn"] else str(end["at"]))).rename(place)
        if removed:  # as Snakemake does with the outputs of a job that was killed
            for name in ("episodes.parquet", "rounds.parquet", "steps.parquet", "ledger.json"):
                (place / name).unlink(missing_ok=True)
        found = {str(p.relative_to(place)): p.read_bytes() if p.is_file() else b"/" for p in place.rglob("*")}
        state = frozenset(found.items())
        if state not in done:
            after = life(place)
            done[state] = {"after": after, "tables": _forked(place), "leftovers": leftovers(place)}
        yield end | {"outputs_removed": removed} | done[state]


def _forked(place: Path) -> Any:
    """`tables_of` in a fork of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            try:
                json.dump(tables_of(place), stream)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


if __name__ == "__main__":
    for number in SPEC.init_states:
        scripted(EpisodeKey(SPEC.suite, SPEC.task_id, number, 0))
    gc.freeze()  # or the collector of each fork touches, and so copies, all that was imported
    lives(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3])
