"""How numbers are printed, everywhere the same: counts, rates with intervals, differences, p values, milliseconds.

NBSP keeps a number and its unit on one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # words are also put to numbers where scipy is not installed
    from flashtrail.statistics.intervals import Interval, Quantile, Rate

NBSP = "\u00a0"
MINUS = "\u2212"
DASH = "\u2013"


def percent(share: float | None, digits: int = 0) -> str:
    """0.874 -> ``87 %``."""
    return DASH if share is None else f"{100 * share:.{digits}f}{NBSP}%"


def counted(rate: Rate) -> str:
    """``27/30``."""
    return f"{rate.k}/{rate.n}"


def rate_with_interval(rate: Rate) -> str:
    """``27/30 (90 %, 95 % interval 74-97 %)``; without a rate just the count."""
    if rate.rate is None or rate.wilson is None:
        return counted(rate)
    level = percent(rate.wilson.level)
    return f"{counted(rate)} ({percent(rate.rate)}, {level} interval {percent_range(rate.wilson)})"


def percent_range(interval: Interval) -> str:
    """``74-97 %`` with an en dash."""
    return f"{100 * interval.low:.0f}{DASH}{percent(interval.high)}"


def points(difference: float, digits: int = 0) -> str:
    """-0.533 -> ``-53 points`` with a true minus sign."""
    return f"{signed(100 * difference, digits)}{NBSP}points"


def points_range(interval: Interval, digits: int = 0) -> str:
    """``[-75, -22] points``."""
    return f"[{signed(100 * interval.low, digits)}, {signed(100 * interval.high, digits)}]{NBSP}points"


def difference_with_range(difference: float, interval: Interval, digits: int = 0) -> str:
    """``-53 [-75, -22] points``."""
    return f"{signed(100 * difference, digits)} {points_range(interval, digits)}"


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign; zero has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+") + text


def p_value(p: float) -> str:
    """``p = 0.70``, ``p = 0.0078``, ``p < 0.0001``."""
    if p < 1e-4:
        return f"p{NBSP}<{NBSP}0.0001"
    return f"p{NBSP}={NBSP}{p:.2g}" if p < 0.1 else f"p{NBSP}={NBSP}{p:.2f}"


def e_value(e: float, needs: float) -> str:
    """``e = 3.1 (needs 20)``."""
    return f"e = {f'{e:.2g}' if e < 10 else f'{e:,.0f}' if e < 1e4 else '> 10,000'} (needs {needs:.3g})"


def milliseconds(value: float | None) -> str:
    """Three significant digits: ``8.07 ms``, ``33.2 ms``, ``592 ms``."""
    return DASH if value is None else f"{three_digits(value)}{NBSP}ms"


def three_digits(value: float) -> str:
    """8.067 -> ``8.07``, 33.16 -> ``33.2``, 592.7 -> ``593``."""
    size = abs(value)
    return f"{value:.{2 if size < 10 else 1 if size < 100 else 0}f}"


def quantile(q: Quantile | None) -> str:
    """``8.07 [8.01, 8.12]``, without unit; a dash where there is none."""
    if q is None:
        return DASH
    if q.interval is None:
        return three_digits(q.value)
    return f"{three_digits(q.value)} [{three_digits(q.interval.low)}, {three_digits(q.interval.high)}]"


def whole(value: Any) -> str:
    """A count from a column that may have holes: 120.0 -> ``120``, a hole -> a dash."""
    return DASH if value is None or value != value else f"{int(value)}"


def integers(values: Iterable[int]) -> str:
    """0,1,2,5 -> ``0-2, 5`` with en dashes."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}{DASH}{b}" for a, b in runs)


def listed(items: Sequence[Any]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    texts = [str(w) for w in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"


def plural(count: int, word: str) -> str:
    """``1 episode``, ``2,697 rounds``, ``3 episodes in each arm``."""
    noun = re.split(r" (?=in |a )", word, maxsplit=1)[0]
    tail = word[len(noun) :]
    return f"{count:,}{NBSP}{noun}{'' if count == 1 else 's'}{tail}"


# The beginning of an absolute path (POSIX, ~user, file://, a drive or a share), then all up to its last separator. A
# folder's name may have spaces, so a path ends where its clause does.
_PLACE = re.compile(
    r"(?<![\w/.])(?:file://|~[\w.-]*|[A-Za-z]:(?=[\\/]))?(?:/(?!/)|\\\\?)[^'\",;:<>\n]*[/\\]([^\s/\\'\",;:<>]*)"
)


def without_places(text: str) -> str:
    """Return an error's text with every absolute path cut to its last part: a page does not say whose machine it was.

    ``not found: /home/me/models/x.pt`` -> ``not found: .../x.pt``. An address (``gs://a/b``) is not such a path.
    """
    return _PLACE.sub(lambda path: f".../{path[1]}", text)


_WAY = re.compile(r"(?:[A-Za-z]:|file:/|~[\w.-]*|\.{1,2})?[/\\]")  # how a path begins that leads somewhere


def run_label(run: str) -> str:
    """Return a run as a page names it: one that is called by a path, absolute or ``../``, by the path's last part.

    ``../../x`` -> ``x``, ``C:\\runs\\x`` -> ``x``; ``pi0/seed 7`` is a name and stays.
    """
    if not _WAY.match(run):
        return run
    return next((part for part in reversed(re.split(r"[/\\]", run)) if part.strip(". ")), run)
