"""Success by fault, severity and guard: the part of a report that shows the experiment's grids.

A cell's fault, severity and guard come from the plan (`experiment.arms.Cell`), its counts from the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from flashtrail.claims.campaign import Campaign
from flashtrail.report import cells, figures, page
from flashtrail.report.count_links import behind
from flashtrail.report.page import Html
from flashtrail.statistics.wording import counted

UPPER_BOUND = "oracle"  # the guard that no robot has
_COLOURS = (figures.ORANGE, figures.GREEN, figures.BLUE, figures.PURPLE, figures.GREY)
_LOOKS = list(zip(_COLOURS, "so^vD", strict=True))
_Lines = dict[str, list[tuple[float, Mapping[str, Any]]]]


def section(run: Campaign) -> Html:
    """Heading, figure and table of every grid of which an arm was run; empty without a grid."""
    names = list(dict.fromkeys(cell["grid"] for arm, cell in run.grids.items() if arm in run.summaries))
    if not names:
        return Html("")
    note = (
        "Each cell is an arm of its own, on the same episodes, with the same fault at each query. Differences are "
        "against no guard at the same severity, paired. An oracle shows the policy the undamaged frame: an upper "
        "bound for any guard, which no robot has."
    )
    parts = [page.heading("Success by fault, severity and guard"), page.paragraph(note, "note")]
    return page.join(*parts, *(page.side_by_side(_drawing(run, name), table(run, name)) for name in names))


def guard_label(guard: str, kind: str | None = None) -> str:
    """Return how a guard is called in a grid; an oracle is always marked as what it is."""
    return f"{guard} (upper bound)" if UPPER_BOUND in (guard, kind) else "no guard" if guard == "none" else guard


def fault_label(cell: Mapping[str, Any]) -> str:
    """``zero, wrist view``."""
    return cell["fault"] if cell["view"] is None else f"{cell['fault']}, {cell['view']} view"


def _cells(run: Campaign, name: str) -> dict[str, dict[str, Any]]:
    return {arm: cell for arm, cell in run.grids.items() if cell["grid"] == name and arm in run.summaries}


def _drawing(run: Campaign, name: str) -> Html:
    by_arm = _cells(run, name)
    first = next(iter(by_arm.values()))
    caption = page.inline(page.code(name), f": {fault_label(first)}. Success by severity and guard; bars: Wilson 95 %.")
    severities = list(dict.fromkeys(cell["severity"] for cell in by_arm.values()))
    lines: _Lines = {}
    for arm, cell in by_arm.items():
        label = guard_label(cell["guard"], cell.get("guard_kind"))
        lines.setdefault(label, []).append((severities.index(cell["severity"]), run.summaries[arm]["success"]))
    drawing = figure(lines, severities, first["parameter"])
    return page.figure(drawing, f"Success by severity and guard, {name}", caption)


def figure(lines: _Lines, severities: Sequence[float], parameter: str) -> Figure:
    """One line per guard over the severities, as k/n with Wilson's interval."""
    drawing, axes = figures.success_lines(lines, _LOOKS, apart=0.13)
    axes.set_xticks(range(len(severities)), [f"{value:g}" for value in severities])
    axes.set_xlim(-0.5, len(severities) - 0.5)
    axes.set_xlabel(f"severity: {parameter}")
    return drawing


def table(run: Campaign, name: str) -> Html:
    """One row per cell: k/n, rate, Wilson's interval, and the paired difference to no guard at that severity."""
    by_arm = _cells(run, name)
    rows = []
    for arm, cell in by_arm.items():
        rate = cells.rate_of(run.summaries[arm]["success"])
        bare = next((a for a, c in by_arm.items() if c["severity"] == cell["severity"] and c["guard"] == "none"), arm)
        against = cells.paired(run, arm, bare) if bare != arm else None
        rows.append(
            {
                "severity": f"{cell['parameter']} {cell['severity']:g}",
                "guard": guard_label(cell["guard"], cell.get("guard_kind")),
                "count": behind(run, arm, counted(rate)),
                **cells.rate(rate),
                **(cells.compared(against) if against else {}),
            }
        )
    heads = {"severity": "Severity", "guard": "Guard", "count": "k/n", **cells.RATE}
    heads |= {"difference": "Against no guard [95 %]", "p": "Exact McNemar"}
    caption = f"{name}: {fault_label(next(iter(by_arm.values())))}"
    return page.table(rows, heads, tuple(heads)[2:], caption, stacked=True)
