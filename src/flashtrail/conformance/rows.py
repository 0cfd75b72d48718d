"""One row a check: its name, the worst error, the tolerance, and whether it held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """`tolerance` None: the check is exact and `error` counts mismatches."""

    name: str
    error: float
    tolerance: float | None
    note: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= (self.tolerance or 0.0))  # NaN is no success

    def __str__(self) -> str:
        tolerance = "exact" if self.tolerance is None else f"{self.tolerance:.1e}"
        error = f"{self.error:.0f}" if self.tolerance is None else f"{self.error:.1e}"
        note = f"  {self.note}" if self.note else ""
        return f"{self.name:<58} {error:>9} {tolerance:>9}  {'ok' if self.ok else 'FAIL'}{note}"


@dataclass
class Report:
    """Rows in the order of checking; `emit` sees each as it comes."""

    emit: Callable[[Row], None] = lambda row: None
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.emit(row)

    def close(self, name: str, ours: Any, golden: Any, atol: float, note: str = "") -> None:
        """Largest absolute difference within `atol`; a shape of its own is a failure."""
        a, b = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
        if a.shape != b.shape:
            self.add(Row(name, float("inf"), atol, f"shape {a.shape}, golden {b.shape}"))
            return
        gap = np.abs(np.where(np.isnan(a) & np.isnan(b), 0.0, a - b))
        self.add(Row(name, float(gap.max()) if gap.size else 0.0, atol, note))

    def same(self, name: str, ours: Any, golden: Any) -> None:
        """Equal values of the same type of thing; the note shows both where they differ."""
        equal = ours == golden
        self.add(Row(name, float(not equal), None, "" if equal else f"ours {_short(ours)}, golden {_short(golden)}"))

    def count(self, name: str, mismatches: list[str], total: int) -> None:
        """Exact over `total` cases; `mismatches` names those that differ."""
        note = f"{total} cases" if not mismatches else f"of {total} cases; first: {mismatches[0]}"
        if total == 0:
            mismatches, note = ["none"], "no case found"
        self.add(Row(name, float(len(mismatches)), None, note))

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """A crash inside is one failed row, so that the other checks still run."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            self.add(Row(name, float("inf"), None, f"{type(error).__name__}: {text}"))

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if not row.ok]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
