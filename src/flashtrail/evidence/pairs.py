"""The pairs behind a paired test: which starts ended differently in two arms, each as a link to both episodes.

Knows campaign and page; tests nothing, the numbers are those that statistics.paired counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashtrail.evidence import links, page
from flashtrail.evidence.campaign import Campaign
from flashtrail.evidence.page import Html
from flashtrail.evidence.tables import PAIR_KEY

MOST = 40  # starts named per cell; the index of all episodes has every one


def differing(run: Campaign, arms: Sequence[str], reference: str) -> Html | None:
    """Return, folded, the starts at which exactly one of an arm and the reference succeeded; None if there is none."""
    keys, rows = list(PAIR_KEY), []
    base = run.of_arm("episodes", reference)[[*keys, "success"]]
    for arm in arms:
        both = run.of_arm("episodes", arm)[[*keys, "success"]].merge(base, on=keys, suffixes=("_a", "_b"))
        both = both[both["success_a"] != both["success_b"]].sort_values(keys, kind="stable")
        if arm != reference and len(both):
            records = both.to_dict("records")
            only = [[row for row in records if row[f"success_{side}"]] for side in ("a", "b")]
            cells = [_starts(run, arm, reference, found) for found in only]
            rows.append({"arm": page.code(arm), "a": cells[0], "b": cells[1]})
    if not rows:
        return None
    heads = {"arm": "Arm", "a": "Only in this arm", "b": f"Only in {reference}"}
    caption = "Starts at which one of the two succeeded: task/initial state (arm, reference)"
    return page.details("The discordant pairs", page.table(rows, heads, caption=caption, stacked=True))


def _starts(run: Campaign, arm: str, reference: str, rows: Sequence[Mapping[str, Any]]) -> Html | None:
    named = [_start(run, arm, reference, row).text for row in rows[:MOST]]
    more = [f"and {len(rows) - MOST} more"] if len(rows) > MOST else []
    return Html(", ".join([*named, *more])) if named else None


def _start(run: Campaign, arm: str, reference: str, row: Mapping[str, Any]) -> Html:
    repeat = f", repeat {row['repeat']}" if row["repeat"] else ""
    name = f"{row['task_id']}/{row['init_state']}{repeat}"
    ways = [(arm, "arm"), (reference, "reference")]
    linked = [page.link(word, links.episode(run.pages[a], row)) for a, word in ways if a in run.pages]
    inside = f"\u00a0({', '.join(way.text for way in linked)})" if linked else ""
    return Html(f"{name}{inside}")
