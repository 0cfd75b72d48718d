"""Success against latency: each arm a point with its intervals, fault and remedy as arrows from their control.

The picture is SVG within the page, drawn by templates/tradeoff.html.j2 from the places that tradeoff_places.py gives
it; a table stands behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flashtrail.base import machine
from flashtrail.claims import claims as types
from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, cells, layout, page, tradeoff_places
from flashtrail.report.count_links import behind
from flashtrail.report.page import Html
from flashtrail.report.tradeoff_places import PAGE, Point, ends
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Interval
from flashtrail.statistics.wording import listed, milliseconds, percent, three_digits

_ROUTES = ("draft", "full")
_LOAD = types.LatencyClaim.model_fields["load_at_most"].default


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
    share, between = summary["routes"]["draft_share"], summary["routes"].get("draft_share_interval")
    if share is None:
        return None
    if not timed:
        own = summary["mixture"]["mean_ms"]
        return None if own is None or own != own or own <= 0 else (float(own), None)
    at = [intervals.mixture_mean(s, timed["draft"], timed["full"]) for s in (share, *_both(between))]
    return at[0], Interval(min(at[1:]), max(at[1:])) if between else None


def _both(between: Mapping[str, float] | None) -> tuple[float, ...]:
    return (between["low"], between["high"]) if between else ()


def _control(run: Campaign, arm: str) -> str | None:
    """Return where an arm's arrow begins: the same fault without its remedy, or the arm without the fault."""
    summary = run.summaries[arm]
    if arm_words.role(summary, run.usual_policy(summary)) == "clean":
        return None
    return run.control_of(arm) or run.without_fault(arm)


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
    placed = tradeoff_places.places(found, PAGE)
    drawn = layout.ENVIRONMENT.get_template("tradeoff.html.j2").render(**placed, pages=run.pages, sheet=PAGE)
    table = page.details("The numbers of this figure", _table(run, found))
    return Html('<figure class="tradeoff">{}<figcaption>{}</figcaption>{}</figure>').format(
        Html(drawn), _caption(run, placed["moved"]), table
    )


def _caption(run: Campaign, moved: bool) -> str:
    if len(timed := _profile(run)) and not all(s.get("clock") for s in run.plain_summaries.values()):
        n, policies = run.profile["route"].value_counts(), list(dict.fromkeys(run.profile["policy"]))
        across = (
            f"mean time of a round, {listed(policies)}\u2019s draft and full rounds as timed by themselves "
            f"(n = {n['draft']} and {n['full']}; means {listed([milliseconds(timed[r]) for r in _ROUTES])}; "
            f"{machine.words(run.machine)}), mixed as the arm\u2019s rounds were; line: 95 % interval of that mix, "
            "episodes resampled."
        )
        if ((run.machine or {}).get("others") or 0) > _LOAD:
            across += " Other programs were running meanwhile, so these times are not reliable."
        if others := sorted({s["policy"] for s in run.plain_summaries.values()} - set(policies)):
            across += f" {listed(others)}: not timed, drawn at these times."
    else:
        records = [json.loads(s.get("metadata", {}).get("machine") or "{}") for s in run.plain_summaries.values()]
        busy = [record["others"] for record in records if record.get("others") is not None]
        beside = f", where other programs were on up to {percent(max(busy))} of the cores" if busy else ""
        across = f"mean time of a round in the arm\u2019s own episodes{beside}: not timed alone."
    waits = any(run.whose(arm) == "ours" and not s.get("clock") for arm, s in run.plain_summaries.items())
    paused = " The simulator waits for the policy, so here a slow round costs no success." * waits
    beside = " A mark that would cover another stands to its right." * moved
    arrows = " Arrows: a fault, a remedy." * any(_control(run, arm) is not None for arm in run.plain_summaries)
    up = f"Up: success, {run.success_words}; line: 95 % interval (Wilson)."
    return f"{up} Across: {across}{arrows}{beside}{paused}"


def _table(run: Campaign, found: Sequence[Point]) -> Html:
    rows = [
        {
            "arm": page.inline(page.code(point.arm), Html("<small>{}</small>").format(point.words)),
            "count": behind(run, point.arm, f"{point.k}/{point.n}"),
            "rate": f"{percent(point.rate)} [{cells.ends(point.interval)}]",
            "ms": three_digits(point.ms) + (f" [{ends(point.ms_interval)}]" if point.ms_interval else ""),
            "rounds": f"{point.rounds:,}",
            "control": page.code(point.control) if point.control else None,
        }
        for point in found
    ]
    heads = {"arm": "Arm", "count": "k/n", "rate": "Success [Wilson 95 %]", "ms": "Mean ms a round [95 %]"}
    return page.table(
        rows,
        heads | {"rounds": "Rounds", "control": "Arrow from"},
        ("count", "rate", "ms", "rounds"),
        "Success and latency",
        stacked=True,
        name="tradeoff",
    )
