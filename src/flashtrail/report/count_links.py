"""Counts as links to what they count: an arm's episodes, every episode, a claim's rows.

A count k/n of ours stands in a link wherever its episodes have pages. A count of anything else is marked
with what it counts (`apart`), so that readers and tests can tell the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.report import page
from flashtrail.report.page import Html
from flashtrail.tables import links

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
COUNT = re.compile(rf"(?<![\w./]){_NUMBER}/{_NUMBER}(?![\w/])")
# what a count without an episode's page counts, in words
APART = {
    "published": "a published figure, not of the runs on this page",
    "profile": "queries of the profile, not of an episode",
    "records": "records, not episodes",
}
SUCCESS_TESTS = ("rate_at_least", "metric_rate", "paired_difference", "unpaired_difference", "non_inferiority")


def behind(run: Campaign, arm: str, number: Any, anchor: str = "") -> Any:
    """Return a number as a link to the episodes it counts, or as it is where they have no pages."""
    if arm not in run.pages:
        return number
    return page.link(number, run.pages[arm] + (f"#{anchor}" if anchor else ""))


def pooled(run: Campaign, number: Any) -> Any:
    """Return a number over several arms as a link to every episode; in a chapter, to its table of arms."""
    if not run.pages:
        return number
    index = links.index(run.files("page_index"))
    if index is None and len(run.pages) == 1:
        index = next(iter(run.pages.values()))
    return page.link(number, index or f"#{links.ARMS}")


def apart(number: Any, what: str) -> Html:
    """Return a count of something other than episodes, marked with what it counts (a key of APART)."""
    mark = Html('<span class="apart" data-behind="{}" title="{}">{}</span>')
    return mark.format(what, APART[what], page.html(number))


def in_text(text: str, ways: Sequence[Callable[[str], Any]]) -> Html:
    """Return text in which the n-th count is what the n-th of `ways` makes of it; the last one serves all further."""
    parts: list[Any] = []
    end = 0
    for place, match in enumerate(COUNT.finditer(text)):
        parts += [text[end : match.start()], ways[min(place, len(ways) - 1)](match[0])]
        end = match.end()
    return page.inline(*parts, text[end:])


def of_claim(run: Campaign, claim: Mapping[str, Any], text: str, details: str | None) -> Html:
    """Return a verdict's words with each count as a link to what the claim's rows name.

    Success: the arm's episodes, in the order of the claim's arms; bookkeeping: every episode; records: the claim's own
    details on page `details` (empty: this page; None: no such page).
    """
    ways: list[Callable[[str], Any]]
    if claim["test"] in SUCCESS_TESTS:
        ways = [partial(behind, run, arm) for arm in claim["arms"]]
    elif claim["test"] == "bookkeeping":
        ways = [partial(pooled, run)]
    elif claim["test"].startswith("published"):
        ways = [partial(apart, what="published")]
    elif details is None:
        ways = [partial(apart, what="records")]
    else:
        ways = [partial(page.link, target=f"{details}#{claim['id']}")]
    return in_text(text, ways)
