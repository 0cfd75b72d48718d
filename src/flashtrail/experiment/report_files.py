"""Where the files of an experiment as a whole lie, by the name of its report.

Tables, summaries and pages of episodes belong to an arm, an artifact and a profile to a policy; what is left has the
name of the report in its own, so that several experiments stand in one checkout. Those of `final` have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from flashtrail.base.errors import UserError

FINAL = "final"
CHAPTERS = ("baseline", "profiling", "robustness", "guard", "clock", "claims")
# Names of other pages and records. A hyphen separates report and chapter (`lift-claims`), so a name has none.
_TAKEN = (*CHAPTERS, "drills", "checkup", "index", "imported", "report")
_PATTERN = r"^[a-z][a-z0-9_]{0,29}$"


def _free(name: str) -> str:
    if name in _TAKEN:
        raise ValueError(f"{name!r} is the name of another page: choose another name")
    return name


ReportName = Annotated[str, Field(pattern=_PATTERN), AfterValidator(_free)]


@dataclass(frozen=True)
class ReportFiles:
    """The files of the experiment whose report has this name, relative to its directory."""

    report: str = FINAL

    @property
    def page(self) -> str:
        """The report."""
        return f"reports/{self.report}.html"

    def chapter(self, name: str, suffix: str = ".html") -> str:
        """Return a chapter of it: beside it, since its links are seen from there."""
        return f"reports/{self._before(name)}{suffix}"

    @property
    def page_index(self) -> str:
        """Every episode by arm."""
        return f"reports/episodes/{'index' if self.report == FINAL else self.report}.html"

    @property
    def claims(self) -> str:
        """The verdicts."""
        return f"results/claims/{'claims' if self.report == FINAL else self.report}.json"

    @property
    def looks(self) -> str:
        """When each comparison was looked at."""
        return f"results/claims/{self._before('looks')}.parquet"

    @property
    def simulators(self) -> str:
        """The check of the simulators' environment: of the suites of this experiment."""
        return f"results/environments/{'' if self.report == FINAL else f'{self.report}/'}libero.json"

    @property
    def settle(self) -> str:
        """What `flashtrail settle` has spent on its claims."""
        return f"results/settle{'' if self.report == FINAL else f'-{self.report}'}"

    def job(self, rule: str) -> str:
        """Return the name of the log and record of a rule that has one job an experiment."""
        return rule if self.report == FINAL else f"{rule}/{self.report}"

    def chapter_job(self, name: str) -> str:
        """Return the name of the log and record of a chapter's job."""
        return f"render_chapter/{self._before(name)}"

    def _before(self, name: str) -> str:
        return name if self.report == FINAL else f"{self.report}-{name}"


def named(report: Any) -> ReportFiles:
    """Return the files of a report whose name comes from outside, UserError where that is not one."""
    try:
        return ReportFiles(TypeAdapter(ReportName).validate_python(report, strict=True))
    except ValidationError:
        raise UserError(f"{str(report)[:60]!r} is not the name of a report") from None


def judged(results: Path) -> Iterator[ReportFiles]:
    """Yield the files of each report whose claims were judged, those of `final` first."""
    yield from _of_names({path.stem for path in (results / "claims").glob("*.json")}, "claims")


def finished(logs: Path) -> Iterator[ReportFiles]:
    """Yield the files of each report whose verdicts have a job's record, those of `final` first."""
    jobs = [logs / "evaluate_claims.json", *(logs / "evaluate_claims").glob("*.json")]
    yield from _of_names({path.stem for path in jobs if path.is_file()}, "evaluate_claims")


def _of_names(found: Set[str], final: str) -> Iterator[ReportFiles]:
    yield from ([ReportFiles()] if final in found else [])
    for name in sorted(found - {final}):
        with suppress(UserError):  # another file of that folder
            yield named(name)
