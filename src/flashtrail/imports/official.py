"""The run directory of the official LIBERO client as our tables.

manifest.json, episode_log.json and each episode's infer.jsonl and trace.jsonl (docs/reference/FLASH.md, D). A row that
cannot be read is named by file and line. Nothing is guessed: what the record does not say is empty.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.imports.cells import INT64, BadRow, empty, needed, needed_flag, number, text, whole, whole_or_none
from flashtrail.imports.record import (
    Imported,
    Problem,
    check_steps,
    check_whole,
    episode_row,
    round_row,
    short_of_limit,
)
from flashtrail.statistics.wording import run_label
from flashtrail.tables import schemas

# --- files ---


def json_lines(path: Path, name: str, result: Imported) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON-lines file with their line numbers; any other line becomes a problem."""
    for line, content in enumerate(_content(path).split("\n"), 1):
        if not content.strip():
            continue
        table = "rounds" if path.name == "infer.jsonl" else "steps"
        result.read[table] += 1
        try:
            value = json.loads(content)
        except json.JSONDecodeError as error:
            result.problems.append(Problem(name, line, f"not JSON ({error.msg}, column {error.colno})"))
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
            result.problems.append(Problem(name, line, f"JSON that cannot be read ({_why(error)})"))
            continue
        if isinstance(value, dict):
            yield line, value
        else:
            result.problems.append(Problem(name, line, f"a {type(value).__name__}, not an object"))


def json_list(path: Path) -> list[tuple[int, Any]]:
    """Return the entries of a JSON list with the lines on which they begin; UserError if the file is not a list."""
    content = _content(path)
    decoder, entries = json.JSONDecoder(), []
    position = _skip(content, 0)
    if content[position : position + 1] != "[":
        raise UserError(f"{path} is not a JSON list of episodes")
    position = _skip(content, position + 1)
    try:
        while content[position : position + 1] != "]":
            value, end = decoder.raw_decode(content, position)
            entries.append((content.count("\n", 0, position) + 1, value))
            position = _skip(content, end)
            if content[position : position + 1] == ",":
                position = _skip(content, position + 1)
            elif content[position : position + 1] != "]":
                raise json.JSONDecodeError("expected ',' or ']'", content, position)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); was the run cut off?") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: JSON that cannot be read ({_why(error)})") from None
    return entries


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}: {error.reason})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _skip(content: str, position: int) -> int:
    while position < len(content) and content[position].isspace():
        position += 1
    return position


class RunDirectory:
    """Reads one run directory of the official client."""

    def __init__(self, root: str | Path, policy: str, arm: str | None) -> None:
        self.root = Path(root)
        self.result = Imported()
        manifest = self.root / "manifest.json"
        log = self.root / "episode_log.json"
        for path in (manifest, log):
            if not path.is_file():
                raise UserError(f"{path} does not exist: give the run's own directory, <video_out>/<run_name>")
        self.manifest = _manifest(manifest)
        self.run = str(text(self.manifest, "run_id"))
        self.log = log
        self.arm = arm or self.run
        self.policy = policy
        self.excused: set[Path] = set()
        self.result.files += [manifest, log]
        self.result.origin = f"official client, run {run_label(self.run)}"

    def read(self) -> Imported:
        """Return the rows of the whole run."""
        seen: dict[tuple[Any, ...], int] = {}
        for line, entry in json_list(self.log):
            self.result.read["episodes"] += 1
            try:
                if not isinstance(entry, dict):
                    raise BadRow(f"a {type(entry).__name__}, not an object")
                key = self._key(entry)
                names = tuple(key.values())
                if names in seen:
                    raise BadRow(f"the episode of line {seen[names]} again: {schemas.episode_id(key)}")
                seen[names] = line
                self._episode(line, entry, key)
            except BadRow as error:
                self.result.problems.append(Problem(self.log.name, line, str(error)))
                self._excuse(entry)
        self._strays()
        check_steps(self.result)
        check_whole(self.result)
        return self.result

    def _key(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        suite = text(entry, "task_suite_name") or text(self.manifest, "task_suite_name")
        if suite is None:
            raise BadRow("task_suite_name is missing")
        # The official client starts its k-th episode from initial state k, once each; another may say from which.
        start = "episode_idx" if empty(entry, "init_state") else "init_state"
        repeat = whole_or_none(entry, "repeat") or 0
        state = {"task_id": whole(entry, "task_id"), "init_state": whole(entry, start), "repeat": repeat}
        return {"arm": self.arm, "suite": suite, **state}

    def _episode(self, line: int, entry: Mapping[str, Any], key: dict[str, Any]) -> None:
        seed = whole(self.manifest if empty(entry, "seed") else entry, "seed", INT64)
        task = text(entry, "task_description")
        if task is None:
            raise BadRow("task_description is missing")
        common = {"run_id": self.run, "policy": self.policy, "task": task, "seed": seed}
        end = _end(entry)
        counts = {"steps": whole(entry, "env_steps_taken"), "executed_actions": whole(entry, "executed_action_count")}
        before = len(self.result.problems)
        rounds = self._rounds(entry, key)
        bad = len(self.result.problems) - before
        if self._agree(line, entry, rounds, bad):
            self.result.complete[tuple(key.values())] = (self.log.name, line)
        _cut_short(rounds, counts["executed_actions"])
        row = episode_row(common, key, end, rounds) | counts | {"video": text(entry, "video_path")}
        self.result.rows["episodes"].append(row)
        self.result.rows["rounds"] += rounds
        self.result.rows["steps"] += self._steps(entry, key)

    def _file(self, entry: Mapping[str, Any], field_name: str, name: str) -> Path | None:
        """Return an episode's file: at the path that the log gives, or of that directory below this run's own."""
        recorded = text(entry, field_name)
        if recorded is None:
            return None
        path, home = Path(recorded), self.root.resolve()
        for candidate in (self.root / "episodes" / path.parent.name / path.name, self.root / path):
            # What a record names is looked for in its own directory only, wherever the name or a link points.
            if "\0" not in recorded and candidate.resolve().is_relative_to(home) and candidate.is_file():
                return candidate
        raise BadRow(f"{field_name} names {recorded}, which is not in the run directory ({name} is missing)")

    def _rounds(self, entry: Mapping[str, Any], key: dict[str, Any]) -> list[dict[str, Any]]:
        path = self._file(entry, "infer_path", "infer.jsonl")
        if path is None:
            raise BadRow("infer_path is missing: without it the episode has no rounds")
        self.result.files.append(path)
        name = self._name(path)
        read: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
        lines: list[int] = []
        for line, record in json_lines(path, name, self.result):
            try:
                self._same(record, entry, key)
                read.append((record, {**key, **round_row(record, [earlier for earlier, _ in read[-1:]])}))
                lines.append(line)
            except BadRow as error:
                self.result.problems.append(Problem(name, line, str(error)))
        bad = dict(short_of_limit(read))
        self.result.problems += [Problem(name, lines[at], message) for at, message in bad.items()]
        return [row for at, (_, row) in enumerate(read) if at not in bad]

    def _steps(self, entry: Mapping[str, Any], key: dict[str, Any]) -> list[dict[str, Any]]:
        path = self._file(entry, "trace_path", "trace.jsonl")
        if path is None:
            return []
        self.result.files.append(path)
        name = self._name(path)
        rows: list[dict[str, Any]] = []
        for line, record in json_lines(path, name, self.result):
            if record.get("executed_action") is None:  # marks a query that accepted nothing: no step was made
                self.result.read["steps"] -= 1
                continue
            try:
                self._same(record, entry, key)
                rows.append({**key, **_step_row(record, len(rows))})
            except BadRow as error:
                self.result.problems.append(Problem(name, line, str(error)))
        return rows

    def _same(self, record: Mapping[str, Any], entry: Mapping[str, Any], key: Mapping[str, Any]) -> None:
        for name in ("task_id", "episode_idx"):
            if name in record and number(record, name) != number(entry, name):
                raise BadRow(f"{name} is {record[name]!r} in the file of {schemas.episode_id(key)}")

    def _agree(self, line: int, entry: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], bad: int) -> bool:
        """Hold the log's own counts against the records, which are kept; return whether they agree.

        Records that are named as bad lack in every count: one problem, one line.
        """
        if bad and number(entry, "infer_calls") in (None, len(rounds) + bad):
            return False
        before = len(self.result.problems)
        counts = {
            "infer_calls": len(rounds),
            "executed_action_count": sum(row["executed"] for row in rounds),
            "draft_rounds": sum(row["route"] == "draft" for row in rounds),
        }
        for name, value in counts.items():
            logged = number(entry, name)
            # The last chunk of a successful episode is cut short: fewer actions than chunk_exec_len are executed.
            if logged is not None and (logged > value if name == "executed_action_count" else logged != value):
                problem = f"{name} is {logged:g}, but the readable records of the episode make {value}"
                self.result.problems.append(Problem(self.log.name, line, problem))
        return not bad and len(self.result.problems) == before

    def _excuse(self, entry: Any) -> None:
        """Let the inference records of an entry that is bad go with it: one problem, one line."""
        with contextlib.suppress(BadRow):  # an entry that does not say where they are: they are named by themselves
            path = self._file(entry, "infer_path", "infer.jsonl") if isinstance(entry, dict) else None
            self.excused |= {path} if path else set()

    def _strays(self) -> None:
        """Name the inference records of episodes that the log does not have."""
        for path in sorted((self.root / "episodes").glob("*/infer.jsonl")):
            if path not in self.excused and path not in self.result.files:
                self.result.problems.append(Problem(self._name(path), 0, "no (good) entry of episode_log.json has it"))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_content(path))
        if isinstance(manifest, dict) and text(manifest, "run_id"):
            return manifest
    except (ValueError, RecursionError) as error:  # BadRow, a run_id that is not text, is one of them
        raise UserError(f"{path} cannot be read ({_why(error)})") from None
    raise UserError(f"{path} names no run_id: is this the official client's manifest?")


def _end(entry: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return outcome and error. The official client gives a reason for an exception and for running out of time."""
    horizon, taken = number(entry, "max_steps"), whole(entry, "env_steps_taken")
    if needed_flag(entry, "success"):
        if not taken:
            raise BadRow("env_steps_taken is 0 of a success")
        return "success", None
    if horizon is not None and taken >= horizon:
        return "horizon", None
    reason = text(entry, "failure_reason") or "no reason recorded"
    limit = "unknown" if horizon is None else f"{horizon:g}"
    return "error", f"ended after {taken} of {limit} steps: {reason}"


def _step_row(record: Mapping[str, Any], index: int) -> dict[str, Any]:
    action = record["executed_action"]
    if not isinstance(action, list) or len(action) != 7 or not all(isinstance(x, int | float) for x in action):
        raise BadRow("executed_action is not a list of 7 numbers")
    if not all(abs(x) <= _FLOAT32 for x in action):
        raise BadRow("executed_action is not finite")
    return {
        "step": index,
        "action": [float(x) for x in action],
        **dict.fromkeys((*schemas.LIMITED_STEP, "who")),
        "reward": needed(record, "reward"),
        "done": needed_flag(record, "done_after_step"),
        "gripper_closed": action[6] > 0,  # LIBERO: -1 opens, +1 closes
        "eef_pos": [None] * 3,  # Parquet has no empty list of fixed length
        "img_mean": None,
        "img_mean_sent": None,
        "round": whole(record, "infer_id"),
        "offset_in_chunk": whole(record, "action_offset_in_chunk"),
        "stale": None,
    }


def _cut_short(rounds: Sequence[dict[str, Any]], counted: int) -> None:
    """Let the last round have executed what the log counts: success ends an episode within a chunk."""
    over = sum(row["executed"] for row in rounds) - counted
    if rounds and 0 < over < rounds[-1]["executed"]:
        rounds[-1]["executed"] -= over


_FLOAT32 = 3.4e38  # the table's actions are of this type


def read_run(root: str | Path, policy: str, arm: str | None = None) -> Imported:
    """Read a run directory of the official client; `arm` is the run's own id where it is not given."""
    return RunDirectory(root, policy, arm).read()
