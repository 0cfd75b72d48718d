"""Writes the report notebooks: ``python notebooks/build.py``. Edit the cells here, not in the .ipynb files.

The notebooks are plain papermill sources without outputs: a cell tagged `parameters`, then short cells that call
flashtrail.report. ``--check`` exits 1 if a file differs from what this script writes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).resolve().parent
PARAMETERS = "inputs = {}  # kind of file -> path or list of paths (flashtrail.claims.campaign.KINDS), or a JSON file"
IMPORTS = (
    "from flashtrail.report import batching, chapters, claims_chapter, comparison, grid, headline, overview\n"
    "from flashtrail.report import running_chapter, sheets, signal_chapter\n"
    "from flashtrail.claims.campaign import Campaign\n\n"
    "run = Campaign(inputs)"
)
# A report that is rendered by itself imports what it shows only, so that others' code does not render it again.
OWN_IMPORTS = {
    "checkup": (
        "from flashtrail.report import checkup_chapter, overview, verified_chapter\n"
        "from flashtrail.claims.campaign import Campaign\n\n"
        "run = Campaign(inputs)"
    ),
    "drills": (
        "from flashtrail.report import drills_chapter, drills_findings\n"
        "from flashtrail.claims.campaign import Campaign\n\n"
        "run = Campaign(inputs)"
    ),
}

# name: title, then sections (heading, text, calls)
Section = tuple[str, str, list[str]]
REPORTS: dict[str, tuple[str, list[Section]]] = {
    "baseline": (
        "Baseline: no fault",
        [
            ("Success", "", ["chapters.success(run)", "chapters.task_names(run)"]),
            (
                "Drafting against computing every round in full",
                "The same episodes under both engine settings, paired by task, initial state and repeat.",
                ["chapters.comparisons(run)"],
            ),
            ("Routes and accepted prefixes", "", ["chapters.routes(run)"]),
            ("Latency in the rollouts", "", ["chapters.latency_in_rollouts(run)", "chapters.mixture(run)"]),
            ("How episodes ended", "", ["chapters.failures(run)", "sheets.section(run)"]),
            ("What each arm ran with", "", ["overview.provenance_table(run)"]),
        ],
    ),
    "profiling": (
        "Profiling: what a round takes",
        [
            ("Latency by route", "", ["chapters.latency_profile(run)"]),
            ("Where the time goes", "", ["chapters.stages(run)"]),
            ("Accepted prefixes and their control", "", ["chapters.accepted_prefix(run)"]),
            (
                "In the rollouts, both scopes",
                "",
                ["chapters.latency_in_rollouts(run)", "chapters.mixture(run)"],
            ),
            ("Alone and batched", "", ["batching.section(run)"]),
            ("Published latencies", "", ["comparison.published_beside_ours(run)"]),
        ],
    ),
    "robustness": (
        "Robustness: a broken wrist camera",
        [
            ("Success", "", ["chapters.success(run)", "chapters.task_names(run)"]),
            ("Against the clean arm", "", ["chapters.comparisons(run)", "grid.section(run)"]),
            ("How episodes ended", "", ["chapters.failures(run)", "sheets.section(run)"]),
            ("Routes under a fault", "", ["chapters.routes(run)"]),
            ("Speculation as a signal", "", ["signal_chapter.section(run)"]),
            ("What each arm ran with", "", ["overview.provenance_table(run)"]),
        ],
    ),
    "guard": (
        "Guard and remedies",
        [
            ("Success", "", ["chapters.success(run)"]),
            ("Remedies against the same fault", "", ["overview.remedies(run)", "grid.section(run)"]),
            ("What the guard did", "", ["chapters.guard(run)"]),
            ("How episodes ended", "", ["chapters.failures(run)", "sheets.section(run)"]),
            ("What each arm ran with", "", ["overview.provenance_table(run)"]),
        ],
    ),
    "clock": (
        "The running clock: what latency does to success",
        [
            ("Success against latency", "", ["running_chapter.section(run)", "chapters.task_names(run)"]),
            ("How episodes ended", "", ["chapters.failures(run)", "sheets.section(run)"]),
            ("What each arm ran with", "", ["overview.provenance_table(run)"]),
        ],
    ),
    "claims": (
        "Claims and their verdicts",
        [
            (
                "Matrix",
                "A verdict is computed from the tables by the rule written beside each claim; prose cannot change one.",
                ["claims_chapter.matrix(run, details_here=True)"],
            ),
            ("What would settle the open claims", "", ["claims_chapter.unsettled(run, details_here=True)"]),
            ("One by one", "", ["claims_chapter.details(run)"]),
            (
                "Words",
                "How these verdicts correspond to the reproduction's status words.",
                ["claims_chapter.words_table()"],
            ),
            ("What is not claimed", "", ["claims_chapter.not_claimed(run)"]),
        ],
    ),
    "checkup": (
        "Checkup: one task against the published success",
        [
            ("", "", ["checkup_chapter.first(run)"]),
            ("The first closing of the gripper", "", ["checkup_chapter.first_closing(run)"]),
            ("What so many episodes can tell", "", ["checkup_chapter.power_of_this(run)"]),
            ("What is compared", "", ["checkup_chapter.compared(run)"]),
            (
                "Verified success",
                "",
                ["verified_chapter.section(run)"],
            ),
            ("Every episode", "", ["checkup_chapter.episodes(run)"]),
            ("What it ran with", "", ["overview.provenance_table(run)"]),
        ],
    ),
    "drills": (
        "Drills: silent failures, and what names them",
        [
            ("", "", ["drills_chapter.section(run)"]),
            ("Which predicate speaks of which failure", "", ["drills_chapter.confusion(run)"]),
            ("If the robot does this, check that", "", ["drills_chapter.sentences(run)"]),
            ("How many episodes it takes", "", ["drills_findings.power(run)"]),
            ("False alarms", "", ["drills_findings.false_alarms(run)", "drills_findings.slack(run)"]),
            ("What cannot be told apart", "", ["drills_findings.apart(run)"]),
            ("What the failures cost", "", ["drills_findings.cost(run)"]),
            ("What the predicates see", "", ["drills_findings.features(run)"]),
            ("Where the bounds come from", "", ["drills_findings.bounds_table(run)"]),
            ("", "", ["drills_chapter.films(run)"]),
        ],
    ),
    "final": (
        "What a real-time robot policy buys, at what success, under which faults",
        [
            ("", "", ["headline.section(run)"]),
            ("Claims", "", ["claims_chapter.matrix(run)", "claims_chapter.unsettled(run)"]),
            (
                "Success by arm and task",
                "",
                ["chapters.success(run)", "chapters.task_names(run)", "chapters.comparisons(run)"],
            ),
            ("Routes and accepted prefixes", "", ["chapters.routes(run)"]),
            (
                "Latency by route",
                "",
                ["chapters.latency_profile(run)", "chapters.latency_in_rollouts(run)", "chapters.mixture(run)"],
            ),
            ("Speculation as a signal", "", ["signal_chapter.section(run)"]),
            ("Guard behaviour", "", ["chapters.guard(run)", "grid.section(run)"]),
            ("The running clock", "", ["running_chapter.section(run)"]),
            ("How episodes ended", "", ["chapters.failures(run)", "sheets.section(run)"]),
            ("What is not claimed", "", ["claims_chapter.not_claimed(run)"]),
            ("Published figures", "", ["comparison.published_beside_ours(run)"]),
            (
                "Environments and provenance",
                "",
                ["overview.provenance_table(run)", "overview.environments(run)"],
            ),
        ],
    ),
}


def notebook(title: str, sections: list[Section], imports: str = IMPORTS) -> nbformat.NotebookNode:
    """Return one notebook; cell ids count up, so that the same cells give the same file."""
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(imports)]
    header = "drills_chapter" if imports == OWN_IMPORTS["drills"] else "overview"
    cells.append(new_code_cell(f"{header}.header(run, {title!r})".replace("'", '"')))
    for heading, text, calls in sections:
        words = "\n\n".join(part for part in (f"## {heading}" if heading else "", text) if part)
        if words:
            cells.append(new_markdown_cell(words))
        cells += [new_code_cell(call) for call in calls]
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index:02d}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def main() -> int:
    """Write all notebooks, or with --check compare them."""
    stale = []
    for name, (title, sections) in REPORTS.items():
        path = HERE / f"{name}.ipynb"
        text = nbformat.writes(notebook(title, sections, OWN_IMPORTS.get(name, IMPORTS)), version=4) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if '--check' in sys.argv else 'wrote'}: {', '.join(stale)}")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
