"""Which episode is which: the five columns of EPISODE_KEY packed into one number, and the pairs of two arms.

Numbers, so that a million rows compare at once: columns stay columns, nothing here loops over rows. Across arms a task
is its text, since numbers are only an order, and other people's may differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flashtrail.base.errors import UserError
from flashtrail.tables.schemas import EPISODE_KEY

_TEXT, _NUMBER = EPISODE_KEY[:2], EPISODE_KEY[2:]


class Key(NamedTuple):
    """One episode of one arm: the columns of EPISODE_KEY."""

    arm: str
    suite: str
    task_id: int
    init_state: int
    repeat: int

    def __str__(self) -> str:
        return f"task {self.task_id} init {self.init_state} repeat {self.repeat}"


def product(arm: str, suite: str, tasks: Sequence[int], init_states: Sequence[int], repeats: int) -> pa.Table:
    """Return the keys of every combination, repeats running fastest."""
    axes = [np.asarray(list(axis), np.int32) for axis in (tasks, init_states, range(repeats))]
    grid = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
    n = len(grid[0])
    texts = [pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [text]).cast(pa.string()) for text in (arm, suite)]
    return pa.table([*texts, *(pa.array(column) for column in grid)], names=list(EPISODE_KEY))


class Packing:
    """One numbering for several tables that have the key's columns; a number sorts as its key does."""

    def __init__(self, *tables: pa.Table) -> None:
        """Take the tables that are to be numbered; text columns may be dictionaries."""
        self._labels = {
            name: pa.array(
                sorted({value for t in tables for value in pc.unique(_plain(t[name])).to_pylist()}), pa.string()
            )
            for name in _TEXT
        }
        ends = [(pc.min_max(t[name]).as_py(), name) for t in tables if len(t) for name in _NUMBER]
        self._low = {name: min((e["min"] for e, n in ends if n == name), default=0) for name in _NUMBER}
        high = {name: max((e["max"] for e, n in ends if n == name), default=0) for name in _NUMBER}
        sizes = [max(len(self._labels[name]), 1) for name in _TEXT]
        self._sizes = sizes + [high[name] - self._low[name] + 1 for name in _NUMBER]
        if math.prod(self._sizes) >= 2**62:
            raise ValueError("these keys do not fit into 64 bits")

    def codes(self, table: pa.Table) -> NDArray[Any]:
        """Return one int64 per row."""
        code = np.zeros(len(table), np.int64)
        for name, size in zip(EPISODE_KEY, self._sizes, strict=True):
            if name in self._labels:
                digit = pc.index_in(_plain(table[name]), self._labels[name]).to_numpy()
            else:
                digit = table[name].to_numpy() - self._low[name]
            code *= size
            code += digit
        return code

    def keys(self, codes: NDArray[Any]) -> list[Key]:
        """Return the keys of a few codes, for a message."""
        return [self._key(int(code)) for code in codes]

    def _key(self, code: int) -> Key:
        digits: list[int] = []
        for size in reversed(self._sizes):
            code, digit = divmod(code, size)
            digits.append(digit)
        arm, suite, *rest = reversed(digits)
        names = (self._labels[name][i].as_py() for name, i in zip(_TEXT, (arm, suite), strict=True))
        return Key(*names, *(d + self._low[name] for d, name in zip(rest, _NUMBER, strict=True)))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def positions(episodes: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Return, for each row's code, where its episode stands in `episodes` (distinct codes); -1 where it does not."""
    order = np.argsort(episodes, kind="stable")
    ordered = episodes[order]
    slot = np.searchsorted(ordered, rows)
    slot[slot == len(ordered)] = 0
    at = order[slot] if len(ordered) else np.full(len(rows), -1)
    return np.where(ordered[slot] == rows, at, -1) if len(ordered) else at


# --- tasks and pairs ---


def untold(task_id: int) -> str:
    """Return what stands for a task's text where a record gives its number only; it agrees with every text."""
    return f"task {task_id}"


def one_text(episodes: pd.DataFrame) -> pd.DataFrame:
    """Return episodes in which each task number of a suite has one text; a text that is not told is taken from there.

    Raises UserError that names a number with two texts: such episodes have nothing in common but a number.
    """
    names = ["suite", "task_id", "task"]
    tasks = episodes[[*names, "arm"]].drop_duplicates(names).astype({"suite": str, "task": str})
    named = tasks[tasks["task"] != "task " + tasks["task_id"].astype(str)]
    twice = named[named.duplicated(["suite", "task_id"], keep=False)].sort_values(["suite", "task_id"], kind="stable")
    if len(twice):
        one, other = twice.iloc[0], twice.iloc[1]
        raise UserError(
            f"task {one['task_id']} of {one['suite']} has two texts: {one['task']!r} ({one['arm']}) and "
            f"{other['task']!r} ({other['arm']}); put episodes of other tasks into a run and a report of their own"
        )
    if len(named) == len(tasks) or not len(named):
        return episodes
    texts = named.set_index(["suite", "task_id"])["task"]
    keys = pd.MultiIndex.from_frame(episodes[["suite", "task_id"]].astype({"suite": str}))
    return episodes.assign(task=texts.reindex(keys).fillna(episodes["task"].astype(str).set_axis(keys)).to_numpy())


def pairs(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Return the episodes that both arms have, in the order of their keys: `success_a`, `success_b` and a's key.

    They agree in suite, task text, initial state, repeat and seed. A text that an arm has under several numbers
    (libero_90: one sentence, several scenes) needs the number to agree, too.
    """
    on = ["_task", "init_state", "repeat", "seed"]
    first, second = _by_text(a, b)
    sides = [frame.assign(_task=code) for frame, code in ((a, first), (b, second))]
    left = sides[0][[*on, "suite", "task_id", "success"]]
    both = left.merge(sides[1][[*on, "success"]], on=on, suffixes=("_a", "_b"), validate="one_to_one")
    order = ["suite", "task_id", "init_state", "repeat"]
    return both.drop(columns="_task").sort_values(order, kind="stable", ignore_index=True)


def by_task(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Return one row a task of either arm: suite, task_id, task, `k_a`, `n_a`, `k_b`, `n_b` (0 where not run)."""
    names, parts = [], []
    for side, frame, code in zip("ab", (a, b), _by_text(a, b), strict=True):
        counts = frame["success"].groupby(code).agg(["sum", "count"])
        parts.append(counts.set_axis([f"k_{side}", f"n_{side}"], axis=1))
        names.append(frame[["suite", "task_id", "task"]].assign(_task=code).drop_duplicates("_task"))
    whole = pd.concat(names).drop_duplicates("_task").set_index("_task").join(parts)
    counts = [column for part in parts for column in part]
    whole[counts] = whole[counts].fillna(0).astype(int)
    return whole.sort_values(["suite", "task_id"], kind="stable", ignore_index=True)


def of_tasks(frame: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """Return an arm's episodes of these tasks (rows of `by_task`)."""
    own, chosen = _by_text(frame, tasks)
    return frame[np.isin(own, chosen)]


def _by_text(a: pd.DataFrame, b: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a number for each row's task; rows of one number are of one task."""
    names = ["suite", "task_id", "task"]
    groups = [frame.groupby(names, observed=True, sort=False).ngroup().to_numpy() for frame in (a, b)]
    tasks = [f.drop_duplicates(names)[names].astype({"suite": str, "task": str}) for f in (a, b)]
    double = {text for t in tasks for text in t.loc[t.duplicated(["suite", "task"]), "task"]}
    labels: dict[tuple[object, ...], int] = {}
    numbers = []
    for group, table in zip(groups, tasks, strict=True):
        rows = [(s, text, number if text in double else None) for s, number, text in table.itertuples(index=False)]
        codes = np.array([labels.setdefault(row, len(labels)) for row in rows], int)
        numbers.append(codes[group] if len(group) else np.zeros(0, int))
    return numbers[0], numbers[1]
