"""Figures that no episode has: those that claims use first, with their bounds; the others folded, by subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.report import cards, figures, page, precision_figures
from flashtrail.report.page import Html
from flashtrail.statistics.wording import plural
from flashtrail.tables.measurements import Figure, Measurement

_LONG = 16  # figures from which on those that no claim uses are divided by the first word of their names
_Bounds = Mapping[str, tuple[str, Html]]  # by measurement.figure: it beside its bound, and the claims with their bounds


def section(run: Campaign) -> Html:
    """Return every measurement in the order of the config, those of the same figures as one; empty without any."""
    alike: dict[Any, dict[str, Measurement]] = {}
    for name, measurement in run.measured.items():
        alike.setdefault(tuple((f.name, f.title) for f in measurement.figures), {})[name] = measurement
    bounds = _bounds(run)
    return page.join(*(page.join(_part(of, bounds), _drawn(run, of)) for of in alike.values()))


def _drawn(run: Campaign, of: Mapping[str, Measurement]) -> Html:
    """The figures of measurements of number formats."""
    names = [name for name in of if name in precision_figures.measured(run)]
    return page.join(*(figures.shown(run, f"precision/{name}", precision_figures.CAPTION) for name in names))


def _bounds(run: Campaign) -> _Bounds:
    found: dict[str, list[tuple[str, Html]]] = {}
    for claim in (run.claims or {"claims": []})["claims"]:
        for key, figure in claim["numbers"].items() if claim["test"] == "measured" else ():
            link = page.link(claim["id"], f"#{cards.anchor(claim)}")
            words = page.inline(link, f": {figure.get('bound')}, {figure.get('met')}")
            of = key.removesuffix(f", {figure.get('bound')}")
            found.setdefault(of, []).append((figure.get("said", ""), words))
    return {key: (used[0][0], Html("; ").join(words for _, words in used)) for key, used in found.items()}


def _part(of: Mapping[str, Measurement], bounds: _Bounds) -> Html:
    """Measurements that have the same figures, a column each: what claims use, then the others, folded."""
    names = [figure.name for figure in next(iter(of.values())).figures]
    used = [name for name in names if any(f"{measurement}.{name}" in bounds for measurement in of)]
    rest = [name for name in names if name not in used]
    groups: dict[str, list[str]] = {}
    for name in rest:
        groups.setdefault(name.partition("_")[0] if len(rest) >= _LONG else "", []).append(name)
    more = "further figure" if used else "figure"
    folded = [
        page.details(
            f"{plural(len(group), more)}{f': {subject}' if subject else ''}", _table(of, group, bounds, subject)
        )
        for subject, group in groups.items()
    ]
    first, several = next(iter(of.values())), [page.paragraph(f"{m.title}: {m.method}") for m in of.values()]
    head = first.title if len(of) == 1 else f"{len(of)} measurements of the same figures"
    how = page.paragraph(first.method, "note") if len(of) == 1 else page.details("How", page.join(*several))
    return page.join(page.heading(head, 3), how, _table(of, used, bounds) if used else None, *folded)


def _table(of: Mapping[str, Measurement], names: Sequence[str], bounds: _Bounds, subject: str = "") -> Html:
    """`names`: of the figures; `subject`: what they are about, where the table has a part of them."""
    rows = [
        {"figure": figure.title}
        | {own: _cell(m.figures[place], bounds.get(f"{own}.{figure.name}")) for own, m in of.items()}
        for place, figure in enumerate(next(iter(of.values())).figures)
        if figure.name in names
    ]
    heads = {"figure": "Figure"} | {own: m.title if len(of) > 1 else "Value [95 %]" for own, m in of.items()}
    called = "/".join(filter(None, [f"measured-{'-'.join(of)}", subject]))
    return page.table(rows, heads, tuple(of), stacked=True, name=called)


def _cell(figure: Figure, used: tuple[str, Html] | None) -> Html:
    """``0.41 [0.35, 0.48]``, below it what it is over and which claim bounds it."""
    said, bound = used or ("", None)
    over = page.inline(f"{figure.n} {figure.of}", *([Html("<br>"), bound] if bound else []))
    value = said or figure.said() + ", no interval" * (figure.low is None)
    return page.inline(value, Html(" <small>{}</small>").format(over))
