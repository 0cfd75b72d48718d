"""Printed figures compared with the rows that they come from: does each follow, to the printed digit?

The figures are data (`said` in resources/published/published.yaml); they are looked up for the imported arms whose
import names the same source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.report import page
from flashtrail.report.count_links import apart, behind
from flashtrail.report.page import Html
from flashtrail.statistics.wording import plural


class Figure(NamedTuple):
    """One printed figure and where the rows have it. `printed`: a count k/n, or a number with its digits."""

    source: str
    what: str
    printed: str
    rows: published.Rows


def load(path: str | Path = published.DEFAULT) -> list[Figure]:
    """Return the figures of the table `said` that rows must give, in its order."""
    said = published.load(path).said
    return [Figure(entry.source, entry.figure, entry.value, rows) for entry in said for rows in entry.rows]


def held(run: Campaign, figures: Sequence[Figure]) -> list[tuple[Figure, str | None, bool]]:
    """Return (figure, what the rows give in the same digits, whether the two agree) for what was imported.

    What the rows give is None where they do not say; then the two do not agree.
    """
    rows = []
    for figure in figures:
        if run.source(figure.rows.arm) == figure.source:
            value = _value(run, figure)
            recomputed = None if value is None else _as_printed(value, figure.printed)
            rows.append((figure, recomputed, recomputed == figure.printed))
    return rows


def _value(run: Campaign, figure: Figure) -> Any:
    part = figure.rows.profile
    if part is not None:
        rounds = run.profile if part == "all" else run.profile[run.profile["route"] == part]
        column, _, statistic = figure.rows.of.partition(".")
        times = rounds[column].dropna().to_numpy(float) if column in rounds else np.array([])
        return float(np.percentile(times, float(statistic.removeprefix("p")))) if len(times) else None
    values = [_at(run.summaries.get(str(figure.rows.arm)), path.strip()) for path in figure.rows.of.split("/")]
    if None in values or (len(values) == 2 and not values[1]):
        return None
    return values[0] if len(values) == 1 else values[0] / values[1]


def _at(entry: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(entry, list):
            entry = next((task for task in entry if str(task["task_id"]) == name), None)
        else:
            entry = entry.get(name) if isinstance(entry, Mapping) else None
    return entry


def _as_printed(value: Any, printed: str) -> str:
    """Return a value with as many digits as the printed one has; a count as k/n."""
    if isinstance(value, Mapping):
        return f"{value['k']}/{value['n']}"
    return f"{value:.{len(printed.partition('.')[2])}f}"


def section(run: Campaign) -> Html | None:
    """Which printed figures follow from the imported rows, and which do not; None where none was imported."""
    rows = held(run, load())
    if not rows:
        return None
    odd = [(figure, recomputed) for figure, recomputed, agrees in rows if not agrees]
    follow = f"{len(rows) - len(odd)} of {plural(len(rows), 'printed figure')}"
    text = page.paragraph(f"{follow} of {_sources(rows)} follow from the imported rows, to the printed digit.")
    heads = {"what": "Figure", "where": "Of", "printed": "Printed", "found": "Rows give", "agrees": "Verdict"}
    cells = [
        {
            "what": figure.what,
            "where": page.code(_where(figure)),
            "printed": apart(figure.printed, "published"),
            "found": behind(run, figure.rows.arm, recomputed) if figure.rows.arm else apart(recomputed, "profile"),
            "agrees": "follows" if agrees else page.bold("does not follow"),
        }
        for figure, recomputed, agrees in rows
    ]
    caption = "Printed figures compared with their rows"
    return page.join(
        text,
        page.paragraph(_odd_words(odd), "warning") if odd else None,
        page.table(cells, heads, ("printed", "found"), caption, stacked=True, name="printed"),
    )


def _odd_words(odd: Sequence[tuple[Figure, str | None]]) -> str:
    """Name the figures that do not follow; both numbers are in the table below."""
    names = (f"{figure.what} of {_where(figure)}" for figure, _ in odd)
    return f"Does not follow from the imported rows: {'; '.join(names)}."


def _where(figure: Figure) -> str:
    routes = {"all": "profile", "draft": "profile, draft", "full": "profile, full"}
    return figure.rows.arm or routes[str(figure.rows.profile)]


def _sources(rows: Sequence[tuple[Figure, Any, bool]]) -> str:
    return ", ".join(dict.fromkeys(figure.source for figure, _, _ in rows))
