"""``flashtrail report-run --published NAME``: policies compared by the counts that were published of them, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import published
from flashtrail.imports import writing
from flashtrail.report import cells, layout, page, policies_chapter
from flashtrail.report.count_links import apart
from flashtrail.report.page import Html
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import counted, listed, plural

_FOOTER = "Made by FLASHTrail from published counts alone; no episode of these policies was run or read for this page."
_COUNTED = "published"


def write(name: str, out: Path) -> None:
    """Write ``report.html`` below `out`; UserError for a file without counts by task."""
    file = published.load(published.named(name))
    rows = [row for row in file.success if row.task is not None and row.count is not None]
    if not rows:
        raise UserError(f"--published {name}: it has no counts by task")
    writing.check_out(out)
    writing.make_directory(out)
    body = _body(file, rows)
    with provenance.write_atomic(out / "report.html") as target:
        target.write_text(layout.document("FLASHTrail: policies compared", body, _FOOTER, folds=True), encoding="utf-8")
    print(f"{out / 'report.html'}: {plural(len(file.sources), 'source')}, {plural(len(rows), 'count')}")


def _body(file: published.Published, rows: list[published.Success]) -> Html:
    counts: dict[str, dict[str, dict[int, tuple[int, int]]]] = {}
    errors: dict[tuple[str, str], int] = {}
    sources_of: dict[str, set[str]] = {}
    for row in rows:
        sources_of.setdefault(row.method, set()).add(row.source)
    for row in rows:
        policy = row.method if sources_of[row.method] == {row.source} else f"{row.source}/{row.method}"
        counts.setdefault(policy, {}).setdefault(row.suite, {})[row.task or 0] = (row.count or 0, row.n or 0)
        errors[policy, row.suite] = errors.get((policy, row.suite), 0) + row.errors
    line = f"{listed([*counts])}: counts that others published, compared here."
    sources = [{"name": name, **source.model_dump()} for name, source in file.sources.items()]
    heads = {"name": "Name", "title": "Policy", "where": "Counted from", "hardware": "Hardware", "setting": "Setting"}
    note = (
        "Episodes are not kept here, so nothing is paired. Who has the files imports them (docs/evidence.md), and the "
        "same starts are compared."
    )
    compared = policies_chapter.compared(counts)
    return page.join(
        page.header("Policies compared", line, Html("")),
        page.heading("Every two policies"),
        page.paragraph(note, "note"),
        policies_chapter.table(compared, lambda policy, suite, text: apart(text, _COUNTED)) if compared else None,
        page.heading("Success by suite"),
        _by_suite(counts, errors),
        page.heading("Success by task"),
        _by_task(counts),
        page.heading("Sources"),
        page.table(sources, heads, caption="Where the counts come from", stacked=True, name="published-sources"),
    )


def _by_suite(counts: policies_chapter.Counts, errors: dict[tuple[str, str], int]) -> Html:
    rows = []
    for policy, suites in counts.items():
        for suite, tasks in suites.items():
            k, n = (sum(count[side] for count in tasks.values()) for side in (0, 1))
            rate, lost = intervals.rate(k, n), errors[policy, suite]
            own = apart(counted(intervals.rate(k, n + lost)), _COUNTED) if lost else None
            row = {"policy": policy, "suite": suite, "count": apart(counted(rate), _COUNTED), **cells.rate(rate)}
            rows.append(row | {"errors": lost or None, "own": own})
    heads = {"policy": "Policy", "suite": "Suite", "count": "k/n", **cells.BOTH_INTERVALS}
    heads |= {"errors": "Ended in an error", "own": "Errors as failures"} if any(errors.values()) else {}
    return page.table(rows, heads, tuple(heads)[2:], "Success, all tasks", stacked=True, name="success")


def _by_task(counts: policies_chapter.Counts) -> Html:
    rows: list[dict[str, Any]] = []
    for policy, suites in counts.items():
        for suite, tasks in suites.items():
            shown = {f"{task}": apart(f"{k}/{n}", _COUNTED) for task, (k, n) in tasks.items()}
            rows.append({"policy": policy, "suite": suite, **shown})
    numbers = sorted({task for suites in counts.values() for tasks in suites.values() for task in tasks})
    heads = {"policy": "Policy", "suite": "Suite", **{f"{task}": f"Task {task}" for task in numbers}}
    return page.table(rows, heads, tuple(heads)[2:], "Success by task, k/n", stacked=True, name="success-by-task")
