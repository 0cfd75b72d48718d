"""Figures that no episode has: those that claims use first, with their bounds; the others folded, by subject."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.report import cards, page
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, plural
from flashtrail.tables.measurements import Figure, Measurement, written

_LONG = 16  # figures from which on those that no claim uses are divided by the first word of their names
_Bounds = Mapping[str, Html]  # of a figure, measurement.figure: which claim has which bound


def section(run: Campaign) -> Html:
    """Return every measurement in the order of the config, those of the same figures as one table; empty without."""
    bounds = _bounds(run)
    alike: dict[Any, dict[str, Measurement]] = {}
    for name, measurement in run.measured.items():
        alike.setdefault(tuple((f.name, f.title) for f in measurement.figures), {})[name] = measurement
    return page.join(*(_one(*of.popitem(), bounds) if len(of) == 1 else _several(of, bounds) for of in alike.values()))


def _bounds(run: Campaign) -> dict[str, Html]:
    found: dict[str, list[Html]] = {}
    for claim in (run.claims or {"claims": []})["claims"]:
        if claim["test"] == "measured":
            for key, figure in claim["numbers"].items():
                words = page.inline(
                    page.link(claim["id"], f"#{cards.anchor(claim)}"),
                    f": {figure.get('bound', '')}, ",
                    figure.get("met", ""),
                )
                found.setdefault(key, []).append(words)
    return {key: Html("; ").join(words) for key, words in found.items()}


def _one(name: str, measurement: Measurement, bounds: _Bounds) -> Html:
    """One measurement: a table of the figures that claims use, the others folded."""
    used = [f for f in measurement.figures if f"{name}.{f.name}" in bounds]
    rest = [f for f in measurement.figures if f not in used]
    groups: dict[str, list[Figure]] = {}
    for figure in rest:
        groups.setdefault(figure.name.partition("_")[0] if len(rest) >= _LONG else "", []).append(figure)
    few = [figure for group in groups.values() if len(group) == 1 for figure in group]
    divided = {subject: group for subject, group in groups.items() if len(group) > 1} | ({"": few} if few else {})
    more = "further " * bool(used)
    folded = [
        page.details(
            page.inline(
                f"{plural(len(group), f'{more}figure')}", *([": ", page.code(f"{subject}_\u2026")] if subject else [])
            ),
            _table(name, group, bounds, f"measured-{name}" + f"/{subject or 'further'}"),
        )
        for subject, group in divided.items()
    ]
    shown = _table(name, used, bounds, f"measured-{name}") if used else None
    return page.join(page.heading(measurement.title, 3), page.paragraph(measurement.method, "note"), shown, *folded)


def _table(name: str, figures: Sequence[Figure], bounds: _Bounds, table: str) -> Html:
    rows = [
        {
            "figure": f.title,
            "value": written(f.value),
            "interval": f.interval() or DASH,
            "n": f"{f.n} {f.of}",
            "bound": bounds.get(f"{name}.{f.name}"),
        }
        for f in figures
    ]
    heads = {"figure": "Figure", "value": "Value", "interval": "95 % interval", "n": "Over"}
    heads |= {"bound": "Claim: bound"} if any(row["bound"] for row in rows) else {}
    return page.table(rows, heads, ("value",), stacked=True, name=table)


def _several(measurements: Mapping[str, Measurement], bounds: _Bounds) -> Html:
    """Measurements of the same figures side by side: a row a figure, a column a measurement."""
    first = next(iter(measurements.values()))
    over = {f"{f.n} {f.of}" for m in measurements.values() for f in m.figures}
    rows = [
        {"figure": f.title}
        | {name: _cell(m.figures[place], bounds.get(f"{name}.{f.name}"), over) for name, m in measurements.items()}
        for place, f in enumerate(first.figures)
    ]
    tails = (first.title[k:] for k, letter in enumerate(first.title) if letter == " ")
    tail = next((tail for tail in tails if all(m.title.endswith(tail) for m in measurements.values())), "")
    heads = {"figure": "Figure"} | {name: m.title.removesuffix(tail) for name, m in measurements.items()}
    methods = page.paragraphs(f"{m.title}: {m.method}" for m in measurements.values())
    caption = "Value [95 %]" + (f"; over {over.pop()}" if len(over) == 1 else "")
    table = page.table(
        rows, heads, tuple(measurements), caption, stacked=True, name=f"measured-{'-'.join(measurements)}"
    )
    head = tail.strip() or "side by side"
    return page.join(
        page.heading(f"{head[:1].upper()}{head[1:]}", 3),
        table,
        page.details("How they were measured", methods or Html()),
    )


def _cell(figure: Figure, bound: Html | None, over: Collection[str]) -> Html:
    more = [] if len(over) == 1 else [f"{figure.n} {figure.of}"]
    small = Html("<br>").join([*more, *([bound] if bound else [])])
    return page.inline(figure.said(), Html(" <small>{}</small>").format(small) if small else "")
