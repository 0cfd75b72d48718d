"""Success against latency: each arm a point with its intervals, fault and remedy as arrows from their control.

The picture is SVG within the page, drawn by templates/tradeoff.html.j2 from places that are computed here; a table
stands behind it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashtrail.base import machine
from flashtrail.claims import claims as types
from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, cells, layout, page
from flashtrail.report.count_links import behind
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import DASH, listed, milliseconds, percent, plural, three_digits

WIDTH, HEIGHT = 600.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 176.0, 14.0, 44.0  # margins; names of arms stand in the right one
_LINE, _GAP, _SHIFT = 13.0, 6.0, 11.0  # of a name, between two names, between arms that would stand on one spot
_LETTERS, _LINES = 27, 3  # of a name
_ROUTES = ("draft", "full")
_LOAD = types.LatencyClaim.model_fields["load_at_most"].default


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
        time = milliseconds(self.ms) + (f" [{_ends(self.ms_interval)}]" if self.ms_interval else "")
        share = f"{percent(self.rate)} [{cells.ends(self.interval)}]"
        return f"{self.arm}: {self.words}. {self.k}/{self.n} = {share}; {time} a round, {plural(self.rounds, 'round')}"


def _ends(interval: Interval) -> str:
    return f"{three_digits(interval.low)}{DASH}{three_digits(interval.high)}"


def points(run: Campaign) -> list[Point]:
    """Return the arms of which success and the time of a round are known, in their order; the clock's arms stand apart.

    A round's time is the profile's mean of each route (alone on the device), mixed as the arm's rounds were; without a
    profile it is the mean of the arm's own rounds.
    """
    timed = _profile(run)
    found = []
    for arm, summary in run.plain_summaries.items():
        time = _time(summary, timed)
        rate = cells.rate_of(summary["success"])
        if time is None or rate.wilson is None:
            continue
        control = _control(run, arm)
        usual, n = run.usual_policy(summary), summary["routes"]["n"]
        called = arm_words.words(summary, usual), arm_words.short(summary, usual), arm_words.role(summary, usual)
        found.append(Point(arm, *called, rate.k, rate.n, rate.wilson, n, *time, control))
    shown = {point.arm for point in found}
    return [point if point.control in shown else replace(point, control=None) for point in found]


def _profile(run: Campaign) -> dict[str, float]:
    """Return the profile's mean time of each route (ms); empty where one of them was not timed."""
    if not len(run.profile):
        return {}
    means = run.profile.groupby("route", observed=True)["policy_ms"].mean().dropna().to_dict()
    return {route: float(means[route]) for route in _ROUTES} if set(_ROUTES) <= set(means) else {}


def _time(summary: Mapping[str, Any], timed: Mapping[str, float]) -> tuple[float, Interval | None] | None:
    """Return the mean time of an arm's round and its interval: of the mix of routes, with episodes resampled."""
    if summary.get("clock"):
        return float(summary["clock"]["mean_ms"]), None
    share, ends = summary["routes"]["draft_share"], summary["routes"].get("draft_share_interval")
    if share is None:
        return None
    if not timed:
        own = summary["mixture"]["mean_ms"]
        return None if own is None or own != own or own <= 0 else (float(own), None)
    at = [intervals.mixture_mean(s, timed["draft"], timed["full"]) for s in (share, *_both(ends))]
    return at[0], Interval(min(at[1:]), max(at[1:])) if ends else None


def _both(ends: Mapping[str, float] | None) -> tuple[float, ...]:
    return (ends["low"], ends["high"]) if ends else ()


def _control(run: Campaign, arm: str) -> str | None:
    """Return where an arm's arrow begins: the same fault without its remedy, or the arm without the fault."""
    summary = run.summaries[arm]
    if (control := run.control_of(arm)) is not None:
        return control
    if arm_words.role(summary, run.usual_policy(summary)) == "clean":
        return None
    reference = (a for a, s in run.plain_summaries.items() if arm_words.role(s, run.usual_policy(s)) == "clean")
    same = ("suite", "policy")
    return next((a for a in reference if all(run.summaries[a][name] == summary[name] for name in same)), None)


def ratio(found: Sequence[Point], run: Campaign) -> float | None:
    """Return how many times longer a round without drafts takes than one with them; None without such two arms."""
    clean = [point for point in found if point.role == "clean"]
    full = next((p for p in clean if not run.summaries[p.arm]["routes"]["draft"]), None)
    flash = next((p for p in clean if run.summaries[p.arm]["routes"]["draft"]), None)
    return full.ms / flash.ms if full and flash else None


# --- the picture ---


def section(run: Campaign) -> Html | None:
    """Return the picture with its caption and the table behind it; None where no arm has both numbers."""
    found = points(run)
    if not found:
        return None
    drawn = layout.ENVIRONMENT.get_template("tradeoff.html.j2").render(
        **places(found), pages=run.pages, width=WIDTH, height=HEIGHT
    )
    table = page.details("The numbers of this figure", _table(run, found))
    return Html('<figure class="tradeoff">{}<figcaption>{}</figcaption>{}</figure>').format(
        Html(drawn), _caption(run), table
    )


def _caption(run: Campaign) -> str:
    if len(timed := _profile(run)) and not all(s.get("clock") for s in run.plain_summaries.values()):
        n, policies = run.profile["route"].value_counts(), list(dict.fromkeys(run.profile["policy"]))
        across = (
            f"mean time of a round, {listed(policies)}\u2019s draft and full rounds as timed by themselves "
            f"(n = {n['draft']} and {n['full']}; means {listed([milliseconds(timed[r]) for r in _ROUTES])}; "
            f"{machine.words(run.machine)}), mixed as the arm\u2019s rounds were; line: 95 % interval of that mix, "
            "episodes resampled."
        )
        if ((run.machine or {}).get("others") or 0) > _LOAD:
            across += " Other programs were at work meanwhile, so these times are not settled."
        if others := sorted({s["policy"] for s in run.plain_summaries.values()} - set(policies)):
            across += f" {listed(others)}: not timed, drawn at these times."
    else:
        across = "mean time of a round in the arm\u2019s own episodes."
    waits = any(run.whose(arm) == "ours" and not s.get("clock") for arm, s in run.plain_summaries.items())
    paused = " The simulator waits for the policy, so here a slow round costs no success." * waits
    return f"Up: success, line: 95 % interval (Wilson). Across: {across} Arrows: a fault, a remedy.{paused}"


def _table(run: Campaign, found: Sequence[Point]) -> Html:
    rows = [
        {
            "arm": page.inline(page.code(point.arm), Html("<small>{}</small>").format(point.words)),
            "count": behind(run, point.arm, f"{point.k}/{point.n}"),
            "rate": f"{percent(point.rate)} [{cells.ends(point.interval)}]",
            "ms": three_digits(point.ms) + (f" [{_ends(point.ms_interval)}]" if point.ms_interval else ""),
            "rounds": f"{point.rounds:,}",
            "control": page.code(point.control) if point.control else None,
        }
        for point in found
    ]
    heads = {"arm": "Arm", "count": "k/n", "rate": "Success [95 %]", "ms": "ms a round [95 %]", "rounds": "Rounds"}
    return page.table(
        rows,
        heads | {"control": "Arrow from"},
        ("count", "rate", "ms", "rounds"),
        "Success and latency",
        stacked=True,
        name="tradeoff",
    )


def places(found: Sequence[Point]) -> dict[str, Any]:
    """Return what the template draws: marks, arrows, names and ticks, in the picture's units."""
    most = max([p.ms_interval.high if p.ms_interval else p.ms for p in found])
    step = _step(most / 4)
    end = step * (int(most * 1.06 / step) + 1)

    def across(ms: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * ms / end

    def up(rate: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * rate

    marks: dict[str, dict[str, Any]] = {}
    for point in found:
        x, y = across(point.ms), up(point.rate)
        while any(abs(x - m["x"]) < _SHIFT and abs(y - m["y"]) < _SHIFT for m in marks.values()):
            x += _SHIFT
        ends = point.ms_interval
        marks[point.arm] = {
            "point": point,
            **{"x": x, "y": y, "low": up(point.interval.low), "high": up(point.interval.high)},
            **{"left": across(ends.low) if ends else x, "right": across(ends.high) if ends else x},
        }
    arrows = [_arrow(marks[p.control], marks[p.arm], p.role) for p in found if p.control]
    order = sorted(marks.values(), key=lambda mark: (mark["y"], mark["x"]))
    for mark in order:
        mark["lines"] = _lines(mark["point"])
    heights = [_LINE * len(mark["lines"]) + _GAP for mark in order]
    tops = spread([mark["y"] - height / 2 for mark, height in zip(order, heights, strict=True)], heights, HEIGHT)
    for number, (mark, top, height) in enumerate(zip(order, tops, heights, strict=True), 1):
        mark |= {"label": top + _LINE, "lead": top + height / 2, "number": number}
    return {
        "marks": order,
        "arrows": [arrow for arrow in arrows if arrow],
        "names_at": WIDTH - _RIGHT + 12,
        "frame": {"left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM},
        "up": [(up(share / 4), percent(share / 4)) for share in range(5)],
        "across": [(across(step * i), f"{step * i:g}") for i in range(int(end / step) + 1)],
    }


def _step(least: float) -> float:
    """Return the round number (1, 2 or 5 times a power of ten) from `least` on."""
    power = 10.0 ** (len(f"{least:.0f}") - 1 if least >= 1 else -3)
    return next(s for s in (power * f * 10.0**e for e in range(6) for f in (1, 2, 5)) if s >= least)


def _lines(point: Point) -> list[str]:
    """Return a point's name in lines that fit beside the picture; the count follows the last one."""
    lines = textwrap.wrap(point.name, _LETTERS)
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], f"{lines[_LINES - 1][: _LETTERS - 1]}\u2026"]


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


def _arrow(start: Mapping[str, Any], end: Mapping[str, Any], role: str) -> dict[str, Any] | None:
    """Return an arrow's path, bent so that the way down to a fault and the way up from it do not cover each other."""
    (x, y), (to_x, to_y) = (start["x"], start["y"]), (end["x"], end["y"])
    length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
    if length < 22:
        return None  # the two marks touch
    bend = 0.22 * (-1 if role == "fault" else 1)
    middle = ((x + to_x) / 2 + bend * (to_y - y), (y + to_y) / 2 - bend * (to_x - x))
    # It ends before the mark, in the direction in which it comes in.
    toward = (to_x - middle[0], to_y - middle[1])
    size = (toward[0] ** 2 + toward[1] ** 2) ** 0.5
    tip = (to_x - 8 * toward[0] / size, to_y - 8 * toward[1] / size)
    path = f"M{x:.1f} {y:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {tip[0]:.1f} {tip[1]:.1f}"
    return {"path": path, "role": role}
