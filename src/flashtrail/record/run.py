"""A finished run, or a bundle of one, as its own jobs described it: which files, which arms, which shards.

Every job leaves its inputs, outputs and parameters beside its log (`jobs`), and a bundle keeps the run's relative
paths, so one reader serves both. The config is not read: it may have changed since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.base.names import below, file_name
from flashtrail.experiment import report_files
from flashtrail.experiment.report_files import FINAL, ReportFiles

LOGS = "results/logs"
TABLES = ("episodes", "rounds", "steps")
SHARD_FILES = (*(f"{table}.parquet" for table in TABLES), "sheets.parquet", "ledger.json")
ABOUT = "record/bundle.json"  # what `flashtrail bundle` says of itself
# The parts of a run, each made by `make` of that name: the job that ended it, and what it left. Drills and checkup are
# bundled with the report that is called final.
PARTS = {
    "report": ("evaluate_claims", (ReportFiles().claims, ReportFiles().page)),
    "drills": (
        "diagnose_drills",
        ("results/drills/diagnosis.json", "results/drills/bounds.json", "reports/drills.html"),
    ),
    "checkup": ("judge_checkup", ("results/checkup/checkup.json", "reports/checkup.html")),
}


@dataclass(frozen=True)
class Shard:
    """One arm and task: `job` is roll_out_shard's record, `directory` that of its tables (relative)."""

    arm: str
    task_id: int
    job: Mapping[str, Any]
    directory: str


class Run:
    """The files below `root`: the working directory of a run, or an unpacked bundle."""

    def __init__(self, root: str | Path, own: bool = False, report: str | None = None) -> None:
        """`own`: a run of this user, of which parts may lie behind links (results/ on a larger disk).

        `report`: which one, where several stand side by side; else a bundle's own, or the one that is called final.
        """
        self.root, self._own, self._report = Path(root), own, report
        if not self.root.is_dir():
            raise UserError(f"{root} {'is not a directory' if self.root.exists() else 'does not exist'}")

    @classmethod
    def of_each_report(cls, root: str | Path) -> list[Run]:
        """Return the runs that stand side by side in a directory, by report; one where none was finished."""
        if (Path(root) / ABOUT).is_file():
            return [cls(root)]
        return [cls(root, report=one.report) for one in report_files.finished(Path(root, LOGS))] or [cls(root)]

    @cached_property
    def outputs(self) -> ReportFiles:
        """The files of the experiment as a whole, by the name of its report."""
        if self._report is None and (self.root / ABOUT).is_file():
            described = provenance.json_load(self.path(ABOUT))
            return report_files.named(described.get("report", FINAL) if isinstance(described, dict) else FINAL)
        return ReportFiles(self._report or FINAL)

    def path(self, relative: str) -> Path:
        """Return a file of the run; UserError for a path that leaves the run's directory."""
        return below(self.root, relative, links=self._own)

    def job(self, name: str) -> dict[str, Any]:
        """Return the record of a job, such as ``merge_shards/clean``; UserError where it never ran."""
        path = self.path(f"{LOGS}/{name}.json")
        if not path.is_file():
            part = next((part for part, (job, _) in PARTS.items() if job == name), "report")
            raise UserError(f"{path} is missing: this run is not finished; make {part}, then try again")
        return dict(provenance.json_load(path))

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """Return the job that gave the verdicts: its inputs are the evidence, its parameter `arms` their order."""
        return self.job(self.outputs.job("evaluate_claims"))

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """Return the arms of each part of PARTS that was finished, in the experiment's order.

        Drills and checkup belong to the run as long as their results are there.
        """
        names = {}
        if self._did("report"):
            names["report"] = [str(arm) for arm in self.evaluation["params"]["arms"]]
        for part, arms in (("drills", self._drill_arms), ("checkup", self._checkup_arms)):
            if self._did(part) and self.outputs.report == FINAL:
                names[part] = arms()
        return names

    @property
    def finished(self) -> bool:
        """Return whether any part was finished: without one there are no arms."""
        return any(self._did(part) for part in PARTS)

    def _did(self, part: str) -> bool:
        job, (result, *_) = PARTS[part]
        job = self.outputs.job(job) if part == "report" else job
        ended = (self.root / LOGS / f"{job}.json").is_file()
        return ended and (part == "report" or self.path(result).is_file())

    def _drill_arms(self) -> list[str]:
        reference = [PurePosixPath(file).parent.name for file in self.job("derive_bounds")["input"]["steps"]]
        return [*reference, *map(str, self.job("diagnose_drills")["params"]["arms"])]

    def _checkup_arms(self) -> list[str]:
        return [PurePosixPath(self.job("judge_checkup")["input"]["episodes"]).parent.name]

    @cached_property
    def arms(self) -> list[str]:
        """Return the arms of all parts; UserError where no part was finished."""
        names = [arm for arms in self.parts.values() for arm in arms]
        return names or [str(arm) for arm in self.evaluation["params"]["arms"]]

    @property
    def summarised(self) -> list[str]:
        """Return the arms whose summaries are shown: drills are counted episode by episode."""
        return [arm for part, arms in self.parts.items() for arm in arms if part != "drills"]

    def evidence(self) -> dict[str, Any]:
        """Return the inputs of `verdicts.evaluate`, as paths below the root."""
        kinds = {kind: files for kind, files in self.evaluation["input"].items() if kind != "claims"}
        placed = {
            kind: [str(self.path(f)) for f in files] if isinstance(files, list) else str(self.path(files))
            for kind, files in kinds.items()
        }
        return {**placed, "arms": self.parts["report"], "looks": str(self.path(self.outputs.looks))}

    def claims_file(self) -> Path:
        """Return the claims as data."""
        return self.path(self.evaluation["input"]["claims"])

    def tables(self, arm: str) -> dict[str, Path]:
        """Return an arm's merged tables by name."""
        output = self.job(f"merge_shards/{file_name(arm)}")["output"]
        return {name: self.path(output[name]) for name in TABLES}

    def summary(self, arm: str) -> Path:
        """Return an arm's summary."""
        return self.path(f"results/summaries/{file_name(arm)}.json")

    def expected(self, arm: str) -> dict[str, Any]:
        """Return which episodes the arm must have, as the merge's record says."""
        return dict(self.job(f"merge_shards/{file_name(arm)}")["params"]["expected"])

    def shards(self, arm: str) -> list[Shard]:
        """Return the arm's shards in the order of their tasks."""
        shards = []
        for task in self.expected(arm)["tasks"]:
            job = self.job(f"roll_out_shard/{file_name(arm)}/task_{task}")
            directory = PurePosixPath(job["output"]["ledger"]).parent
            shards.append(Shard(arm, int(task), job, str(directory)))
        return shards

    def files(self) -> Iterator[str]:
        """Yield all files below the root, relative, sorted."""
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                yield path.relative_to(self.root).as_posix()
