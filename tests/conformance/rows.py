"""One row per check: its name, the worst error, the tolerance, and whether it held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
        return bool(self.error <= (self.tolerance or 0.0))  # False for NaN

    def __str__(self) -> str:
        tolerance = "exact" if self.tolerance is None else f"{self.tolerance:.1e}"
        error = f"{self.error:.0f}" if self.tolerance is None else f"{self.error:.1e}"
        note = f"  {self.note}" if self.note else ""
        return f"{self.name:<58} {error:>9} {tolerance:>9}  {'ok' if self.ok else 'FAIL'}{note}"


Rows = Iterator[Row]
Parts = Iterator[tuple[str, Rows]]  # a name, and checks that run as they are read


def close(name: str, ours: Any, golden: Any, atol: float) -> Row:
    """Largest absolute difference within `atol`; a different shape is a failure."""
    a, b = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    if a.shape != b.shape:
        return Row(name, float("inf"), atol, f"shape {a.shape}, golden {b.shape}")
    gap = np.abs(np.where(np.isnan(a) & np.isnan(b), 0.0, a - b))
    return Row(name, float(gap.max()) if gap.size else 0.0, atol)


def same(name: str, ours: Any, golden: Any) -> Row:
    """Equal values; the note shows both where they differ."""
    equal = ours == golden
    return Row(name, float(not equal), None, "" if equal else f"ours {_short(ours)}, golden {_short(golden)}")


def count(name: str, mismatches: list[str], total: int) -> Row:
    """Exact over `total` cases; `mismatches` names those that differ."""
    if total == 0:
        return Row(name, 1.0, None, "no case found")
    note = f"{total} cases" if not mismatches else f"of {total} cases; first: {mismatches[0]}"
    return Row(name, float(len(mismatches)), None, note)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
