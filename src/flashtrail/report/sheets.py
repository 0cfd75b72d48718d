"""Contact sheets in a report: what the policy saw in episodes that failed, and in one that did not.

Within a number of bytes, so that a page stays small; what is left out is counted, and the films lie beside the shard's
tables.
"""

from __future__ import annotations

import pandas as pd

from flashtrail.claims.campaign import Campaign
from flashtrail.report import page
from flashtrail.report.page import Html
from flashtrail.statistics.wording import plural

PAGE_BYTES = 1_800_000  # of JPEG; in the page a third more


def section(run: Campaign, limit: int = PAGE_BYTES) -> Html:
    """One folded part per arm, failures first; an empty part where nothing was filmed."""
    sheets = run.sheets
    if not len(sheets):
        return Html("")
    shown = chosen(sheets, limit)
    note = (
        f"Contact sheets: {plural(len(shown), 'episode')} of {len(sheets)} that were filmed (failures, and one success "
        "per arm and task). Each picture is one query: agent view and wrist view as the policy saw them, after "
        "condition and guard. Orange: hit by the condition, or missed by the guard; green: replaced or declared "
        "missing. Films lie beside the tables of the rollouts, in videos/."
    )
    parts = [page.paragraph(note, "note")]
    for arm in [arm for arm in run.arms if (shown["arm"] == arm).any()]:
        part = shown[shown["arm"] == arm]
        failed = int((part["outcome"] != "success").sum())
        pictures = [_picture(row) for row in part.to_dict("records")]
        name = f"Contact sheets of {arm}: {failed} failed, {len(part) - failed} succeeded"
        parts.append(page.details(name, page.join(*pictures), printed=False))
    return page.join(*parts)


def chosen(sheets: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return sheets within `limit` bytes, in turn from every arm and task: a failure of each, then a success of each.

    Later turns add further failures. Within an arm and task, the order is that of the table; failures come first in
    the result.
    """
    frame = sheets.assign(success=sheets["outcome"] == "success", size=sheets["jpeg"].map(len))
    group = ["arm", "task_id", "success"]
    frame["turn"] = frame.groupby(group).cumcount()
    frame = frame.sort_values(["turn", "success"], kind="stable")
    frame = frame[frame["size"].cumsum() <= limit]
    return frame.sort_values(["arm", "success", "task_id", "init_state", "repeat"], kind="stable")


def _picture(row: dict[str, object]) -> Html:
    which = f"task {row['task_id']}, init state {row['init_state']}, repeat {row['repeat']}: {row['outcome']}"
    jpeg = row["jpeg"]
    assert isinstance(jpeg, bytes)
    return page.picture(jpeg, f"Contact sheet of {row['arm']}, {which}", which)
