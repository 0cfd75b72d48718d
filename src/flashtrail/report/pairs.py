"""The pairs behind a paired test: which starts ended differently in two arms, each as a link to both episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flashtrail.report import page
from flashtrail.report.page import Html
from flashtrail.tables import links

if TYPE_CHECKING:  # not at run time: an episode's page names starts, and needs no verdicts
    from flashtrail.claims.campaign import Campaign

MOST = 40  # starts named per cell; the index of all episodes has every one


def differing(run: Campaign, against: Sequence[tuple[str, str]]) -> Html | None:
    """Return, folded, the starts at which exactly one of an arm and its reference succeeded; None without any.

    `against` are the pairs (arm, reference).
    """
    rows, index = [], links.index(run.files("page_index"))
    for arm, reference in against:
        both = run.pairs(arm, reference)
        both = both[both["success_a"] != both["success_b"]]
        if len(both):
            records = both.to_dict("records")
            only = [[row for row in records if row[f"success_{side}"]] for side in ("a", "b")]
            cells = [starts(run, [arm, reference], found) for found in only]
            row = {"arm": page.code(arm), "reference": page.code(reference), "a": cells[0], "b": cells[1]}
            side_by_side = f"{index}#{links.chosen(a=arm, b=reference)}"
            rows.append(row | {"pages": page.link("side by side", side_by_side) if index else None})
    if not rows:
        return None
    heads = {"arm": "Arm", "reference": "Reference", "a": "Only in this arm", "b": "Only in the reference"}
    heads |= {"pages": "Pictures"} if index else {}
    caption = "Starts at which one of the two succeeded; each is followed by links to its episode in both"
    table = page.table(rows, heads, caption=caption, stacked=True, name="paired-starts")
    return page.details("The discordant pairs", table, printed=False)


def starts(run: Campaign, arms: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Html | None:
    """Return starts by task, each as links to its episode in one arm or in two; the first `MOST`."""
    named = by_task(rows[:MOST], lambda row: _start(run, arms, row))
    more = f"; and {len(rows) - MOST} more" if len(rows) > MOST else ""
    return page.inline(named, more) if rows else None


def by_task(rows: Iterable[Mapping[str, Any]], shown: Callable[[Mapping[str, Any]], Html]) -> Html:
    """``task 0, initial state 3, 4; task 2, initial state 1``, each start as `shown` gives it."""
    tasks: dict[int, list[Html]] = {}
    for row in rows:
        tasks.setdefault(row["task_id"], []).append(shown(row))
    parts = (page.inline(f"task {task}, initial state ", Html(", ").join(found)) for task, found in tasks.items())
    return Html("; ").join(parts)


def start_name(row: Mapping[str, Any]) -> str:
    """``3`` or ``3 (repeat 1)``."""
    return f"{row['init_state']}" + (f" (repeat {row['repeat']})" if row["repeat"] else "")


def _start(run: Campaign, arms: Sequence[str], row: Mapping[str, Any]) -> Html:
    name = start_name(row)
    if len(arms) == 1 and arms[0] in run.pages:
        return page.link(name, links.episode(run.pages[arms[0]], row))
    words = ("arm", "reference")
    ways = zip(arms, words, strict=False)
    linked = [page.link(word, links.episode(run.pages[arm], row)) for arm, word in ways if arm in run.pages]
    if not linked:
        return Html(name)
    return Html('{}<span class="ways">\u00a0({})</span>').format(name, Html(", ").join(linked))
