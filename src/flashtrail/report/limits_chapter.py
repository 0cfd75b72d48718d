"""Limits: how often each changed an action, and what was measured of the robot, beside arms that are only measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, figures, limits_figures, page
from flashtrail.report.count_links import behind
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import DASH, MINUS, counted, percent_range

_NOTE = (
    "Excursion: how far the gripper\u2019s farthest corner is outside the box, below zero inside. "
    "Force: at the wrist\u2019s sensor, the hand\u2019s weight included. Both are measured after every control "
    "step (20 a second); what lies between is not seen. How often a limit acted says nothing about either."
)

_PARTS = {
    "max_step_m": "commanded step at most {:g} m",
    "max_turn_rad": "turn {:g} rad",
    "max_jerk_m_s3": "jerk {:g} m/s\u00b3",
    "min_gripper_steps": "{:g} control steps between changes of the gripper",
}

arms = limits_figures.arms


def drawing(run: Campaign) -> Html | None:
    """Return the figure of excursions; None where no arm's limits act."""
    caption = (
        "Each mark an episode: how far the gripper's farthest corner was out of the box at its worst moment, after a "
        "control step. Limits are judged by this, never by how often they act."
    )
    return figures.shown(run, "excursions", caption) if limits_figures.boxed(run) else None


def section(run: Campaign) -> Html:
    """Return limits, excursion, force and success by arm; empty where no arm has limits."""
    rows = [_row(run, arm) for arm in arms(run)]
    if not rows:
        return page.join()
    heads = {
        "arm": "Arm",
        "limited": "Steps limited",
        "stops": "Force took over",
        "excursion": "Excursion, mm: median (worst)",
        "force": "Peak force, N: median (worst)",
        "success": "Success, verified",
    }
    caption = "Excursion and force: each episode\u2019s worst moment; k/n with Wilson\u2019s 95 % interval"
    table = page.table(rows, heads, ("limited",), caption=caption, stacked=True, name="limits")
    return page.join(page.paragraph(_NOTE, "note"), _given(run), table, _layers(run))


def _given(run: Campaign) -> Html:
    """What each limits of the run that act were set to."""
    given = [arm_words.recorded(run.summaries[arm], "limits") for arm in arms(run)]
    acting = {one["name"]: _in_words(one) for one in given if one.get("act")}
    return page.join(
        *(page.paragraph(f"Limits \u201c{name}\u201d: {words}.", "note") for name, words in acting.items())
    )


def _in_words(given: Mapping[str, Any]) -> str:
    box = given.get("box")
    sides = zip(box["low"], box["high"], strict=True) if box else ()
    corners = ", ".join(f"{axis} {low:g} to {high:g}" for axis, (low, high) in zip("xyz", sides, strict=bool(box)))
    parts = [f"box {corners} m"] if box else []
    parts += [words.format(given[name]) for name, words in _PARTS.items() if given.get(name) is not None]
    if (force := given.get("max_force_n")) is not None:
        parts.append(f"above {force:g} N at the wrist: {given['on_force']}")
    return "; ".join(parts).replace("-", MINUS)


def _layers(run: Campaign) -> Html | None:
    if limits_figures.measured(run) is None:
        return None
    caption = (
        "Each action given to the layer that the document prints and to ours; docs/deployment.md says why they differ."
    )
    return figures.shown(run, "clipping", caption)


def _row(run: Campaign, arm: str) -> dict[str, object]:
    episodes = limits_figures.episodes(run, arm)
    acting = episodes["limited_steps"].notna().all()
    return {
        "arm": arm_name(arm, run.summaries[arm], run),
        "limited": f"{episodes['limited_steps'].sum():.0f}/{episodes['steps'].sum():.0f}"
        if acting
        else "only measured",
        "stops": rate(run, arm, episodes["stops"].astype(float) > 0) if acting else DASH,
        "excursion": _spread(episodes["worst_excursion_mm"]),
        "force": _spread(episodes["peak_force_n"]),
        "success": rate(run, arm, episodes["verified_success"].dropna().astype(bool)),
    }


def _spread(values: pd.Series) -> str:
    return DASH if values.isna().any() else f"{values.median():.1f} ({values.max():.1f})"


def rate(run: Campaign, arm: str, yes: pd.Series) -> object:
    """Return k/n of an arm's episodes with Wilson's interval, behind a link to them."""
    found = intervals.rate(int(yes.sum()), len(yes))
    return behind(run, arm, f"{counted(found)} [{percent_range(found.wilson)}]" if found.wilson else counted(found))
