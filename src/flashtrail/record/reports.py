"""The reports of a finished run, of a bundle of one or of imported runs: each with the files that it was made of.

Each report's job left a record of its inputs (`run`); what was imported has tables and, after report-run, verdicts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.claims.campaign import Campaign
from flashtrail.experiment import report_files
from flashtrail.experiment.report_files import ReportFiles
from flashtrail.imports import writing
from flashtrail.record import manifest
from flashtrail.record.run import LOGS, Run
from flashtrail.report import command, early

_BESIDE = {"drills": "render_drills", "checkup": "render_checkup"}
IMPORTED = "imported"


def is_chapter(name: str) -> bool:
    """Return whether a report is a chapter, of some arms; the others are of a whole run."""
    return name.rpartition("-")[2] in report_files.CHAPTERS


def is_main(name: str) -> bool:
    """Return whether a report is that of an experiment, or of imported runs."""
    return not is_chapter(name) and name not in _BESIDE


@contextmanager
def opened(roots: Sequence[Path]) -> Iterator[dict[str, Campaign]]:
    """Yield the reports by name, the one called final first; several `roots` are imported runs, shown side by side.

    UserError for a directory that is neither, or in which no report was finished.
    """
    runs = [Run(root, own=not (root / manifest.NAME).exists()) for root in roots]
    if all(any(run.root.glob(f"*/*/{writing.RECORD}")) for run in runs):
        with tempfile.TemporaryDirectory() as place:  # for the summaries, which are read from files
            inputs = command.prepare([run.root for run in runs], Path(place))
            judged = runs[0].root / "claims.json"
            yield {IMPORTED: Campaign(inputs | ({"claims": str(judged)} if judged.is_file() else {}))}
        return
    if len(runs) > 1:
        raise UserError("several directories: only imported runs (flashtrail import-run) are shown side by side")
    (run,) = runs
    chapters = {
        path.stem: f"render_chapter/{path.stem}" for path in sorted(run.root.glob(f"{LOGS}/render_chapter/*.json"))
    }
    own = [ReportFiles(), *report_files.finished(run.root / LOGS)]
    jobs = {one.report: one.job("render_final") for one in own} | _BESIDE | chapters
    found = {name: _campaign(run, job) for name, job in jobs.items() if _rendered(run, job)}
    if not found:
        raise UserError(
            f"{run.root}: no finished report; give a run of `make report`, a bundle or what import-run wrote"
        )
    yield found


def _rendered(run: Run, job: str) -> bool:
    """Return whether a report's job ended: its record is there from its beginning."""
    if not (run.root / LOGS / f"{job}.json").is_file():
        return False
    page = run.path(run.job(job)["output"]["html"])
    return page.is_file() and not early.is_early(page)


def _campaign(run: Run, name: str) -> Campaign:
    job = run.job(name)
    inputs: dict[str, Any] = {kind: _placed(run, files) for kind, files in job["input"].items() if kind != "notebook"}
    kinds = ("arms", "grids", "success")  # older runs do not say the last one
    return Campaign(inputs | {kind: job["params"][kind] for kind in kinds if kind in job["params"]})


def _placed(run: Run, files: Any) -> Any:
    return str(run.path(files)) if isinstance(files, str) else [str(run.path(file)) for file in files]
