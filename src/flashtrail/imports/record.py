"""What an import brings in: rows of our tables, what was left out and why, and what a round and an episode become.

The same for every format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from flashtrail.base import stages
from flashtrail.base.errors import UserError
from flashtrail.imports.cells import INT64, BadRow, called, duration, flag, number, text, whole, whole_or_none
from flashtrail.imports.columns import OFFICIAL
from flashtrail.tables import schemas

_UNTOLD = {f.name: None for f in schemas.ROUNDS if f.nullable}  # a column that no official record has stays empty
_KINDS = (*schemas.SCHEMAS, "profile")
Key = tuple[Any, ...]  # as schemas.EPISODE_KEY


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row; `line` counts from 1, 0 where the whole file is meant."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{place(self.file, self.line) if self.line else self.file}: {self.text}"


def place(file: str, line: int) -> str:
    """``episodes.csv:12``; of a file without lines ``merged.json, episode 12``."""
    return f"{file}{' ' if file.endswith(', episode') else ':'}{line}"


@dataclass
class Imported:
    """Rows of our tables (and of a profile), how many rows were read for them, what was wrong, and the files."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in _KINDS})
    read: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    warmup: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))  # left out by the user's own rule
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    origin: str = ""
    profile: str = ""  # name of the profile, where there is one
    unread: dict[str, list[str]] = field(default_factory=dict)  # columns of a CSV file that nothing reads, by file
    complete: dict[Key, tuple[str, int]] = field(default_factory=dict)  # where episodes stand of which no round is bad
    unsaid: list[str] = field(default_factory=list)  # what the formats cannot know, in words
    unpaired: bool = False  # the record does not tell initial states: the episodes pair with none

    def counts(self) -> dict[str, dict[str, int]]:
        """Return rows read, kept, left out as warm-up and left out because they are bad, by table."""
        return {
            name: {
                "read": self.read[name],
                "kept": len(rows),
                "warmup": self.warmup[name],
                "left_out": self.read[name] - len(rows) - self.warmup[name],
            }
            for name, rows in self.rows.items()
            if self.read[name] or name != "profile"
        }

    def described(self, source: str = "") -> str:
        """Return source, origin and how many rows are not in the tables, as every page says it."""
        counts = self.counts().items()
        lost = [f"{c['left_out']} of {c['read']} {name}" for name, c in counts if c["left_out"]]
        warm = [f"{c['warmup']} of {c['read']} {name}" for name, c in counts if c["warmup"]]
        warm += [f"{n} of {len(self.rows['profile'])} rounds of the profile"] if (n := self.warm_rounds()) else []
        parts = [f"left out because they could not be read: {', '.join(lost)}"] if lost else []
        parts += [f"left out as warm-up: {', '.join(warm)}"] if warm else []
        parts += [f"not on record: {'; '.join(self.unsaid)}"] if self.unsaid else []
        return (f"{source}: " if source else "") + self.origin + (f" ({'; '.join(parts)})" if parts else "")

    def warm_rounds(self) -> int:
        """Return how many rows of the profile are marked as warm-up; they stay in the table."""
        return sum(bool(row["warmup"]) for row in self.rows["profile"])

    def arms(self) -> list[str]:
        """Return the arms of the episodes, in their order."""
        return list(dict.fromkeys(row["arm"] for row in self.rows["episodes"]))


def apart_by_suite(imported: Imported) -> None:
    """Let each suite of an arm that holds several be an arm of its own, ``ARM-SUITE``."""
    suites: dict[str, set[str]] = {}
    for row in imported.rows["episodes"]:
        suites.setdefault(row["arm"], set()).add(row["suite"])
    for row in imported.rows["episodes"]:
        row["arm"] += f"-{row['suite']}" if len(suites[row["arm"]]) > 1 else ""


def check_whole(imported: Imported) -> None:
    """Refuse, by name, an arm of two suites or seeds and a task number with two texts: which one would a page name?"""
    for column in ("suite", "seed"):
        seen: dict[str, Any] = {}
        for row in imported.rows["episodes"]:
            first = seen.setdefault(row["arm"], row[column])
            if first != row[column]:
                message = f"{imported.origin}: arm {row['arm']!r} holds two {column}s ({first} and {row[column]})"
                raise UserError(f"{message}; import them apart, each with its own --arm")
    texts: dict[tuple[str, int], str] = {}
    for row in imported.rows["episodes"]:
        first = texts.setdefault((row["suite"], row["task_id"]), row["task"])
        if first != row["task"]:
            message = f"task {row['task_id']} of {row['suite']} has two texts ({first!r} and {row['task']!r})"
            raise UserError(f"{imported.origin}: {message}; they are two tasks: give each its own number")


WAITING = 10  # steps before the first query, of the official client (num_steps_wait) and of the reproduction


def check_steps(imported: Imported) -> None:
    """Leave out, by name, an episode whose rounds did not execute the actions that its steps say.

    A client's steps are its waiting before the first query and the actions; success may cut the last chunk short, and
    its own step may be uncounted. No record says the waiting, so it is what half of the arm's episodes can have.
    Episodes that an error ended, or that lack a round by another problem, are not held to it.
    """
    spans: dict[str, dict[Key, tuple[int, int, int]]] = {}  # least and most waiting, actions; by arm
    executed: dict[Key, list[int]] = {}
    for row in imported.rows["rounds"]:
        executed.setdefault(_key(row), []).append(row["executed"])
    ended = {_key(row): row for row in imported.rows["episodes"] if row["outcome"] != "error"}
    for key, row in ended.items():
        if key in imported.complete and key in executed and row["steps"] is not None:
            done = sum(executed[key])
            last = next((n for n in reversed(executed[key]) if n), 0)
            spans.setdefault(row["arm"], {})[key] = (row["steps"] - done, row["steps"] - done + last, done)
    bad: set[Key] = set()
    for of_arm in spans.values():
        usual = median_low(most for _, most, _ in of_arm.values()) if len(of_arm) > 1 else 0
        for key, (least, most, done) in of_arm.items():
            if most < 0 or least > max(WAITING, usual):
                bad.add(key)
                message = f"{ended[key]['steps']} steps, but its rounds executed {done} actions"
                named = schemas.episode_id(dict(zip(schemas.EPISODE_KEY, key, strict=True)))
                imported.problems.append(Problem(*imported.complete[key], f"{named} has {message}"))
    for rows in (imported.rows[name] for name in schemas.SCHEMAS) if bad else ():
        rows[:] = [row for row in rows if _key(row) not in bad]


def _key(row: Mapping[str, Any]) -> Key:
    return tuple(row[name] for name in schemas.EPISODE_KEY)


# --- what a column holds ---

# How each cell is read, by its official name; every other is text.
_READERS: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
    "seed": lambda row, name: whole(row, name, INT64),
    "route_type": lambda row, name: route_of(row),
    **dict.fromkeys(("task_id", "episode_idx", "init_state", "repeat", "steps", "infer_calls"), whole),
    **dict.fromkeys(("infer_id", "env_step", "accepted_prefix_len", "chunk_exec_len"), whole),
    **dict.fromkeys(("success", "completed", "gpu_sync_before_after_used", "scheduled_full_fallback_gripper"), flag),
    **dict.fromkeys(("stage5_perturb_applied", "stage7_wrist_healthy"), flag),
    **dict.fromkeys(("stage7_cache_hit", "stage7_image_replaced"), flag),
    **dict.fromkeys(("policy_time_ms", "serve_time_ms", "client_roundtrip_ms"), duration),
    **dict.fromkeys(("radius_dist_mean", "stage7_wrist_health_std", "stage7_wrist_health_range"), number),
    **dict.fromkeys(("stage7_cache_age_queries", *stages.WIRE.values()), number),
}
_CONDITION_AND_GUARD = ("condition_applied", "health_std", "health_range", "healthy", "cache_hit", "replaced")
_TIMES = ("policy_ms", "serve_ms", "roundtrip_ms", "synchronized")


def read_cell(row: Mapping[str, Any], official: str) -> Any:
    """Return one cell, by its official name, as its column holds it; BadRow if it cannot be read."""
    return _READERS.get(official, text)(row, official)


def _cells(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    return {column: read_cell(row, OFFICIAL[column]) for column in columns}


# --- one round, whatever the container ---

VERIFIED = 12  # actions that verification looks at (docs/reference/FLASH.md, B)
CHUNK = ("accepted_prefix", "executed")


def chunk_of(row: Mapping[str, Any], route: str) -> dict[str, int]:
    """Return CHUNK of a round, held to what the client does: it executes nothing that was not accepted."""
    accepted, executed = whole(row, "accepted_prefix_len"), whole(row, "chunk_exec_len")
    said = called(row, "accepted_prefix_len")
    if executed > accepted:
        raise BadRow(f"{called(row, 'chunk_exec_len')} {executed} exceeds {said} {accepted}")
    if route == "draft" and accepted > max(VERIFIED, executed):
        raise BadRow(f"{said} is {accepted}: verification looks at {VERIFIED} actions")
    return dict(zip(CHUNK, (accepted, executed), strict=True))


def short_of_limit(episode: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[tuple[int, str]]:
    """Yield place and problem of each round that executed less than was accepted, though the client's limit was higher.

    `episode` are all rounds of one, each as its source row and as a row of `rounds`. The client executes all that was
    accepted, or its own limit if that is less; the limit is the longest chunk that the episode executed, early or late.
    """
    most = max((of_round["executed"] for _, of_round in episode), default=0)
    for place, (row, of_round) in enumerate(episode):
        accepted, executed = of_round["accepted_prefix"], of_round["executed"]
        if executed < min(accepted, most):
            words = f"{called(row, 'chunk_exec_len')} is {executed} of {called(row, 'accepted_prefix_len')} {accepted}"
            yield place, f"{words}, but the episode executed {most} of another chunk"


def round_row(row: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one inference record as a row of `rounds`, without the episode's key.

    `before` are the source rows of the episode so far. A stage that the route does not run is empty, not the zero that
    the official record writes. Guard columns are there in the reproduction's stage-7 CSV only.
    """
    route = route_of(row)
    index = whole(row, "infer_id")
    if before and index <= whole(before[-1], "infer_id"):
        raise BadRow(f"infer_id {index} after {before[-1]['infer_id']}: doubled or out of order")
    chunk = chunk_of(row, route)
    seen = number(row, "stage7_cache_age_queries")
    return {
        **_UNTOLD,
        "round": index,
        "env_step": whole_or_none(row, "env_step"),
        "route": route,
        **chunk,
        "radius": number(row, "radius_dist_mean") if route == "draft" else None,
        "fallback_cause": fallback_cause(route, index, before),
        **times(row, route),
        **_cells(row, _CONDITION_AND_GUARD),
        "cache_age": None if seen is None or seen < 0 else whole(row, "stage7_cache_age_queries"),
        "noise_seed": None,
    }


def route_of(row: Mapping[str, Any]) -> str:
    """Return the route of a round; BadRow for any other word."""
    route = text(row, "route_type")
    if route not in schemas.ROUTES:
        raise BadRow(f"{called(row, 'route_type')} is {route!r}, neither full nor draft")
    return route


def times(row: Mapping[str, Any], route: str) -> dict[str, Any]:
    """Return what a round took (ms): stages, policy, serving and round trip; and whether the device was waited for."""
    return _cells(row, (*stages.COLUMNS_OF_ROUTE[route], *_TIMES))


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
        **schemas.UNVERIFIED,
        "outcome": end[0],
        "error": end[1],
        "rounds": len(rounds),
        "full_rounds": len(rounds) - len(drafts),
        "draft_rounds": len(drafts),
        "accepted_prefix_mean": sum(drafts) / len(drafts) if drafts else None,
        "wall_s": None,
        "started_at": None,
    }
