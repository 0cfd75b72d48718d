"""Verified success beside the simulator's own: both rates by arm, and every episode in which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from flashtrail.claims.campaign import Campaign
from flashtrail.report import cells, page
from flashtrail.report.count_links import behind
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import DASH, counted, plural
from flashtrail.tables import links, schemas

LISTED = 40  # disagreements on a page


def section(run: Campaign) -> Html:
    """Return the rates and the disagreements; empty without verified episodes (imported runs)."""
    seen = _verified(run)
    if not len(seen):
        return page.join()
    return page.join(_rates(run, seen), _disagreements(run, seen))


def disagreements(episodes: pd.DataFrame) -> pd.DataFrame:
    """Return the episodes whose verified success differs from the simulator's; unverified ones do not count."""
    seen = episodes[episodes["verified_success"].notna()]
    return seen[seen["verified_success"].astype(bool) != _own(seen)]


def _own(episodes: pd.DataFrame) -> pd.Series:
    return episodes["outcome"].eq("success")


def _verified(run: Campaign) -> pd.DataFrame:
    frames = [run.judged(arm) for arm in run.summaries]
    frames = [frame[frame["verified_success"].notna()] for frame in frames]
    return pd.concat(frames) if frames else pd.DataFrame()


def _rates(run: Campaign, seen: pd.DataFrame) -> Html:
    rows = []
    for arm, part in seen.groupby("arm", sort=False):
        own, verified = _rate(_own(part)), _rate(part["verified_success"])
        rows.append(
            {
                "arm": arm_name(str(arm), run.summaries[str(arm)]),
                "own": behind(run, str(arm), counted(own)),
                "verified": behind(run, str(arm), counted(verified)),
                **cells.rate(verified),
                "apart": str(len(disagreements(part))),
                "closures": _median(part["gripper_closures"]),
                "grasps": _median(part["grasps"]),
                "lifts": _median(part["lifts"]),
            }
        )
    heads = {
        "arm": "Arm",
        "own": "Simulator",
        "verified": "Verified",
        "rate": "Verified rate",
        "wilson": "Wilson 95 %",
        "apart": "Disagree",
        "closures": "Gripper closures",
        "grasps": "Grasps",
        "lifts": "Lifts",
    }
    note = (
        "Verified: the simulator\u2019s own, and the behaviour that the task implies was seen (object grasped by both "
        "fingers, lifted with the hand, released at the goal; drawer, knob or plate moved with the hand)."
    )
    caption = "Verified success; closures, grasps, lifts: median of an episode"
    table = page.table(rows, heads, tuple(heads)[1:], caption=caption, stacked=True, name="verified")
    return page.join(page.paragraph(note, "note"), table)


def _disagreements(run: Campaign, seen: pd.DataFrame) -> Html:
    apart = disagreements(seen)
    if not len(apart):
        text = f"The two agree in all {plural(len(seen), 'episode')}."
        return page.paragraph(text, "note")
    rows = [
        {
            "episode": _named(run, row),
            "reason": row["verified_reason"] or "",
            "steps": str(row["steps"]),
            "grasps": str(int(row["grasps"])),
            "video": "yes" if isinstance(row["video"], str) else "no",
        }
        for row in apart.head(LISTED).to_dict("records")
    ]
    heads = {"episode": "Episode", "reason": "Missing behaviour", "steps": "Steps", "grasps": "Grasps", "video": "Film"}
    rest = f" (the first {LISTED})" if len(apart) > LISTED else ""
    caption = f"Success by the simulator, not verified: {plural(len(apart), 'episode')} of {len(seen)}{rest}"
    return page.table(rows, heads, ("steps", "grasps"), caption=caption, stacked=True, name="verified-apart")


def _named(run: Campaign, row: Mapping[str, Any]) -> Html:
    """Return an episode's name, linked to its page (with its film, where one was kept) if it has one."""
    name = schemas.episode_id(row)
    listed = run.pages.get(row["arm"])
    return page.link(name, links.episode(listed, row)) if listed else page.code(name)


def _rate(values: Any) -> intervals.Rate:
    return intervals.rate(int(values.astype(bool).sum()), len(values))


def _median(values: pd.Series) -> str:
    known = values.dropna()
    return f"{known.median():g}" if len(known) else DASH
