"""Episodes as whole numbers: the five columns of EPISODE_KEY packed into one, so that a million rows compare at once.

Columns stay columns: nothing here loops over rows. Knows the key and Arrow; knows no rule about episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flashtrail.evidence.tables import EPISODE_KEY

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


def table_of(keys: Sequence[Sequence[object]]) -> pa.Table:
    """Return keys as a table of the five columns."""
    columns = [[key[i] for key in keys] for i in range(len(EPISODE_KEY))]
    types = [pa.string()] * len(_TEXT) + [pa.int32()] * len(_NUMBER)
    return pa.table([pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=list(EPISODE_KEY))


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

    def codes(self, table: pa.Table) -> np.ndarray:
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

    def keys(self, codes: np.ndarray) -> list[Key]:
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


def positions(episodes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return, for each row's code, where its episode stands in `episodes` (distinct codes); -1 where it does not."""
    order = np.argsort(episodes, kind="stable")
    ordered = episodes[order]
    place = np.searchsorted(ordered, rows)
    place[place == len(ordered)] = 0
    found = order[place] if len(ordered) else np.full(len(rows), -1)
    return np.where(ordered[place] == rows, found, -1) if len(ordered) else found
