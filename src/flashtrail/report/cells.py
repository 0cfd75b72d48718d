"""Cells that many tables share: a rate with its intervals, a paired difference, a share with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Interval, Paired, Rate
from flashtrail.statistics.wording import DASH, difference_with_range, p_value, percent, percent_range

# heads of the cells below, in order
RATE = {"rate": "Rate", "wilson": "Wilson 95 %"}
BOTH_INTERVALS = RATE | {"exact": "Exact 95 %"}


def rate_of(entry: Mapping[str, Any]) -> Rate:
    """Return the Rate of a stored k/n."""
    return intervals.rate(entry["k"], entry["n"])


def rate(measured: Rate) -> dict[str, str]:
    """Return the cells `rate`, `wilson` and `exact`; a dash where nothing was counted."""
    both = {"wilson": measured.wilson, "exact": measured.exact}
    return {"rate": percent(measured.rate), **{name: ends(given) if given else DASH for name, given in both.items()}}


def share(value: float | None, interval: Interval | Mapping[str, Any] | None) -> str:
    """``87 % [74-97 %]``; without an interval the share alone. The interval is an Interval or its JSON."""
    return f"{percent(value)} [{ends(interval)}]" if interval else percent(value)


def ends(interval: Interval | Mapping[str, Any]) -> str:
    """``74-97 %``."""
    return percent_range(interval if isinstance(interval, Interval) else Interval(interval["low"], interval["high"]))


def paired(run: Campaign, arm: str, control: str) -> Paired | None:
    """Compare two arms on the episodes that both have; None without a common episode."""
    both = run.pairs(arm, control)
    return intervals.paired(both["success_a"].tolist(), both["success_b"].tolist()) if len(both) else None


def compared(pairs: Paired) -> dict[str, str]:
    """Return the cells `difference`, `discordant` (only in the first, only in the second) and `p`."""
    return {
        "difference": difference_with_range(pairs.difference, pairs.interval),
        "discordant": f"{pairs.only_a} / {pairs.only_b}",
        "p": p_value(pairs.p),
    }
