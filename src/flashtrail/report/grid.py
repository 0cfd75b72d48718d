"""Success by fault, severity and guard: the part of a report that shows the experiment's grids.

A cell's fault, severity and guard come from the plan (`experiment.arms.Cell`), its counts from the tables.
"""

from __future__ import annotations

from flashtrail.claims.campaign import Campaign
from flashtrail.report import cells, figures, page
from flashtrail.report.count_links import behind
from flashtrail.report.page import Html
from flashtrail.report.sweep_figures import cells_of, fault_label, grids, guard_label
from flashtrail.statistics.wording import counted


def section(run: Campaign) -> Html:
    """Heading, figure and table of every grid of which an arm was run; empty without a grid."""
    names = grids(run)
    if not names:
        return Html("")
    note = (
        "Each cell is an arm of its own, on the same episodes, with the same fault at each query. Differences are "
        "against no guard at the same severity, paired. An oracle shows the policy the undamaged frame: an upper "
        "bound for any guard, which no robot has."
    )
    parts = [page.heading("Success by fault, severity and guard"), page.paragraph(note, "note")]
    return page.join(*parts, *(page.side_by_side(_drawing(run, name), table(run, name)) for name in names))


def _drawing(run: Campaign, name: str) -> Html:
    fault = fault_label(next(iter(cells_of(run, name).values())))
    caption = page.inline(page.code(name), f": {fault}. Success by severity and guard; bars: Wilson 95 %.")
    return figures.shown(run, f"grid/{name}", caption)


def table(run: Campaign, name: str) -> Html:
    """One row per cell: k/n, rate, Wilson's interval, and the paired difference to no guard at that severity."""
    by_arm = cells_of(run, name)
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
    return page.table(rows, heads, tuple(heads)[2:], caption, stacked=True, name=f"grid/{name}")
