"""Finished episodes on disk: each one durable by itself, all of them put together when the shard is complete.

A part is a directory with the episode's rows in three tables (and its video), made aside, synced and renamed, so it is
there whole or not at all. Parts are kept under a digest of what an episode depends on, so a changed spec starts afresh,
and stay when the shard is complete: a longer one runs only what is new, a shorter one nothing.
tests/rollouts/test_crash_points.py kills at every file operation of this module.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts.episode import EpisodeRecord
from flashtrail.tables import pictures, schemas
from flashtrail.tables.schemas import FILMS, SPEC_DIGEST

VIDEO, SHEET, SENT = "video.mp4", "sheet.jpg", f"sent{pictures.SENT}"
LEDGER = "ledger.json"
# What one shard's `examples` may take, the first success before any failure: 21 shards of these stay within 30 MB.
EXAMPLES_BYTES = 1_400_000
_PARTIAL = ".partial"


class Part(NamedTuple):
    """A finished episode: how it ended, whether that is a success that stands, and what was filmed when it was run."""

    outcome: str
    earned: bool
    filmed: bool
    films: str


class Recorder:
    """The parts of one shard under `parts_dir`/`digest`.

    `common` are the columns that all rows of the shard share (run_id, policy, arm, seed); `metadata` goes into every
    file. UserError, one line, for a full disk or a directory that cannot be written; earlier parts stay readable.
    """

    def __init__(
        self, parts_dir: str | Path, digest: str, common: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> None:
        self.root, self.directory = Path(parts_dir), Path(parts_dir) / digest
        self._common, self.metadata = dict(common), {**metadata, SPEC_DIGEST: digest}

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the shard for this process; UserError if another one is at work on it. A kill releases it."""
        with _disk(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(  # perhaps of a run that was killed
                    f"another process is rolling out the shard in {self.root}: wait for it or stop it "
                    f"(fuser '{self.root / '.lock'}' gives its number)"
                ) from None
            with _disk(self.directory):
                _remove_partial(self.directory)
            yield
        finally:
            os.close(lock)

    def films(self) -> Path:
        """Return a directory for films of unfinished episodes, on the disk of the parts; `exclusive` removes it."""
        directory = self.directory / f".films{_PARTIAL}"
        with _disk(directory):
            directory.mkdir(parents=True, exist_ok=True)
        return directory

    def parts(self) -> dict[str, Part]:
        """Return each recorded episode by name; a part that is not whole is removed."""
        parts: dict[str, Part] = {}
        for part in sorted(p for p in self.directory.glob("init_*") if p.is_dir()):
            try:
                read = {name: schemas.read_table(part / f"{name}.parquet", s) for name, s in schemas.SCHEMAS.items()}
                (row,) = read["episodes"].to_pylist()
                filmed = (part / VIDEO).is_file()
                if row["video"] is None or filmed:
                    earned = row["success"] and row["verified_success"] is not False
                    films = schemas.read_metadata(part / "episodes.parquet").get(FILMS, "none")
                    parts[part.name] = Part(row["outcome"], earned, filmed, films)
                    continue
            except (UserError, ValueError):
                pass
            with _disk(part):
                shutil.rmtree(part)
        return parts

    def outcomes(self) -> dict[str, str]:
        """Return the outcome of each recorded episode by name."""
        return {name: part.outcome for name, part in self.parts().items()}

    def record(
        self,
        key: EpisodeKey,
        episode: EpisodeRecord,
        video: str | Path | None = None,
        sheet: str | Path | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Make an episode durable; when this returns, a kill or a power cut does not lose it.

        Replaces an earlier part of the same episode: one with outcome ``error``, or without the film that is wanted.
        Beside a film lies what else was sent. `sheet`: its contact sheet, where that does not lie there.
        `metadata`: what is said of this episode beside what is said of all.
        """
        part = self.directory / key.name
        aside = self.directory / f".{key.name}{_PARTIAL}"
        with _disk(part):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for name, rows in self._rows(key, episode, video).items():
                about = {**self.metadata, **(metadata or {})}
                schemas.write_table(aside / f"{name}.parquet", rows, schemas.SCHEMAS[name], about)
            if video is not None:
                Path(video).replace(aside / VIDEO)
                _sync(aside / VIDEO)
                if (sent := Path(video).with_suffix(pictures.SENT)).is_file():
                    sent.replace(aside / SENT)
                    _sync(aside / SENT)
                sheet = sheet or Path(video).with_suffix(".jpg")
            if sheet is not None and Path(sheet).is_file():
                Path(sheet).replace(aside / SHEET)
                _sync(aside / SHEET)
            _sync(aside)
            if part.exists():
                shutil.rmtree(part)
            aside.rename(part)
            _sync(self.directory)

    def _rows(
        self, key: EpisodeKey, episode: EpisodeRecord, video: str | Path | None
    ) -> dict[str, list[dict[str, Any]]]:
        columns = asdict(key)
        row = {**self._common, **columns, **episode.episode}
        row["video"] = None if video is None else f"videos/{key.name}.mp4"
        columns = {"arm": self._common["arm"], **columns}
        return {
            "episodes": [row],
            "rounds": [{**columns, **row} for row in episode.rounds],
            "steps": [{**columns, **row} for row in episode.steps],
        }

    def assemble(self, expected: Sequence[EpisodeKey], out_dir: str | Path, films: str = "all") -> dict[str, str]:
        """Put the parts of the expected episodes together in `out_dir` and return their outcomes by name.

        Writes episodes.parquet, rounds.parquet, steps.parquet (rows in the order of `expected`), sheets.parquet,
        ledger.json and videos/. `films`: ``all`` that there are, or ``examples``, the first success and failures, up
        to EXAMPLES_BYTES. UserError naming the first episode that is missing.
        """
        outcomes = self.outcomes()
        for key in expected:
            if key.name not in outcomes:
                raise UserError(
                    f"{self._common['arm']}: no record of task {key.task_id} {key.name}: run the shard again"
                )
        out = Path(out_dir)
        with _disk(out):
            out.mkdir(parents=True, exist_ok=True)
            _remove_partial(out)
            stored = [schemas.read_metadata(self.directory / key.name / "episodes.parquet") for key in expected]
            metadata = {**schemas.joined(stored), FILMS: films}
            filmed = self._filmed(expected, outcomes, films)
            for name, schema in schemas.SCHEMAS.items():
                files = [self.directory / key.name / f"{name}.parquet" for key in expected]
                rows: Any = schemas.read_tables(files, schema)
                if name == "episodes":
                    chosen = [key in filmed for key in expected]
                    pairs = zip(rows.to_pylist(), chosen, strict=True)
                    rows = [row | {"video": row["video"] if kept else None} for row, kept in pairs]
                schemas.write_table(out / f"{name}.parquet", rows, schema, metadata)
            schemas.write_table(out / "sheets.parquet", self._sheets(filmed, outcomes), schemas.SHEETS, metadata)
            self._collect_videos(filmed, out / "videos")
            provenance.json_dump(self._ledger(expected, outcomes), out / LEDGER)  # last: where it is, all of it is
            _sync(out)
        return {key.name: outcomes[key.name] for key in expected}

    def _ledger(self, expected: Sequence[EpisodeKey], outcomes: Mapping[str, str]) -> dict[str, Any]:
        errors = {}
        for key in expected:
            if outcomes[key.name] == "error":
                file = self.directory / key.name / "episodes.parquet"
                errors[key.name] = schemas.read_table(file, schemas.EPISODES)["error"].to_pylist()[0]
        return {
            "format": "flashtrail-ledger",
            "version": 1,
            "arm": self._common["arm"],
            "suite": expected[0].suite,
            "task_id": expected[0].task_id,
            "spec_digest": self.directory.name,
            "expected": [key.name for key in expected],
            "episodes": [{"init_state": key.init_state, "repeat": key.repeat} for key in expected],
            "outcomes": {key.name: outcomes[key.name] for key in expected},
            "errors": errors,
        }

    def _filmed(self, expected: Sequence[EpisodeKey], outcomes: Mapping[str, str], films: str) -> list[EpisodeKey]:
        """Return the episodes whose film is kept: a choice by order and size alone, whatever ran when."""
        there = [key for key in expected if any((self.directory / key.name / f).is_file() for f in (VIDEO, SHEET))]
        if films != "examples":
            return there if films != "none" else []
        first = [key for key in there if outcomes[key.name] == "success"][:1]
        unearned = [key for key in there if outcomes[key.name] == "success" and key not in first and self._apart(key)]
        left, kept = EXAMPLES_BYTES, []
        for key in [*first, *unearned, *(key for key in there if outcomes[key.name] != "success")]:
            files = [self.directory / key.name / name for name in (VIDEO, SENT)]
            size = sum(file.stat().st_size for file in files if file.is_file())
            if size <= left:
                kept.append(key)
                left -= size
        return [key for key in there if key in kept]

    def _apart(self, key: EpisodeKey) -> bool:
        """Whether an episode's success was looked at and not verified."""
        file = self.directory / key.name / "episodes.parquet"
        return schemas.read_table(file, schemas.EPISODES, ["verified_success"])["verified_success"].to_pylist() == [
            False
        ]

    def _sheets(self, filmed: Sequence[EpisodeKey], outcomes: Mapping[str, str]) -> list[dict[str, Any]]:
        rows = []
        for key in filmed:
            sheet = self.directory / key.name / SHEET
            if sheet.is_file():
                own = {"outcome": outcomes[key.name], "jpeg": sheet.read_bytes()}
                rows.append({"arm": self._common["arm"], **asdict(key), **own})
        return rows

    def _collect_videos(self, filmed: Sequence[EpisodeKey], target: Path) -> None:
        """Leave exactly these films in `target`: those of an earlier run of the shard are not its own."""
        shutil.rmtree(target, ignore_errors=True)
        for key in filmed:
            if not (self.directory / key.name / VIDEO).is_file():
                continue  # its sheet was taken from elsewhere without it
            target.mkdir(exist_ok=True)
            for name, suffix in ((VIDEO, ".mp4"), (SENT, pictures.SENT)):
                if (source := self.directory / key.name / name).is_file():
                    with provenance.write_atomic(target / f"{key.name}{suffix}") as temporary:
                        shutil.copyfile(source, temporary)
        if target.is_dir():
            _sync(target)

    def tidy(self, keep: bool) -> None:
        """Once the shard is complete, keep its parts and those of the spec before, for a setting that is tried and
        taken back; none unless `keep`.
        """
        with _disk(self.root):
            _remove_partial(self.directory)
            specs = [entry for entry in self.root.iterdir() if entry.is_dir()]
            specs.sort(key=lambda entry: (entry == self.directory, entry.stat().st_mtime_ns), reverse=True)
            for entry in specs[2 if keep else 0 :]:
                shutil.rmtree(entry)


def unfilmed(parts: Mapping[str, Part], expected: Sequence[EpisodeKey], films: str) -> set[str]:
    """Return the finished episodes of which `films` wants a film that none was made of when they were run.

    A film that was made and is gone (left out of a bundle, over EXAMPLES_BYTES) is not wanted again.
    """
    own = {key.name: parts[key.name] for key in expected if key.name in parts}
    missing = {name for name, part in own.items() if not part.filmed and not _filmed(part.films, part.earned)}
    wanted = {name for name in missing if _filmed(films, own[name].earned)}
    if films == "examples":  # of the successes that stand the first alone, and none where one has its film
        stand = [name for name, part in own.items() if part.earned]
        wanted -= set(stand[1:] if missing.issuperset(stand) else stand)
    return wanted


def _filmed(setting: str, earned: bool) -> bool:
    """Whether an episode is filmed under a setting of `video`."""
    return setting in ("examples", "all") or (setting == "failures" and not earned)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"disk full while writing {path}: free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UserError(f"cannot write {path} ({error.strerror}): change its permissions and run again") from error
        raise UserError(f"cannot write {path} ({error.strerror or error}): check the disk and run again") from error


def _remove_partial(directory: Path) -> None:
    """Remove what a killed process was writing in a directory; only under the shard's lock."""
    for leftover in directory.glob(f".*{_PARTIAL}"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
