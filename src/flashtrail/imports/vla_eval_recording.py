"""The SQLite recording of vla-eval (``recording.py`` of 0.8.0, ``recording-EVAL_ID.sqlite``), of every entry in it.

Opened read-only and immutable: no lock, no journal, no extension, and nothing but columns of two tables is read. Of an
episode that was run again the last one counts, as in the harness's own ``results/export.py``; the page says how many.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.imports import vla_eval
from flashtrail.imports.cells import BadRow
from flashtrail.imports.delimited import LARGEST
from flashtrail.imports.episode_list import EpisodeList
from flashtrail.statistics.wording import plural

MAGIC = b"SQLite format 3\0"
KIND = "vla-eval recording"
UNSAID = "policy, device, rounds and latency"
_COLUMNS = {
    "eval_metadata": ("eval_id", "metadata"),
    "episode_results": (
        *("eval_id", "task_name", "episode_id", "status", "metrics", "steps", "context", "failure_reason"),
    ),
}
_LONGEST = 2**20  # bytes of one cell
_MOST = 1_000_000  # episodes
_STEPS = 200_000_000  # of SQLite's virtual machine: a minute, for what some thousand would do


def read(path: Path) -> EpisodeList:
    """Return the episodes of a recording; UserError for one that is damaged, under way, or of another program."""
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST:,} bytes: export it with the program that wrote it")
    own = path.resolve()  # SQLite writes beside the file, not beside a link to it
    for end in ("-journal", "-wal"):
        if (side := own.with_name(own.name + end)).exists() and side.stat().st_size:
            raise UserError(
                f"{path} has a {side.name} beside it: wait for the run's end, or open it with vla-eval once"
            )
    try:
        metadata, rows = (_rows(path, table) for table in _COLUMNS)
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be read as a recording of vla-eval ({error})") from None
    about = {row["eval_id"]: _object(row["metadata"]) for row in metadata}
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place, row in enumerate(rows):
        task = _object(row["context"]).get("task_idx")
        # as the exporter has it: an episode without a task's index is no other's second run
        name = (row["eval_id"], row["task_name"], row["episode_id"], place if task is None else str(task))
        last.pop(name, None)
        last[name] = row
    again = len(rows) - len(last)
    note = f"{plural(again, 'episode')} run again, the last run counts" if again else ""
    episodes = [_episode(about.get(row["eval_id"], {}), row) for row in last.values()]
    return EpisodeList(path, KIND, episodes, UNSAID, made_of=frozenset(map(str, about)), note=note)


def _episode(about: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, Any] | BadRow:
    try:
        if not isinstance(row["task_name"], str):
            raise BadRow("task_name is missing")
        config = about.get("config") if isinstance(about.get("config"), dict) else {}
        context = {name: found for name, found in _object(row["context"]).items() if name not in _COLUMNS}
        entry = context | {name: row[name] for name in ("episode_id", "steps", "failure_reason")}
        if row["status"] == "error":
            entry["failure_reason"] = row["failure_reason"] or "error"
        entry["metrics"] = _object(row["metrics"])
        return vla_eval.episode(config or {}, str(about.get("benchmark", row["eval_id"])), row["task_name"], entry)
    except BadRow as error:
        return error


def _rows(path: Path, table: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.set_progress_handler(lambda: 1, _STEPS)
        # A view or a virtual table of this name would be a program of whoever wrote the file.
        kind = connection.execute("SELECT sql FROM sqlite_master WHERE type='table' AND name=?", (table,)).fetchone()
        if not kind or not str(kind[0]).upper().startswith("CREATE TABLE"):
            raise UserError(f"{path} has no table {table}: it is no recording of vla-eval")
        connection.set_authorizer(_only_reads)
        columns = _COLUMNS[table]
        found = connection.execute(
            f"SELECT {', '.join(columns)} FROM {table} ORDER BY rowid LIMIT {_MOST + 1}"
        ).fetchall()
    finally:
        connection.close()
    if len(found) > _MOST:
        raise UserError(f"{path} has more than {_MOST:,} rows in {table}")
    return [dict(zip(columns, row, strict=True)) for row in found]


def _only_reads(action: int, first: str | None, *rest: str | None) -> int:
    """Let SQLite read columns of the tables named here; no function, no pragma, no other table."""
    allowed = action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and first in _COLUMNS)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _object(cell: Any) -> dict[str, Any]:
    """Return a cell of JSON as an object, empty where it is none."""
    try:
        value = json.loads(cell) if isinstance(cell, str) else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}
