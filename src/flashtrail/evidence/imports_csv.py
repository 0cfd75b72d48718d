"""Per-round and per-episode CSV files with the reproduction's columns (docs/reference/FLASH.md, G) as our tables.

A file with `infer_id` holds rounds, one with `success` and without it holds episodes; both are needed, since a rate
cannot be had from rounds. Columns that are not known are left alone, cells that are missing stay empty. Knows the CSV
columns; the meaning of a round is in imports.py.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.errors import UserError
from flashtrail.evidence import tables
from flashtrail.evidence.imports import BadRow, Imported, Problem, episode_row, number, round_row, text, told, whole

Place = tuple[str, int, int]  # run_name, task_id, episode_idx
_ROUND_COLUMNS = ("run_name", "task_id", "episode_idx", "infer_id", "route_type", "accepted_prefix_len")
_EPISODE_COLUMNS = ("run_name", "task_suite_name", "task_id", "episode_idx", "completed", "success", "steps")


class CsvRun:
    """Reads the CSV files of one reproduction."""

    def __init__(self, files: Sequence[str | Path], policy: str, seed: int, arm: str | None = None) -> None:
        self.policy, self.seed, self.arm = policy, seed, arm
        self.result = Imported(origin=f"CSV files {', '.join(sorted(Path(f).name for f in files))}")
        self.files: dict[str, list[Path]] = {"rounds": [], "episodes": []}
        for path in map(Path, files):
            self.files[_kind(path)].append(path)
            self.result.files.append(path)
        for kind, found in self.files.items():
            if not found:
                raise UserError(f"no CSV of {kind} was given: per-round and per-episode files are both needed")
        self.source: dict[Place, list[Mapping[str, Any]]] = {}
        self.rounds: dict[Place, list[dict[str, Any]]] = {}
        self.condition: dict[Place, str | None] = {}
        self.where: dict[Place, tuple[str, int]] = {}

    def read(self) -> Imported:
        """Return the rows of all files."""
        for path in self.files["rounds"]:
            for line, row in self._rows(path, "rounds"):
                self._take(path, line, row, self._round)
        seen: dict[tuple[Any, ...], tuple[str, int]] = {}
        for path in self.files["episodes"]:
            for line, row in self._rows(path, "episodes"):
                self._take(path, line, row, lambda p, n, r: self._episode(p, n, r, seen))
        for place, (name, line) in self.where.items():
            problem = f"{len(self.rounds[place])} rounds of an episode that no (good) row of the episodes has: {place}"
            self.result.problems.append(Problem(name, line, problem))
        return self.result

    def _rows(self, path: Path, table: str) -> Iterator[tuple[int, dict[str, Any]]]:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                self.result.read[table] += 1
                if None in row or None in row.values():
                    problem = f"has another number of cells than the head ({len(reader.fieldnames or [])})"
                    self.result.problems.append(Problem(path.name, reader.line_num, problem))
                    continue
                yield reader.line_num, row

    def _take(self, path: Path, line: int, row: Mapping[str, Any], taker: Any) -> None:
        try:
            taker(path, line, row)
        except BadRow as error:
            self.result.problems.append(Problem(path.name, line, str(error)))

    def _round(self, path: Path, line: int, row: Mapping[str, Any]) -> None:
        place = _place(row)
        before = self.source.setdefault(place, [])
        found = round_row(row, before)
        condition = text(row, "condition")
        if self.condition.setdefault(place, condition) != condition:
            raise BadRow(f"condition is {condition!r}, {self.condition[place]!r} in the episode's earlier rounds")
        before.append(row)
        self.rounds.setdefault(place, []).append(found)
        self.where.setdefault(place, (path.name, line))

    def _episode(self, path: Path, line: int, row: Mapping[str, Any], seen: dict[tuple[Any, ...], Any]) -> None:
        place, suite = _place(row), text(row, "task_suite_name")
        if suite is None:
            raise BadRow("task_suite_name is missing")
        arm = self.arm or self.condition.get(place) or text(row, "condition") or place[0]
        key = {"arm": arm, "suite": suite, "task_id": place[1], "init_state": place[2], "repeat": 0}
        names = tuple(key.values())
        if names in seen:
            earlier = seen[names]
            raise BadRow(f"the episode of {earlier[0]}:{earlier[1]} again: {tables.episode_id(key)}; give each an arm")
        success, completed, steps = told(row, "success"), told(row, "completed"), whole(row, "steps")
        if success and not completed:
            raise BadRow("success without completed")
        reason = text(row, "failure_reason") or text(row, "failure_mode") or "no reason recorded"
        end = ("success", None) if success else ("horizon", None) if completed else ("error", reason)
        seen[names] = (path.name, line)
        self.where.pop(place, None)
        rounds = [{**key, **found} for found in self.rounds.get(place, [])]
        said = number(row, "infer_calls")
        if said is not None and said != len(rounds):
            problem = f"infer_calls is {said:g}, but {len(rounds)} rounds of the episode could be read"
            self.result.problems.append(Problem(path.name, line, problem))
        common = {"run_id": place[0], "policy": self.policy, "task": f"task {place[1]}", "seed": self.seed}
        counts = {"steps": steps, "executed_actions": sum(r["executed"] for r in rounds)}
        episode = episode_row(common, key, end, rounds) | counts | {"video": text(row, "video_path")}
        self.result.rows["episodes"].append(episode)
        self.result.rows["rounds"] += rounds


def _place(row: Mapping[str, Any]) -> Place:
    run = text(row, "run_name")
    if run is None:
        raise BadRow("run_name is missing")
    return run, whole(row, "task_id"), whole(row, "episode_idx")


def _kind(path: Path) -> str:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV ({error})") from None
    kind, columns = ("rounds", _ROUND_COLUMNS) if "infer_id" in head else ("episodes", _EPISODE_COLUMNS)
    for column in columns:
        if column not in head:
            raise UserError(f"{path} has no column {column!r}: a CSV of {kind} needs {', '.join(columns)}")
    return kind


def read_csv(files: Sequence[str | Path], policy: str, seed: int, arm: str | None = None) -> Imported:
    """Read CSV files of rounds and of episodes, in any order of the files.

    An episode's arm is `arm`, or else the `condition` of its rounds, or else its run_name. The seed is not in these
    files and must be told.
    """
    return CsvRun(files, policy, seed, arm).read()
