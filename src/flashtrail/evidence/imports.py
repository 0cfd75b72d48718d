"""Another client's record of a run as our tables: the run directory of the official LIBERO client.

manifest.json, episode_log.json and each episode's infer.jsonl and trace.jsonl (docs/reference/FLASH.md, D). A row that
cannot be read is named by file and line; nothing is guessed: what the record does not say is empty. Knows the official
names and our columns; knows no statistic. CSV files are read by imports_csv.py with the same rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashtrail import provenance
from flashtrail.errors import UserError
from flashtrail.evidence import tables

_STAGES = {
    "full": {"encoder_ms": "encoder_ms", "prefill_ms": "vlm_prefill_ms", "denoise_ms": "full_fallback_ms"},
    "draft": {"encoder_ms": "encoder_ms", "draft_ms": "draft_ms", "verify_ms": "action_verify_ms"},
}
_UNTOLD = {f.name: None for f in tables.ROUNDS if f.nullable}  # a column that no official record has stays empty


class BadRow(ValueError):
    """A row that cannot be taken; the text says why."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row; `line` counts from 1, 0 where the whole file is meant."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


@dataclass
class Imported:
    """Rows of our tables, how many rows were read for them, what was wrong, and the files that were read."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in tables.SCHEMAS})
    read: dict[str, int] = field(default_factory=lambda: dict.fromkeys(tables.SCHEMAS, 0))
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    origin: str = ""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return rows read, kept and left out, by table."""
        return {
            name: {"read": self.read[name], "kept": len(rows), "left_out": self.read[name] - len(rows)}
            for name, rows in self.rows.items()
        }


# --- cells ---


def number(row: Mapping[str, Any], name: str) -> float | None:
    """Return a finite number, or None for an absent, empty or NaN cell; BadRow for anything else."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"{name} is {value!r}, not a number") from None
    if math.isinf(found):
        raise BadRow(f"{name} is {value!r}, not finite")
    return None if math.isnan(found) else found


def needed(row: Mapping[str, Any], name: str) -> float:
    """Return a number that must be there."""
    found = number(row, name)
    if found is None:
        raise BadRow(f"{name} is missing")
    return found


def whole(row: Mapping[str, Any], name: str) -> int:
    """Return a whole number from 0 that must be there."""
    found = needed(row, name)
    if found != int(found) or found < 0:
        raise BadRow(f"{name} is {row[name]!r}, not a count")
    return int(found)


def duration(row: Mapping[str, Any], name: str) -> float:
    """Return a time in ms that must be there and cannot be negative."""
    found = needed(row, name)
    if found < 0:
        raise BadRow(f"{name} is {found:g} ms, a negative time")
    return found


def flag(row: Mapping[str, Any], name: str) -> bool | None:
    """Return a truth value written as true/false, 0/1 or yes/no; None where there is none."""
    value = row.get(name)
    if value is None or value == "":
        return None
    word = str(value).strip().lower()
    if word in ("1", "1.0", "true", "yes"):
        return True
    if word in ("0", "0.0", "false", "no"):
        return False
    raise BadRow(f"{name} is {value!r}, neither true nor false")


def told(row: Mapping[str, Any], name: str) -> bool:
    """Return a truth value that must be there."""
    found = flag(row, name)
    if found is None:
        raise BadRow(f"{name} is missing")
    return found


def text(row: Mapping[str, Any], name: str) -> str | None:
    """Return a text, or None where it is absent or empty."""
    value = row.get(name)
    return None if value is None or str(value).strip() == "" else str(value)


# --- one round, whatever the container ---


def round_row(row: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one inference record as a row of `rounds`, without the episode's key.

    `before` are the source rows of the episode so far. A stage that the route does not run is empty, not the zero
    that the official record writes. Guard columns are there in the reproduction's stage-7 CSV only.
    """
    route = text(row, "route_type")
    if route not in tables.ROUTES:
        raise BadRow(f"route_type is {route!r}, neither full nor draft")
    index, accepted, executed = whole(row, "infer_id"), whole(row, "accepted_prefix_len"), whole(row, "chunk_exec_len")
    if before and index <= whole(before[-1], "infer_id"):
        raise BadRow(f"infer_id {index} after {before[-1]['infer_id']}: doubled or out of order")
    if executed > accepted:
        raise BadRow(f"chunk_exec_len {executed} exceeds accepted_prefix_len {accepted}")
    stages = {column: number(row, name) for column, name in _STAGES[route].items()}
    step, seen = number(row, "env_step"), number(row, "stage7_cache_age_queries")
    return {
        **_UNTOLD,
        "round": index,
        "env_step": None if step is None else int(step),
        "route": route,
        "accepted_prefix": accepted,
        "executed": executed,
        "radius": number(row, "radius_dist_mean") if route == "draft" else None,
        "fallback_cause": fallback_cause(route, index, before),
        **stages,
        "policy_ms": duration(row, "policy_time_ms"),
        "serve_ms": duration(row, "serve_time_ms"),
        "roundtrip_ms": duration(row, "client_roundtrip_ms"),
        "synchronized": flag(row, "gpu_sync_before_after_used"),
        "condition_applied": flag(row, "stage5_perturb_applied"),
        "health_std": number(row, "stage7_wrist_health_std"),
        "health_range": number(row, "stage7_wrist_health_range"),
        "healthy": flag(row, "stage7_wrist_healthy"),
        "cache_hit": flag(row, "stage7_cache_hit"),
        "cache_age": None if seen is None or seen < 0 else int(seen),
        "replaced": flag(row, "stage7_image_replaced"),
        "noise_seed": None,
    }


def fallback_cause(route: str, index: int, before: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why a full round was full, as far as the record says: the first, or what the round before scheduled."""
    if route != "full":
        return None
    if index == 0:
        return "first"
    if not before or number(before[-1], "infer_id") != index - 1:
        return None  # the round that scheduled it could not be read
    if flag(before[-1], "scheduled_full_fallback_gripper"):
        return "gripper"
    if text(before[-1], "route_type") == "draft" and number(before[-1], "accepted_prefix_len") == 0:
        return "zero_accept"
    return None


def episode_row(
    common: Mapping[str, Any], key: Mapping[str, Any], end: tuple[str, str | None], rounds: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a row of `episodes`: key, `end` (outcome and error) and what is counted from its rounds."""
    drafts = [row["accepted_prefix"] for row in rounds if row["route"] == "draft"]
    return {
        **common,
        **key,
        "success": end[0] == "success",
        **tables.UNVERIFIED,
        "outcome": end[0],
        "error": end[1],
        "rounds": len(rounds),
        "full_rounds": len(rounds) - len(drafts),
        "draft_rounds": len(drafts),
        "accepted_prefix_mean": sum(drafts) / len(drafts) if drafts else None,
        "wall_s": None,
        "started_at": None,
    }


# --- files ---


def json_lines(path: Path, name: str, result: Imported) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON-lines file with their line numbers; a line that is none becomes a problem."""
    for line, content in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not content.strip():
            continue
        table = "rounds" if path.name == "infer.jsonl" else "steps"
        result.read[table] += 1
        try:
            value = json.loads(content)
        except json.JSONDecodeError as error:
            result.problems.append(Problem(name, line, f"not JSON ({error.msg}, column {error.colno})"))
            continue
        if isinstance(value, dict):
            yield line, value
        else:
            result.problems.append(Problem(name, line, f"a {type(value).__name__}, not an object"))


def json_list(path: Path) -> list[tuple[int, Any]]:
    """Return the entries of a JSON list with the lines on which they begin; UserError if the file is not a list."""
    content = path.read_text(encoding="utf-8")
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
    return entries


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
        self.manifest = provenance.json_load(manifest)
        if not isinstance(self.manifest, dict) or not self.manifest.get("run_id"):
            raise UserError(f"{manifest} names no run_id: is this the official client's manifest?")
        self.log = log
        self.arm = arm or str(self.manifest["run_id"])
        self.policy = policy
        self.result.files += [manifest, log]
        self.result.origin = f"official client, run {self.manifest['run_id']}"

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
                    raise BadRow(f"the episode of line {seen[names]} again: {tables.episode_id(key)}")
                seen[names] = line
                self._episode(line, entry, key)
            except BadRow as error:
                self.result.problems.append(Problem(self.log.name, line, str(error)))
        self._strays()
        return self.result

    def _key(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        suite = text(entry, "task_suite_name") or text(self.manifest, "task_suite_name")
        if suite is None:
            raise BadRow("task_suite_name is missing")
        # The official client starts its k-th episode from initial state k, once each.
        state = {"task_id": whole(entry, "task_id"), "init_state": whole(entry, "episode_idx"), "repeat": 0}
        return {"arm": self.arm, "suite": suite, **state}

    def _episode(self, line: int, entry: Mapping[str, Any], key: dict[str, Any]) -> None:
        seed = number(entry, "seed")
        seed = number(self.manifest, "seed") if seed is None else seed
        task = text(entry, "task_description")
        if seed is None or task is None:
            raise BadRow(f"{'seed' if seed is None else 'task_description'} is missing")
        common = {"run_id": str(self.manifest["run_id"]), "policy": self.policy, "task": task, "seed": int(seed)}
        end = _end(entry)
        counts = {"steps": whole(entry, "env_steps_taken"), "executed_actions": whole(entry, "executed_action_count")}
        rounds = self._rounds(entry, key)
        self._agree(line, entry, rounds)
        row = episode_row(common, key, end, rounds) | counts | {"video": text(entry, "video_path")}
        self.result.rows["episodes"].append(row)
        self.result.rows["rounds"] += rounds
        self.result.rows["steps"] += self._steps(entry, key)

    def _file(self, entry: Mapping[str, Any], field_name: str, name: str) -> Path | None:
        """Return an episode's file: at the path that the log gives, or of that directory below this run's own."""
        said = text(entry, field_name)
        if said is None:
            return None
        path = Path(said)
        for place in (self.root / "episodes" / path.parent.name / path.name, self.root / path, path):
            if place.is_file():
                return place
        raise BadRow(f"{field_name} names {said}, which is not in the run directory ({name} is missing)")

    def _rounds(self, entry: Mapping[str, Any], key: dict[str, Any]) -> list[dict[str, Any]]:
        path = self._file(entry, "infer_path", "infer.jsonl")
        if path is None:
            raise BadRow("infer_path is missing: without it the episode has no rounds")
        self.result.files.append(path)
        name = self._name(path)
        rows: list[dict[str, Any]] = []
        before: list[Mapping[str, Any]] = []
        for line, record in json_lines(path, name, self.result):
            try:
                self._same(record, key)
                rows.append({**key, **round_row(record, before)})
                before.append(record)
            except BadRow as error:
                self.result.problems.append(Problem(name, line, str(error)))
        return rows

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
                self._same(record, key)
                rows.append({**key, **_step_row(record, len(rows))})
            except BadRow as error:
                self.result.problems.append(Problem(name, line, str(error)))
        return rows

    def _same(self, record: Mapping[str, Any], key: Mapping[str, Any]) -> None:
        for name, column in (("task_id", "task_id"), ("episode_idx", "init_state")):
            if name in record and number(record, name) != key[column]:
                raise BadRow(f"{name} is {record[name]!r} in the file of {tables.episode_id(key)}")

    def _agree(self, line: int, entry: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> None:
        """Hold the log's own counts against the records; the records are what is kept."""
        found = {
            "infer_calls": len(rounds),
            "executed_action_count": sum(row["executed"] for row in rounds),
            "draft_rounds": sum(row["route"] == "draft" for row in rounds),
        }
        for name, value in found.items():
            said = number(entry, name)
            # The last chunk of a successful episode is cut short: fewer actions than chunk_exec_len are executed.
            if said is not None and (said > value if name == "executed_action_count" else said != value):
                problem = f"{name} is {said:g}, but the readable records of the episode make {value}"
                self.result.problems.append(Problem(self.log.name, line, problem))

    def _strays(self) -> None:
        """Name the inference records of episodes that the log does not have."""
        for path in sorted((self.root / "episodes").glob("*/infer.jsonl")):
            if path not in self.result.files:
                self.result.problems.append(Problem(self._name(path), 0, "no (good) entry of episode_log.json has it"))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name


def _end(entry: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return outcome and error. The official client gives a reason for an exception and for running out of time."""
    if told(entry, "success"):
        return "success", None
    horizon, taken = number(entry, "max_steps"), whole(entry, "env_steps_taken")
    if horizon is not None and taken >= horizon:
        return "horizon", None
    said = text(entry, "failure_reason") or "no reason recorded"
    limit = "unknown" if horizon is None else f"{horizon:g}"
    return "error", f"ended after {taken} of {limit} steps: {said}"


def _step_row(record: Mapping[str, Any], index: int) -> dict[str, Any]:
    action = record["executed_action"]
    if not isinstance(action, list) or len(action) != 7 or not all(isinstance(x, int | float) for x in action):
        raise BadRow("executed_action is not a list of 7 numbers")
    if not all(math.isfinite(x) for x in action):
        raise BadRow("executed_action is not finite")
    return {
        "step": index,
        "action": [float(x) for x in action],
        "reward": needed(record, "reward"),
        "done": told(record, "done_after_step"),
        "gripper_closed": action[6] > 0,  # LIBERO: -1 opens, +1 closes
        "eef_pos": [None] * 3,  # Parquet has no empty list of fixed length
        "img_mean": None,
        "img_mean_sent": None,
        "round": whole(record, "infer_id"),
        "offset_in_chunk": whole(record, "action_offset_in_chunk"),
        "stale": None,
    }


def read_run(root: str | Path, policy: str, arm: str | None = None) -> Imported:
    """Read a run directory of the official client; `arm` is the run's own id where it is not given."""
    return RunDirectory(root, policy, arm).read()


def write(found: Imported, out: str | Path, device: str = "") -> list[str]:
    """Write ``tables/{arm}/*.parquet`` and ``import.json`` below `out`; return the arms.

    The digests of the files that were read take the place of the config's; artifact and code are unknown.
    """
    arms = list(dict.fromkeys(row["arm"] for row in found.rows["episodes"]))
    if not arms:
        raise UserError(f"{found.origin}: no episode could be read")
    digests = {
        path.name if path.parent.name == "" else f"{path.parent.name}/{path.name}": provenance.sha256_file(path)
        for path in found.files
    }
    metadata = {"imported": found.origin, "config_digest": provenance.digest_json(digests), "device": device}
    for arm in arms:
        for name, schema in tables.SCHEMAS.items():
            rows = [row for row in found.rows[name] if row["arm"] == arm]
            tables.write_table(Path(out) / "tables" / arm / f"{name}.parquet", rows, schema, metadata)
    report = {"origin": found.origin, "arms": arms, "counts": found.counts(), "sources": digests}
    provenance.json_dump(report | {"problems": [str(p) for p in found.problems]}, Path(out) / "import.json")
    return arms
