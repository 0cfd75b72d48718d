"""A row of calibration: how often something happened in simulated campaigns, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashtrail.statistics import intervals

DECIDE = 0.999  # level at which a row is said not to hold: with 30 rows, 95 % would fail a good chain now and then


@dataclass(frozen=True)
class Row:
    """How often something happened in simulated campaigns, and what it should be.

    `at_most` bounds a rate that should be small; otherwise the rate should be `expected`, within `tolerance` where
    the prediction is an approximation, or at least `at_least` (coverage).
    """

    scenario: str
    n: int
    event: str
    k: int
    runs: int
    expected: float | None = None
    tolerance: float = 0.0
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool:
        """True unless the simulation contradicts what should be, at the level of DECIDE."""
        found = intervals.rate(self.k, self.runs, DECIDE).exact
        assert found is not None
        if self.at_most is not None:
            return found.low <= self.at_most
        if self.at_least is not None:
            return found.high >= self.at_least
        assert self.expected is not None
        return found.low - self.tolerance <= self.expected <= found.high + self.tolerance

    @property
    def should(self) -> str:
        """What the rate should be, in words."""
        if self.at_most is not None:
            return f"at most {self.at_most:.3f}"
        return f"at least {self.at_least:.3f}" if self.at_least is not None else f"{self.expected:.3f}"


def text(rows: Sequence[Row]) -> str:
    """Return the rows as a table of fixed columns."""
    lines = [f"{'campaign':46} {'n':>4}  {'event':44} {'k/runs':>12}  {'rate [95 %]':24} {'should be':16} holds"]
    for row in rows:
        found = intervals.rate(row.k, row.runs)
        assert found.rate is not None and found.exact is not None
        interval = f"{found.rate:.4f} [{found.exact.low:.4f}, {found.exact.high:.4f}]"
        holds = "yes" if row.holds else "NO"
        counts = f"{row.k}/{row.runs}"
        lines.append(f"{row.scenario:46} {row.n:4}  {row.event:44} {counts:>12}  {interval:24} {row.should:16} {holds}")
    return "\n".join(lines)
