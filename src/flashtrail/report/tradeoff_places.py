"""Where marks, intervals, arrows and names of success against latency stand: one rule for the page and for paper.

Geometry only, in units of 1/96 inch (a page's pixel), y downwards. Those who draw (templates/tradeoff.html.j2 for the
page, tradeoff_figures.py for paper) add ink and no rule.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashtrail.report import cells
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import DASH, milliseconds, percent, plural, three_digits

LINE = 13.0  # of a name
_GAP, SHIFT = 6.0, 11.0  # between two names, between arms that would stand on one spot
_LINES = 3  # of a name
_SHORT = 22.0  # an arrow between marks that touch is not drawn
_TIP = 8.0  # an arrow ends so far before its mark
# role (palette.ROLES): its mark, as matplotlib calls it and as a path from its middle on
SHAPES = {
    "clean": ("o", "m-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0z"),
    "fault": ("s", "m-5-5h10v10h-10z"),
    "remedy": ("^", "m0-7l6.5 11h-13z"),
    "retrained": ("D", "m0-6.5l6.5 6.5l-6.5 6.5l-6.5-6.5z"),
}


@dataclass(frozen=True)
class Point:
    """An arm: success k/n, and the mean time of a round (ms) with its interval where there is one."""

    arm: str
    words: str
    name: str
    role: str
    k: int
    n: int
    interval: Interval
    rounds: int
    ms: float
    ms_interval: Interval | None = None
    control: str | None = None

    @property
    def rate(self) -> float:
        """Share of successes."""
        return self.k / self.n

    @property
    def said(self) -> str:
        """What a reader who points at it is told."""
        time = milliseconds(self.ms) + (f" [{ends(self.ms_interval)}]" if self.ms_interval else "")
        share = f"{percent(self.rate)} [Wilson 95 %: {cells.ends(self.interval)}]"
        return (
            f"{self.arm}: {self.words}. {self.k}/{self.n} = {share}; mean {time} a round, "
            f"{plural(self.rounds, 'round')}"
        )


def ends(interval: Interval) -> str:
    """``8.01-8.12`` with an en dash."""
    return f"{three_digits(interval.low)}{DASH}{three_digits(interval.high)}"


@dataclass(frozen=True)
class Sheet:
    """The room of a drawing, and the margins around its frame. `letters`: of a line of a name in the right margin, 0
    where names have no room there.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    letters: int
    digit: tuple[float, float] = (9.0, 14.0)  # width and height of a numeral's digit


PAGE = Sheet(600.0, 380.0, left=50.0, right=176.0, top=14.0, bottom=44.0, letters=27)


def places(found: Sequence[Point], sheet: Sheet) -> dict[str, Any]:
    """Return what is drawn of the points: marks, arrows, names, ticks, and whether a mark was `moved`.

    A mark that would cover another moves to the right. Names stand in the right margin, in the order of their marks; a
    numeral stands beside each mark, for sheets without room for names.
    """
    most = max([p.ms_interval.high if p.ms_interval else p.ms for p in found])
    step = _step(most / 4)
    end = step * (int(most * 1.06 / step) + 1)

    def across(ms: float) -> float:
        return sheet.left + (sheet.width - sheet.left - sheet.right) * ms / end

    def up(rate: float) -> float:
        return sheet.height - sheet.bottom - (sheet.height - sheet.top - sheet.bottom) * rate

    marks: dict[str, dict[str, Any]] = {}
    for point in found:
        x, y = across(point.ms), up(point.rate)
        while any(abs(x - m["x"]) < SHIFT and abs(y - m["y"]) < SHIFT for m in marks.values()):
            x += SHIFT
        between = point.ms_interval
        marks[point.arm] = {
            "point": point,
            "shape": SHAPES[point.role][1],
            **{"x": x, "y": y, "low": up(point.interval.low), "high": up(point.interval.high)},
            **{"left": across(between.low) if between else x, "right": across(between.high) if between else x},
        }
    arrows = [_arrow(marks[p.control], marks[p.arm], p.role) for p in found if p.control]
    order = sorted(marks.values(), key=lambda mark: (mark["y"], mark["x"]))
    if sheet.letters:
        _name(order, sheet)
    _number(order, sheet)
    return {
        "marks": order,
        "arrows": [arrow for arrow in arrows if arrow],
        "moved": any(mark["x"] != across(mark["point"].ms) for mark in order),
        "names_at": sheet.width - sheet.right + 12,
        "frame": {
            **{"left": sheet.left, "right": sheet.width - sheet.right},
            **{"top": sheet.top, "bottom": sheet.height - sheet.bottom},
        },
        "up": [(up(share / 4), percent(share / 4)) for share in range(5)],
        "across": [(across(step * i), f"{step * i:g}") for i in range(int(end / step) + 1)],
    }


def _step(least: float) -> float:
    """Return the round number (1, 2 or 5 times a power of ten) from `least` on."""
    power = 10.0 ** (len(f"{least:.0f}") - 1 if least >= 1 else -3)
    return next(s for s in (power * f * 10.0**e for e in range(6) for f in (1, 2, 5)) if s >= least)


# --- names and numerals ---


def _name(order: Sequence[dict[str, Any]], sheet: Sheet) -> None:
    """Give each mark the lines of its name, the first one's baseline, and where the line that leads to them ends."""
    for mark in order:
        mark["lines"] = _lines(mark["point"].name, sheet.letters)
    heights = [LINE * len(mark["lines"]) + _GAP for mark in order]
    wanted = [mark["y"] - height / 2 for mark, height in zip(order, heights, strict=True)]
    tops = spread(wanted, heights, sheet.height)
    for mark, top, height in zip(order, tops, heights, strict=True):
        mark |= {"label": top + LINE, "lead": top + height / 2}


def _lines(name: str, letters: int) -> list[str]:
    """Return a name in lines that fit beside the picture; the count follows the last one."""
    lines = textwrap.wrap(name, letters)
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], f"{lines[_LINES - 1][: letters - 1]}\u2026"]


def spread(wanted: Sequence[float], heights: Sequence[float], high: float, low: float = 0.0) -> list[float]:
    """Return the tops of boxes of `heights`, in the order of `wanted` (ascending), near to it, none over another.

    Where there is no room for all between low and high they overlap evenly.
    """
    share = min(1.0, (high - low) / max(sum(heights), 1e-9))
    sizes = [height * share for height in heights]
    tops: list[float] = []
    for place, size in zip(wanted, [0.0, *sizes], strict=False):
        tops.append(max(place, tops[-1] + size if tops else low))
    limit = high
    for index in reversed(range(len(tops))):
        tops[index] = limit = min(tops[index], limit - sizes[index])
    return tops


_Box = tuple[float, float, float, float]  # left, top, right, bottom
_SIDES = [(x, y) for away in (1.0, 1.7, 2.4) for x, y in ((away, -away), (-away, -away), (away, away), (-away, away))]
_SIDES += [(away, 0.0) for away in (1.4, -1.4, 2.4, -2.4)]


def _number(order: Sequence[dict[str, Any]], sheet: Sheet) -> None:
    """Give each mark its number and the middle of the numeral: the side on which it covers least.

    A mark or another numeral weighs most, then the frame's edge, then an interval.
    """
    wide, high = sheet.digit
    marks = [(m["x"] - 6, m["y"] - 6, m["x"] + 6, m["y"] + 6) for m in order]
    lines = [(m["x"] - 1, m["high"], m["x"] + 1, m["low"]) for m in order]
    taken: list[_Box] = []
    for number, mark in enumerate(order, 1):
        half = wide * len(str(number)) / 2
        inside = (sheet.left, sheet.top, sheet.width - sheet.right + 2 * half, sheet.height - sheet.bottom + 2)
        boxes = []
        for x, y in _SIDES:
            middle = mark["x"] + x * (6 + half), mark["y"] + y * (4 + high / 2)
            boxes.append((middle[0] - half, middle[1] - high / 2, middle[0] + half, middle[1] + high / 2))
        costs = [
            20 * sum(_over(box, other) for other in (*marks, *taken))
            + 10 * (box[0] < inside[0] or box[1] < inside[1] or box[2] > inside[2] or box[3] > inside[3])
            + 2 * sum(_over(box, line) for line in lines)
            for box in boxes
        ]
        best = boxes[costs.index(min(costs))]
        taken.append(best)
        mark |= {"number": number, "numeral": ((best[0] + best[2]) / 2, (best[1] + best[3]) / 2)}


def _over(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _arrow(start: Mapping[str, Any], end: Mapping[str, Any], role: str) -> dict[str, Any] | None:
    """Return an arrow's three points, bent so that the way down to a fault and the way up from it lie apart."""
    (x, y), (to_x, to_y) = (start["x"], start["y"]), (end["x"], end["y"])
    length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
    if length < _SHORT:
        return None
    bend = 0.22 * (-1 if role == "fault" else 1)
    middle = ((x + to_x) / 2 + bend * (to_y - y), (y + to_y) / 2 - bend * (to_x - x))
    # It ends before the mark, in the direction in which it comes in.
    toward = (to_x - middle[0], to_y - middle[1])
    size = (toward[0] ** 2 + toward[1] ** 2) ** 0.5
    tip = (to_x - _TIP * toward[0] / size, to_y - _TIP * toward[1] / size)
    return {"points": ((x, y), middle, tip), "role": role}
