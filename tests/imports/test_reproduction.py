"""The reproduction's own files, unchanged, by the documented commands: the page shows its figures to the digit.

The files are not in this repository (../shared/cases/reproduction); without them these tests are skipped, and the same
quirks are tested on rows of our own (test_csv_run.py, and the last test here).
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from imports import stages
from report.rendered import texts, unlinked

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.claims import published, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import printed_figures
from flashtrail.report.command import prepare

PROJECT = Path(__file__).resolve().parents[2]
_PLACES = [place / "shared" / "cases" / "reproduction" for place in PROJECT.parents]
FILES = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
needs_files = pytest.mark.skipif(not FILES.is_dir(), reason="../shared/cases/reproduction is not there")
SUCCESS = published.Rows(arm="clean", of="success")


def documented(files: Path, out: Path) -> list[list[str]]:
    """Return the page's own commands for stages 4 to 7, with their places filled in."""
    lines = [line.strip() for line in (PROJECT / "docs" / "evidence.md").read_text().splitlines()]
    common = next(line for line in lines if line.startswith("WHO='")).removeprefix("WHO=").strip("'")
    chosen = [line for line in lines if line.startswith("flashtrail import-run $R/")]
    for written, meant in {"$WHO": common, "$R": str(files), "--out theirs": f"--out {out}"}.items():
        chosen = [line.replace(written, meant) for line in chosen]
    return [shlex.split(line)[1:] for line in chosen]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages in one place."""
    out = tmp_path_factory.mktemp("reproduction") / "theirs"
    commands = documented(FILES, out)
    assert len(commands) == 4
    for command in commands:
        assert cli.main(command) == 0
    return out


@needs_files
def test_every_printed_figure_follows_from_the_rows(theirs: Path) -> None:
    run = Campaign(prepare([theirs], theirs))
    found = {
        (figure.rows.arm or figure.rows.profile, figure.rows.of): (printed, agrees)
        for figure, printed, agrees in printed_figures.held(run, printed_figures.load())
    }
    assert len(found) == 33 and all(agrees for _, agrees in found.values())
    assert found["clean", "accepted_prefix.mean_all"][0] == "10.074" and found["clean", "success"][0] == "27/30"
    assert [found[p, "policy_ms.p50"][0] for p in ("all", "draft", "full")] == ["8.083", "8.067", "33.156"]
    assert (found["all", "policy_ms.p95"][0], found["all", "roundtrip_ms.p50"][0]) == ("33.501", "11.957")
    assert len(run.profile) == 80  # three first inferences are warm-up


@needs_files
def test_its_claim_about_the_guard_is_inconclusive_and_its_rows_add_up(theirs: Path) -> None:
    judged = verdicts.evaluate(PROJECT / "claims.yaml", prepare([theirs], theirs))["claims"]
    arms = ["guard_wrist_zero_every4", "wrist_zero_every4"]
    guard = [claim for claim in judged if claim["arms"] == arms]  # by what is tested: numbers may change
    assert [claim["verdict"] for claim in guard] == ["inconclusive"]
    assert (guard[0]["numbers"]["k_arm"], guard[0]["numbers"]["k_control"], guard[0]["numbers"]["n"]) == (6, 4, 15)
    assert [claim["verdict"] for claim in judged if claim["test"] == "bookkeeping"] == ["supported"]


@needs_files
@pytest.mark.slow
def test_the_page_shows_them_and_calls_the_rows_imported(theirs: Path) -> None:
    assert cli.main(["report-run", str(theirs)]) == 0
    page = theirs / "report.html"
    said = [" ".join(piece.split()) for piece in texts(page)]
    shown = ["27/30", "88", "276", "10.074", "8.083", "33.501", "8.067", "33.156", "11.957", "4/15", "0/15", "6/15"]
    shown += ["0/9", "96", "15", "308", "0.735"]
    assert [figure for figure in shown if figure not in said] == []
    assert "imported: reproduction" in said and not any(piece == "ours" for piece in said)
    assert any("33 of 33 printed figures of reproduction follow" in piece for piece in said)
    assert any("left out as warm-up: 3 of 83 rounds of the profile" in piece for piece in said)
    assert unlinked(page) == []


def test_the_documented_commands_take_files_of_our_own_and_a_figure_that_does_not_follow_is_named(
    tmp_path: Path,
) -> None:
    drawn = stages.write(tmp_path / "csv")
    for command in documented(tmp_path / "csv", tmp_path / "out"):
        assert cli.main(command) == 0
    run = Campaign(prepare([tmp_path / "out"], tmp_path / "out"))
    assert run.arms == sorted(["clean", *stages.CONDITIONS["stage5"], *stages.CONDITIONS["stage7"]])
    assert len(run.profile) == len(drawn["stage6_infer"]) - 2 and run.whose(None) == "imported: reproduction"
    won, n = (sum(row["success"] for row in drawn["stage4_episode"]), len(drawn["stage4_episode"]))
    figures = [
        printed_figures.Figure("reproduction", "success", f"{won}/{n}", SUCCESS),
        printed_figures.Figure("reproduction", "success", "27/30", SUCCESS),
        printed_figures.Figure("reproduction", "hits", "96", published.Rows(arm="clean", of="guard.hits")),
        printed_figures.Figure("paper", "success", "1/2", SUCCESS),
    ]
    found = [(figure.printed, rows, agrees) for figure, rows, agrees in printed_figures.held(run, figures)]
    assert found == [(f"{won}/{n}", f"{won}/{n}", True), ("27/30", f"{won}/{n}", False), ("96", None, False)]
    page = printed_figures.section(run)
    assert page is not None and "Does not follow from the imported rows: " in page and "does not follow" in page


def test_the_record_beside_each_arm_says_what_it_came_from(tmp_path: Path) -> None:
    drawn = stages.write(tmp_path / "csv")
    for command in documented(tmp_path / "csv", tmp_path / "out"):
        assert cli.main(command) == 0
    record = provenance.json_load(tmp_path / "out/tables/clean/import.json")
    assert record["arms"] == ["clean"] and record["source"] == "reproduction" and record["problems"] == []
    assert record["counts"]["rounds"]["kept"] == len(drawn["stage4_infer"])
