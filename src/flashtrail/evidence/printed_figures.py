"""Figures that somebody printed, held against the rows that they come from: does each follow, to the printed digit?

The figures are data (resources/published/rows/); they are looked up for the imported arms whose import names the
same source. Knows campaign and summaries; draws no conclusion beyond equality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flashtrail.errors import UserError
from flashtrail.evidence import page
from flashtrail.evidence.campaign import Campaign
from flashtrail.evidence.counts import apart, behind
from flashtrail.evidence.page import Html
from flashtrail.evidence.wording import plural

DIRECTORY = Path(__file__).resolve().parents[3] / "resources" / "published" / "rows"


class Figure(BaseModel):
    """One printed figure: of an arm's summary, or of the profile's rounds of a route."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    what: str
    printed: str = Field(description="as it was printed: a count k/n, or a number with its digits")
    of: str = Field(description="a number of the summary by its dotted path, or the quotient of two")
    arm: str | None = None
    profile: Literal["all", "draft", "full"] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Figure:
        if (self.arm is None) == (self.profile is None):
            raise ValueError(f"{self.what}: give either arm or profile")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1]
    figures: list[Figure]


def load(directory: str | Path = DIRECTORY) -> list[Figure]:
    """Read every file of figures in a directory; UserError names the file and what is wrong with it."""
    found: list[Figure] = []
    for path in sorted(Path(directory).glob("*.yaml")):
        try:
            found += _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).figures
        except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}") from None
    return found


def held(run: Campaign, figures: Sequence[Figure]) -> list[tuple[Figure, str | None, bool]]:
    """Return (figure, what the rows give in the same digits, whether the two agree) for what was imported.

    What the rows give is None where they do not say; then the two do not agree.
    """
    rows = []
    for figure in figures:
        if run.source(figure.arm) == figure.source:
            value = _value(run, figure)
            found = None if value is None else _as_printed(value, figure.printed)
            rows.append((figure, found, found == figure.printed))
    return rows


def _value(run: Campaign, figure: Figure) -> Any:
    part = figure.profile
    if part is not None:
        rounds = run.profile if part == "all" else run.profile[run.profile["route"] == part]
        column, _, statistic = figure.of.partition(".")
        times = rounds[column].dropna().to_numpy(float) if column in rounds else np.array([])
        return float(np.percentile(times, float(statistic.removeprefix("p")))) if len(times) else None
    values = [_at(run.summaries.get(str(figure.arm)), path.strip()) for path in figure.of.split("/")]
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
    """Which printed figures follow from the imported rows, and which do not; None where nothing of theirs is here."""
    rows = held(run, load())
    if not rows:
        return None
    odd = [(figure, found) for figure, found, agrees in rows if not agrees]
    follow = f"{len(rows) - len(odd)} of {plural(len(rows), 'printed figure')}"
    text = page.paragraph(f"{follow} of {_sources(rows)} follow from the imported rows, to the printed digit.")
    heads = {"what": "Figure", "where": "Of", "printed": "Printed", "found": "Rows give", "agrees": "Verdict"}
    cells = [
        {
            "what": figure.what,
            "where": page.code(_where(figure)),
            "printed": apart(figure.printed, "published"),
            "found": behind(run, figure.arm, found) if figure.arm else apart(found, "profile"),
            "agrees": "follows" if agrees else page.bold("does not follow"),
        }
        for figure, found, agrees in rows
    ]
    caption = "Printed figures held against the rows that they come from"
    return page.join(
        text,
        page.paragraph(_odd_words(odd), "warning") if odd else None,
        page.table(cells, heads, ("printed", "found"), caption, stacked=True),
    )


def _odd_words(odd: Sequence[tuple[Figure, str | None]]) -> str:
    """Name the figures that do not follow; both numbers are in the table below."""
    return f"Not from these rows: {'; '.join(f'{figure.what} of {_where(figure)}' for figure, _ in odd)}."


def _where(figure: Figure) -> str:
    return figure.arm or {"all": "profile", "draft": "profile, draft", "full": "profile, full"}[str(figure.profile)]


def _sources(rows: Sequence[tuple[Figure, Any, bool]]) -> str:
    return ", ".join(dict.fromkeys(figure.source for figure, _, _ in rows))
