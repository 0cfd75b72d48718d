"""What drills and checkup concluded, computed again from the tables: an audit's checks of these parts of a run.

Each runs only where the run has that part.
"""

from __future__ import annotations

from collections.abc import Iterator

from flashtrail.base import provenance
from flashtrail.claims import checkup as checkups
from flashtrail.drills import bounds, diagnosis, logs
from flashtrail.record.checks import Check, difference, plain
from flashtrail.record.run import Run

_AGAINST = "(recorded against recomputed)"


def drills(run: Run) -> Check:
    """Bounds are those of the reference's tables, and the diagnosis is that of the drills' tables by these bounds."""
    derived, diagnosed = run.job("derive_bounds"), run.job("diagnose_drills")
    found = logs.joined(_tables(run, derived["input"]["steps"]))
    reference = bounds.derive([logged.episode for logged in found.episodes], logs.origin(found))
    recorded = run.path(derived["output"]["bounds"])
    odd = difference(provenance.json_load(recorded), plain(bounds.spelled_out(reference)))
    if odd:  # what other bounds would say of the drills is beside the point
        return Check("drills", "bounds recomputed", [f"bounds: {odd} {_AGAINST}"])
    again = diagnosis.of_runs(bounds.load(recorded), list(_tables(run, diagnosed["input"]["steps"])))
    odd = difference(provenance.json_load(run.path(diagnosed["output"]["diagnosis"])), plain(again))
    counted = f"bounds and the diagnosis of {len(again['verdicts'])} drills recomputed"
    return Check("drills", counted, [f"diagnosis: {odd} {_AGAINST}"] if odd else [])


def _tables(run: Run, steps: list[str]) -> Iterator[logs.Run]:
    return (logs.of_tables(run.path(file).parent) for file in steps)


def checkup(run: Run) -> Check:
    """The verdict is that of the checkup's table: counts, intervals, what would settle it."""
    job = run.job("judge_checkup")
    files, params = job["input"], job["params"]
    published = [files["published"]] if isinstance(files["published"], str) else files["published"]
    again = checkups.judge(
        run.path(files["episodes"]), [run.path(file) for file in published], params["key"], params["scene_seed"]
    )
    odd = difference(provenance.json_load(run.path(job["output"]["checkup"])), plain(again))
    return Check("checkup", f"verdict on {again['success']['n']} episodes", [f"{odd} {_AGAINST}"] if odd else [])


QUESTIONS = {"drills": drills, "checkup": checkup}
