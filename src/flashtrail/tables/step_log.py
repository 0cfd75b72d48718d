"""The step log: a shard's steps as JSON lines of five fields, for programs that read logs but not Parquet.

A line per control step: ``step``, ``img_mean``, ``action``, ``reward``, ``tag``. Episodes follow one another in the
order of the episodes table; one begins where ``step`` is 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.tables import schemas

PLACES = 4


def line(row: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """Return the log's line of one row of `steps`.

    ``img_mean``: mean grey level (0-255) of the agent view as the policy was given it, null where there was no query;
    ``action``: seven numbers as the policy sent them, to 4 places; ``tag``: what the run was, not for predicates.
    """
    mean = row["img_mean"] if row["img_mean_sent"] is None else row["img_mean_sent"]
    return {
        "step": row["step"],
        "img_mean": None if mean is None else round(mean, PLACES),
        "action": [round(value, PLACES) for value in row["action"]],
        "reward": row["reward"],
        "tag": tag,
    }


def of_tables(episodes: str | Path, steps: str | Path, tag: str) -> list[dict[str, Any]]:
    """Return the lines of a shard, episode by episode in the order of its table, step by step."""
    key = list(schemas.EPISODE_KEY)
    order = schemas.read_table(episodes, schemas.EPISODES, key).to_pylist()
    place = {tuple(row[k] for k in key): number for number, row in enumerate(order)}
    rows = schemas.read_table(steps, schemas.STEPS).to_pylist()
    rows.sort(key=lambda row: (place[tuple(row[k] for k in key)], row["step"]))
    return [line(row, tag) for row in rows]


def write(path: str | Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the lines as JSON lines, whole or not at all."""
    with provenance.write_atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")
