"""A shard that dies at a file operation of one's choice: DIRECTORY, SCENARIO and FAULT (kill, full).

SCENARIO: fresh; mended, where an episode could not be run before; grown, whose first episodes are rows of its tables.

The real shard and recorder with a scripted simulator in the process itself, so that each life takes a fraction of a
second. Every Python-level operation that changes a file below DIRECTORY is counted, writes of Parquet included (the
writer is handed a file of ours). A life is a fork: it meets a full disk at operation n, or ends by SIGKILL before it,
or in the middle of it where it is a write. For the kills one life forks at each operation: the fork is killed there,
and what it leaves is kept and gone on from. Prints one JSON object per end. Does not see: what a C library opens.
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  (Arrow imports it at its first table: once here, not once per life)
import pyarrow.parquet as pq
from rollouts.scripted import DRAFT, FULL, Policy, Simulator
from rollouts.shards import rows, spec

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
    """Counts file operations below `root`; a disk is full at number `at` (and `torn`, in its middle).

    With `kept`, a fork is killed at each of them, and before and in the middle of each that can be torn; what it leaves
    below `root` is copied to ``kept/<number>``, torn ``kept/<number>-torn``, and the life goes on.
    """

    def __init__(self, root: Path, at: int | None = None, torn: bool = False, kept: Path | None = None) -> None:
        self.root, self.at, self.torn, self.kept = str(root), at, torn, kept
        self.points: list[str] = []
        self.ends: list[dict[str, Any]] = []
        self.recorded: list[str] = []
        self.keeping = False
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

    def point(self, name: str, what: Any, tear: Callable[[], Any] | None = None, descriptor: int = -1) -> None:
        """One operation is about to happen; `tear` does half of it, to the file of `descriptor`."""
        if self.keeping:
            return
        self.points.append(f"{name} {what}")
        if self.kept is not None:
            self._kill(None, descriptor)
            if tear is not None:
                self._kill(tear, descriptor)
        if len(self.points) != self.at:
            return
        if self.torn:
            if tear is None:
                os._exit(3)  # nothing to tear
            tear()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _kill(self, tear: Callable[[], Any] | None, descriptor: int) -> None:
        """Kill a fork here, keep what it leaves, and take back what it wrote."""
        assert self.kept is not None
        self.keeping, self.auditing = True, False
        file = f"/proc/self/fd/{descriptor}"
        if tear is not None:
            place, content = os.lseek(descriptor, 0, os.SEEK_CUR), Path(file).read_bytes()
        child = os.fork()
        if child == 0:
            if tear is not None:
                tear()
            os.kill(os.getpid(), signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        at, torn = len(self.points), tear is not None
        shutil.copytree(self.root, self.kept / (f"{at}-torn" if torn else str(at)))
        hurt = {"end": "killed", "status": status, "recorded": list(self.recorded)}
        self.ends.append({"at": at, "torn": torn, "point": self.points[-1], "hurt": hurt})
        if torn:
            Path(file).write_bytes(content)
            os.lseek(descriptor, place, os.SEEK_SET)
        self.keeping, self.auditing = False, True

    def _counted(self, name: str, original: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            tear = None
            if name == "sendfile":
                tear = lambda: original(*args[:3], os.fstat(args[1]).st_size // 2)  # noqa: E731
            if name in ("fsync", "sendfile"):
                self.point(name, Path(f"/proc/self/fd/{args[0]}").readlink(), tear, args[0])
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
        self._faults.point("write", self._path, lambda: io.FileIO.write(self, half), self.fileno())
        return super().write(data)


class InProcess:
    """Stands for a simulator process: answers at once; init state 1 fails while `broken`."""

    played: list[str] = []  # noqa: RUF012
    broken = False
    faults: Faults | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def ask(self, request: dict[str, Any]) -> None:
        key = EpisodeKey(*request["key"])
        self.played.append(key.name)
        if self.broken and key.init_state == 1:
            self._answer = {"failed": "simulator", "error": "it is broken"}
            return
        record = run_episode(
            Simulator(20 if key.init_state == 0 else None),
            Policy([(12, FULL), (0, DRAFT), (12, FULL), (9, DRAFT)]),
            key,
            condition=conditions.build(SPEC.condition),
            guard=guards.build(SPEC.guard),
            seed=7,
        )
        film = None if record.episode["success"] else request["film"]
        if film is not None:
            self._shoot(film, key.name)
        self._answer = {"episode": record.episode, "rounds": record.rounds, "steps": record.steps, "video": film}

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


def life(out: Path, faults: Faults | None = None, *, broken: bool = False, told: Any = SPEC) -> dict[str, Any]:
    """Run the shard in a fork until it ends, one way or another; say how, what it played and what it recorded."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _live(out, faults, broken, writing, told)
    os.close(writing)
    with os.fdopen(reading) as stream:
        lines = [json.loads(line) for line in stream]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {
        "status": status,
        "played": [line["played"] for line in lines if "played" in line],
        "recorded": [line["recorded"] for line in lines if "recorded" in line],
        **next((line for line in lines if "end" in line), {"end": "killed"}),
    }


def _live(out: Path, faults: Faults | None, broken: bool, pipe: int, told: Any) -> None:
    """Never returns: the life of the fork."""
    say = os.fdopen(pipe, "w", buffering=1)
    InProcess.broken, InProcess.faults, InProcess.played = broken, faults, _Told(say)
    shard.SimulatorProcess, shard.wait_any, shard._Server = InProcess, lambda *_: None, NoServer
    record = shard.Recorder.record

    def recorded(self: Any, key: Any, episode: Any, *pictures: Any, **more: Any) -> None:
        record(self, key, episode, *pictures, **more)
        if episode.episode["outcome"] != "error":
            print(json.dumps({"recorded": key.name}), file=say)
            if faults:
                faults.recorded.append(key.name)

    shard.Recorder.record = recorded
    end = {"end": "finished"}
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
    if faults:
        end |= {"points": faults.points, "audited": faults.audited, "ends": faults.ends}  # type: ignore[dict-item]
    print(json.dumps(end), file=say)
    say.flush()
    os._exit(0)


class _Told(list):  # type: ignore[type-arg]
    """A list that says what is put into it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def append(self, name: str) -> None:
        print(json.dumps({"played": name}), file=self._stream)


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
    shutil.copytree(start, place)
    whole = life(place, Faults(place, kept=kept if fault == "kill" else None))
    ends = whole.pop("ends")
    print(json.dumps({"whole": whole}))
    expected = _forked(place)
    for end in killed(place, kept, ends) if fault == "kill" else filled(start, place, whole["points"]):
        print(json.dumps(end | {"same": end.pop("tables") == expected}), flush=True)


def killed(place: Path, kept: Path, ends: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Go on from what each kill left; once where two left the same, byte for byte."""
    done: dict[Any, dict[str, Any]] = {}
    for end in ends:
        left = kept / (f"{end['at']}-torn" if end["torn"] else str(end["at"]))
        removed = end["at"] % 2 == 0
        shutil.rmtree(place)
        shutil.copytree(left, place)
        if removed:  # as Snakemake does with the outputs of a job that was killed
            for name in ("episodes.parquet", "rounds.parquet", "steps.parquet", "ledger.json"):
                (place / name).unlink(missing_ok=True)
        found = {str(p.relative_to(place)): p.read_bytes() if p.is_file() else b"/" for p in place.rglob("*")}
        state = frozenset(found.items())
        if state not in done:
            done[state] = went_on(place)
        yield end | {"outputs_removed": removed} | done[state]


def filled(start: Path, place: Path, points: list[str]) -> Iterator[dict[str, Any]]:
    """Meet a full disk at each operation, then go on with room again."""
    for at, point in enumerate(points, 1):
        for torn in (False, True) if point.split()[0] in ("write", "sendfile") else (False,):
            shutil.rmtree(place)
            shutil.copytree(start, place)
            hurt = life(place, Faults(place, at, torn))
            yield {"at": at, "torn": torn, "point": point, "hurt": hurt, "outputs_removed": False} | went_on(place)


def went_on(place: Path) -> dict[str, Any]:
    after = life(place)
    return {"after": after, "tables": _forked(place), "leftovers": leftovers(place)}


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
    gc.freeze()  # or the collector of each fork touches, and so copies, all that was imported
    lives(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3])
