"""Policies against each other, suite by suite: what imported runs, or published counts alone, say of every two.

Unpaired within tasks from counts; paired where both arms have the same starts on record; with tasks as clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from flashtrail.claims.campaign import Campaign
from flashtrail.report import cells, page
from flashtrail.report.count_links import behind, pooled
from flashtrail.report.page import Html
from flashtrail.statistics import intervals, stratified
from flashtrail.statistics.intervals import Paired
from flashtrail.statistics.stratified import Stratum
from flashtrail.statistics.wording import DASH, difference_with_range, p_value, points_range

Counts = Mapping[str, Mapping[str, Mapping[int, tuple[int, int]]]]  # by policy, suite and task: successes, episodes
Starts = tuple[list[bool], list[bool]]  # success of both at the starts that both have


class Compared(NamedTuple):
    """Two policies on one suite, or on all that both have."""

    a: str
    b: str
    suite: str
    strata: list[Stratum]
    paired: Paired | None


def arms(run: Campaign) -> dict[tuple[str, str], str]:
    """Return the imported arms by policy and suite; where a policy has two on one suite each arm is its own policy."""
    own = {arm: s for arm, s in run.summaries.items() if run.whose(arm) != "ours" and s["success"]["n"]}
    named = {(s["policy"], s["suite"]): arm for arm, s in own.items()}
    return named if len(named) == len(own) else {(arm, s["suite"]): arm for arm, s in own.items()}


def says(run: Campaign) -> bool:
    """Whether two policies were imported for one suite, or two arms of which nobody said the policy."""
    by_suite: dict[str, list[str]] = {}
    for (_, suite), arm in arms(run).items():
        by_suite.setdefault(suite, []).append(run.summaries[arm]["policy"])
    return any(len(own) > 1 and (len({*own}) > 1 or "unknown" in own) for own in by_suite.values())


def section(run: Campaign) -> Html:
    """Every two imported policies, suite by suite and over the suites that both have."""
    found = arms(run)
    counts: dict[str, dict[str, dict[int, tuple[int, int]]]] = {}
    for (policy, suite), arm in found.items():
        tasks = {task["task_id"]: (task["k"], task["n"]) for task in run.summaries[arm]["tasks"] if task["n"]}
        counts.setdefault(policy, {})[suite] = tasks

    def starts(a: str, b: str, suite: str) -> Starts:
        both = run.pairs(found[a, suite], found[b, suite])
        return both["success_a"].tolist(), both["success_b"].tolist()

    def linked(policy: str, suite: str, text: str) -> Any:
        return behind(run, arm, text) if (arm := found.get((policy, suite))) else pooled(run, text)

    return table(compared(counts, starts), linked)


def compared(counts: Counts, starts: Callable[[str, str, str], Starts] | None = None) -> list[Compared]:
    """Compare every two policies on the tasks that both have."""
    rows = []
    for a, b in combinations(counts, 2):
        common = [suite for suite in counts[a] if suite in counts[b]]
        strata = {suite: _strata(counts[a][suite], counts[b][suite]) for suite in common}
        pairs = {suite: starts(a, b, suite) if starts else ([], []) for suite in common}
        for suite in common:
            rows.append(Compared(a, b, suite, strata[suite], _paired([pairs[suite]])))
        if len(common) > 1:
            every = [stratum for own in strata.values() for stratum in own]
            whole = _paired([*pairs.values()]) if all(first for first, _ in pairs.values()) else None
            rows.append(Compared(a, b, f"all {len(common)}", every, whole))
    return [row for row in rows if row.strata]


def _strata(a: Mapping[int, tuple[int, int]], b: Mapping[int, tuple[int, int]]) -> list[Stratum]:
    return [Stratum(*a[task], *b[task]) for task in a if task in b]


def _paired(starts: Sequence[Starts]) -> Paired | None:
    first, second = ([success for pair in starts for success in pair[side]] for side in (0, 1))
    return intervals.paired(first, second) if first else None


def table(rows: Sequence[Compared], linked: Callable[[str, str, str], Any]) -> Html:
    """Return the comparisons as a table; `linked` makes a count of policy and suite a link, or marks it."""
    results = [stratified.compare(row.strata) for row in rows]
    tested = [row.paired.p if row.paired else result.p for row, result in zip(rows, results, strict=True)]
    entries = []
    for row, result, adjusted in zip(rows, results, intervals.holm(tested), strict=True):
        clusters = stratified.over_tasks(row.strata)
        entries.append(
            {
                "suite": row.suite,
                "a": page.inline(row.a, " ", linked(row.a, row.suite, f"{result.a.k}/{result.a.n}")),
                "b": page.inline(row.b, " ", linked(row.b, row.suite, f"{result.b.k}/{result.b.n}")),
                "unpaired": difference_with_range(result.difference, result.interval, 1),
                "p": p_value(result.p),
                "tasks": points_range(clusters, 1) if clusters else DASH,
                **(_pair_cells(row.paired) if row.paired else {}),
                "holm": p_value(adjusted),
            }
        )
    heads = {"suite": "Suite", "a": "Policy, k/n", "b": "Against, k/n", "unpaired": "Difference [95 %]"}
    heads |= {"p": "Exact Mantel-Haenszel", "tasks": "Over tasks [95 %]"}
    if any(row.paired for row in rows):
        heads |= {"same": "Same starts", "paired": "Paired [95 %]", "discordant": "Only first / only second"}
        heads |= {"mcnemar": "Exact McNemar"}
    heads |= {"holm": "Holm"}
    note = (
        "Difference: in points, within tasks (Mantel-Haenszel, MOVER). Over tasks: each task is one observation (t), "
        "so the interval is about tasks of this kind, not about these. Paired: the starts that both have (Tango). "
        "Holm: the paired p where there is one, else the other, over the rows of this table. Episodes that an error "
        "ended are in no count."
    )
    caption = "Every two policies, on the tasks that both have"
    shown = page.table(entries, heads, tuple(heads)[3:], caption, stacked=True, name="policies")
    return page.join(page.paragraph(note, "note"), shown)


def _pair_cells(pairs: Paired) -> dict[str, Any]:
    both = cells.compared(pairs)
    difference = difference_with_range(pairs.difference, pairs.interval, 1)
    return {"same": pairs.n, "paired": difference, "discordant": both["discordant"], "mcnemar": both["p"]}
