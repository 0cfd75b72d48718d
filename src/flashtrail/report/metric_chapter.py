"""What the metric saw: other criteria of success beside the verified one, by arm, where a suite records them."""

from __future__ import annotations

import pandas as pd

from flashtrail.claims.campaign import Campaign
from flashtrail.report import page
from flashtrail.report.count_links import behind
from flashtrail.report.overview import arm_name
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import counted, percent_range
from flashtrail.tables import schemas

_CRITERIA = {  # in the order of how much they ask
    "naive_success": "Naive",
    "own_success": "Simulator, any step",
    "printed_success": "Corrected, as printed",
    "success": "Held",
    "verified_success": "Verified",
}
_NOTE = (
    "Naive: the cube is higher than 0.08 m, which the table\u2019s top (0.8 m) already is. Simulator: robosuite\u2019s "
    "own test at any step. Corrected, as printed: the naive height, gripper closed, cube between both pads, hand and "
    "cube equally fast. Held: the goal of the task for ten steps in a row. Verified: held, and the behaviour was seen "
    "(grasped, raised 40 mm with the hand, not let go; pushed by the hand)."
)


def section(run: Campaign) -> Html:
    """Return criteria x arms as counts with Wilson's 95 % interval; empty where no arm's suite records others."""
    rows = []
    for arm in run.summaries:
        episodes = run.judged(arm)
        seen = episodes[episodes[list(schemas.METRICS)].notna().all(axis=1)]
        if len(seen):
            cells = {name: _cell(seen[name]) for name in _CRITERIA}
            said = {name: behind(run, arm, cell) if cell else "" for name, cell in cells.items()}
            rows.append({"arm": arm_name(arm, run.summaries[arm], run), **said})
    if not rows:
        return page.join()
    heads = {"arm": "Arm"} | _CRITERIA
    caption = "The same episodes by five criteria: k/n [Wilson 95 %]"
    table = page.table(rows, heads, tuple(_CRITERIA), caption=caption, stacked=True, name="metrics")
    return page.join(Html("<h3>What the metric saw</h3>"), page.paragraph(_NOTE, "note"), table)


def _cell(values: pd.Series) -> str:
    """k/n of the episodes that were judged by this criterion; nothing where none was."""
    judged = values.dropna()
    if judged.empty:
        return ""
    rate = intervals.rate(int(judged.astype(bool).sum()), len(judged))
    return f"{counted(rate)} [{percent_range(rate.wilson)}]" if rate.wilson else counted(rate)
