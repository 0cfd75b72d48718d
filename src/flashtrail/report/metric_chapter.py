"""What the metric saw: criteria of success by arm, where a suite records them, and a source's table beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.summaries import setting
from flashtrail.report import arm_words, figures, page
from flashtrail.report.count_links import apart, behind, in_text
from flashtrail.report.criteria import CRITERIA, arms, count, seen
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import DASH, NBSP, counted, milliseconds, percent_range

_NOTE = (
    "Naive: the cube is higher than 0.08 m, which the table\u2019s top (0.8 m) already is. Simulator: robosuite\u2019s "
    "own test at any step. Corrected, as printed: the naive height, gripper closed, cube between both pads, hand and "
    "cube equally fast. Held: the goal of the task for ten steps in a row. Verified: held, and the behaviour was seen "
    "(grasped, raised 40 mm with the hand, not let go; pushed by the hand)."
)


def section(run: Campaign) -> Html:
    """Return criteria x arms as counts with Wilson's 95 % interval, and a source's table; empty without any."""
    if not arms(run):
        return page.join()
    return page.join(page.paragraph(_NOTE, "note"), by_arm(run), beside_printed(run))


def drawing(run: Campaign) -> Html | None:
    """Return the figure of three of the criteria; None where no arm has them."""
    caption = (
        "The same episodes by the naive test, by the corrected one as it was printed, and by verified success. A test "
        "that every policy passes tells nothing about one."
    )
    return figures.shown(run, "criteria", caption) if arms(run) else None


def by_arm(run: Campaign) -> Html:
    """Return the table of criteria by arm."""
    rows = [
        {"arm": arm_name(arm, run.summaries[arm], run)}
        | {name: _count(run, arm, seen(run, arm)[name], NBSP) for name in CRITERIA}
        for arm in arms(run)
    ]
    heads = {"arm": "Arm"} | CRITERIA
    caption = "The same episodes by five criteria: k/n [Wilson 95 %]"
    return page.table(rows, heads, tuple(CRITERIA), caption=caption, stacked=True, name="metrics")


def _count(run: Campaign, arm: str, values: pd.Series, between: str = " ") -> Any:
    k, n = count(values)
    if not n:  # nobody judged them by this criterion
        return ""
    rate = intervals.rate(k, n)
    return behind(run, arm, f"{counted(rate)}{between}[{percent_range(rate.wilson)}]" if rate.wilson else counted(rate))


# --- a source's table of results, beside ours ---


def _happened(column: str) -> Callable[[Campaign, str], Any]:
    return lambda run, arm: _count(run, arm, seen(run, arm)[column])


def _steps(run: Campaign, arm: str) -> str:
    steps = seen(run, arm)["steps"]
    return f"{steps.mean():.0f}" + f" ({steps.min():.0f} to {steps.max():.0f})" * bool(steps.min() < steps.max())


def _per_action(run: Campaign, arm: str) -> str:
    ms = run.summaries[arm]["latency_per_action"]["all_episodes"]
    return DASH if ms is None else milliseconds(ms)


QUANTITIES: dict[str, Callable[[Campaign, str], Any]] = {
    **{name: _happened(name) for name in (*CRITERIA, "gripper_closures", "grasps", "lifts")},
    "steps": _steps,
    "policy_ms": _per_action,
}
_FURTHER = {
    "own_success": "Simulator\u2019s own test, at any step",
    "printed_success": "Corrected criterion, as printed",
}


def beside_printed(run: Campaign) -> Html | None:
    """Return a source's table of results with ours in further columns, and further criteria in further rows.

    Ours: the arms that claims about a metric name, and of late ones the same policy on time.
    """
    rows = run.published.results if run.published else []
    columns = _beside(run)
    if not rows or not columns:
        return None
    printed = list(dict.fromkeys(head for row in rows for head in row.printed))
    lines = [_line(run, row.what, row.printed, row.quantity, columns) for row in rows]
    lines += [_line(run, what, {}, quantity, columns) for quantity, what in _FURTHER.items()]
    heads = {"what": "Measured"} | {head: f"Printed: {head.lower()}" for head in printed}
    heads |= {arm: arm for arm in columns}
    names = "; ".join(f"{arm}: {_words(run, arm)}" for arm in columns)
    note = (
        f"The last columns are ours ({names}). Closures, grasps, lifts: episodes with at least one. Length: mean "
        "(shortest to longest), at most 100 steps here and 200 there. Reward: ours is not the shaped one, and is not "
        "compared. Time: mean policy time over the actions executed."
    )
    where = f"{published_title(run, rows)}, {rows[0].table}"
    table = page.table(
        lines, heads, tuple(heads)[1:], caption=f"{where}, and ours", stacked=True, name="metrics-printed"
    )
    return page.join(page.heading("The printed table, and ours", 3), page.paragraph(note, "note"), table)


def published_title(run: Campaign, rows: Sequence[published.Result]) -> str:
    """Return the title of the source of these rows."""
    return run.published.sources[rows[0].source].title if run.published else ""


def _line(
    run: Campaign, what: str, printed: Mapping[str, str], quantity: str | None, columns: Sequence[str]
) -> dict[str, Any]:
    quoted = {head: in_text(text, [lambda count: apart(count, "published")]) for head, text in printed.items()}
    ours = {arm: QUANTITIES[quantity](run, arm) if quantity else None for arm in columns}
    return {"what": what, **quoted, **ours}


def _beside(run: Campaign) -> list[str]:
    claims = (run.claims or {"claims": []})["claims"]
    about = [
        claim for claim in claims if claim["test"] == "metric_rate" and claim.get("metric", "grasps") in QUANTITIES
    ]
    named = {arm for claim in about for arm in claim["arms"]}
    named |= {own for arm in named & set(run.summaries) if _lag(run, arm) and (own := _on_time(run, arm))}
    return [arm for arm in arms(run) if arm in named]


def _lag(run: Campaign, arm: str) -> int:
    execution = json.loads(run.summaries[arm].get("metadata", {}).get("execution") or "{}")
    return int(execution.get("window_lag", 0))


def _on_time(run: Campaign, arm: str) -> str | None:
    """Return the first arm that differs from a late one in its lag: the same policy, tasks and condition."""

    def alike(name: str) -> Any:
        own = run.summaries[name]
        return own["policy"], [task["task_id"] for task in own["tasks"]], setting(own, "condition")

    return next((name for name in arms(run) if not _lag(run, name) and alike(name) == alike(arm)), None)


def _words(run: Campaign, arm: str) -> str:
    return arm_words.words(run.summaries[arm], run.usual_policy(run.summaries[arm]))
