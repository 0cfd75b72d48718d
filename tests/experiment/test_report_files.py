"""Names of the files of an experiment as a whole: those of `final` are the plain ones, and no two reports share one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.experiment import config, report_files
from flashtrail.experiment.report_files import CHAPTERS, ReportFiles

ROOT = Path(__file__).parents[2]
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,29}", fullmatch=True)


def all_of(files: ReportFiles) -> set[str]:
    chapters = {files.chapter(name) for name in CHAPTERS}
    jobs = {files.job("render_final"), *(files.chapter_job(name) for name in CHAPTERS)}
    own = {files.page, files.page_index, files.claims, files.looks, files.simulators, files.settle}
    assert len(chapters | jobs | own) == 2 * len(CHAPTERS) + 1 + 6
    return chapters | jobs | own


def test_the_files_of_final_keep_their_names():
    assert all_of(ReportFiles()) == {
        *("reports/final.html", "reports/episodes/index.html", "results/claims/claims.json"),
        *("results/claims/looks.parquet", "results/environments/libero.json", "results/settle", "render_final"),
        *(f"reports/{name}.html" for name in CHAPTERS),
        *(f"render_chapter/{name}" for name in CHAPTERS),
    }


@given(NAMES, NAMES)
def test_two_reports_share_no_file(one, other):
    try:
        first, second = report_files.named(one), report_files.named(other)
    except UserError:
        return
    assert (all_of(first) & all_of(second) == set()) == (one != other)


@pytest.mark.parametrize(
    "name", ["../x", "Lift", "lift-claims", "", "a" * 31, "drills", "claims", "index", "lift\n", 7]
)
def test_what_is_no_name_of_a_report_is_refused(name):
    merged = config.merge(documents.mapping(ROOT / "config.yaml"), {"report": name})
    with pytest.raises(UserError, match=r"^config: report: "):
        config.parse(merged)
    with pytest.raises(UserError, match="is not the name of a report"):
        report_files.named(name)


def test_the_reports_of_a_directory_are_found_with_final_first(tmp_path):
    for name in ("lift.json", "claims.json", "a b.json", "fluid.json"):
        (tmp_path / "claims").mkdir(exist_ok=True)
        (tmp_path / "claims" / name).write_text("{}")
    assert [one.report for one in report_files.judged(tmp_path)] == ["final", "fluid", "lift"]
    (tmp_path / "evaluate_claims").mkdir()
    (tmp_path / "evaluate_claims/lift.json").write_text("{}")
    assert [one.report for one in report_files.finished(tmp_path)] == ["lift"]
    (tmp_path / "evaluate_claims.json").write_text("{}")
    assert [one.report for one in report_files.finished(tmp_path)] == ["final", "lift"]
