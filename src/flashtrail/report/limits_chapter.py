"""Limits: how often each changed an action, and what was measured of the robot, beside arms that are only measured."""

from __future__ import annotations

import pandas as pd

from flashtrail.claims.campaign import Campaign
from flashtrail.report import figures, limits_figures, page
from flashtrail.report.count_links import behind
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import DASH, counted, percent_range

_NOTE = (
    "Excursion: of the gripper\u2019s farthest corner out of the box, below zero where all stayed inside by so much. "
    "Force: at the wrist\u2019s sensor, the hand\u2019s weight included. Both are measured after every control "
    "step (20 a second); what lies between is not seen. How often a limit acted says nothing about either."
)


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
        "stops": "Stopped by force",
        "excursion": "Excursion, mm: median (worst)",
        "force": "Peak force, N: median (worst)",
        "success": "Success, verified",
    }
    caption = "Of the episodes: the worst moment of each; k/n with Wilson\u2019s 95 % interval"
    table = page.table(rows, heads, ("limited",), caption=caption, stacked=True, name="limits")
    return page.join(page.paragraph(_NOTE, "note"), table, _layers(run))


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
        "stops": _rate(run, arm, episodes["stops"].astype(float) > 0) if acting else DASH,
        "excursion": _spread(episodes["worst_excursion_mm"]),
        "force": _spread(episodes["peak_force_n"]),
        "success": _rate(run, arm, episodes["verified_success"].dropna().astype(bool)),
    }


def _spread(values: pd.Series) -> str:
    return DASH if values.isna().any() else f"{values.median():.1f} ({values.max():.1f})"


def _rate(run: Campaign, arm: str, yes: pd.Series) -> object:
    rate = intervals.rate(int(yes.sum()), len(yes))
    return behind(run, arm, f"{counted(rate)} [{percent_range(rate.wilson)}]" if rate.wilson else counted(rate))
