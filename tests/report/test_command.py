"""The report on imported runs: the same page, with every row labelled as imported and nothing left out in silence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from imports import official, stages
from report.rendered import unlinked

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.imports.csv_run import CsvRun
from flashtrail.imports.official import read_run
from flashtrail.imports.writing import write
from flashtrail.report import chapters, comparison, headline, overview, running_chapter
from flashtrail.report.command import prepare, repeated_by, write_pages
from flashtrail.tables import schemas


@pytest.mark.slow
def test_the_same_report_is_made_of_imported_runs(tmp_path: Path) -> None:
    official.write_run(tmp_path / "run")
    write(read_run(tmp_path / "run", "pi0", "clean"), tmp_path / "out")
    guarded = CsvRun(official.write_csv(tmp_path / "csv", condition="guarded"), "pi0", 7).read()
    write(guarded, tmp_path / "other")
    assert cli.main(["report-run", str(tmp_path / "out"), str(tmp_path / "other")]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    k = sum(e["success"] for e in official.episodes())
    assert f"{k}/{len(official.episodes())}" in page
    assert "Imported, not run here" in page
    assert "run on None" not in page
    targets = {place.split("#")[0] for place in re.findall(r'href="(episodes/[^"]+)"', page)}
    assert len(targets) >= 3 and all((tmp_path / "out" / place).is_file() for place in targets)
    pages = sorted((tmp_path / "out" / "episodes").glob("*/libero_*.html"))
    assert len(pages) == 2 * len(official.episodes())
    for path in pages:  # each says that it was imported, and what its record does not say
        text = path.read_text()
        assert "Imported, not run here: " in text and "<dt>Not recorded</dt>" in text and "noise seeds" in text
        assert ("whether a condition was applied" in text) == (path.parent.name == "clean"), path
        assert ">Every round</h2>" in text and ">nan<" not in text and ">None<" not in text
    for path in [tmp_path / "out" / "report.html", *pages]:
        assert unlinked(path) == []
    for path in (tmp_path / "out").rglob("*"):  # what is given away with the page says nothing of this machine
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path
    failed = len(official.episodes()) - k
    lists = {arm: (tmp_path / "out" / "episodes" / arm / "index.html").read_text() for arm in ("clean", "guarded")}
    assert f"time ran out, fault not recorded: {failed}</dt>" in lists["clean"]
    assert f"time ran out under a fault: {failed}</dt>" in lists["guarded"]
    listed = lists["clean"]
    assert "../../report.html" in listed and listed.count("<h2") >= 1
    with pytest.raises(UserError, match="is in two runs"):
        prepare([tmp_path / "out", tmp_path / "out"], tmp_path / "again")


def with_errors(root: Path, arm: str = "clean") -> dict[str, str]:
    """Import episodes of which one ended in an error and one row is bad; return the arm's files."""
    rows = stages.write(root / "csv")["stage4_episode"]
    rows[0] |= {"completed": False, "success": False, "failure_reason": "server gone"}
    rows[1] |= {"success": "nan"}
    stages.write_rows(stages.path(root / "csv", "stage4_episode"), stages.HEADERS["stage4_episode"].split(","), rows)
    files = [stages.path(root / "csv", f"stage4_{kind}") for kind in ("infer", "episode")]
    write(CsvRun(files, "pi0", 7, arm).read(), root / "out")
    return {name: str(root / "out/tables" / arm / f"{name}.parquet") for name in schemas.SCHEMAS}


def test_an_error_is_in_no_count_wherever_it_is_counted(tmp_path: Path) -> None:
    """Headline, table, claims and the arm's list go by one rule, and K1 holds the summary to it."""
    with_errors(tmp_path)
    inputs = prepare([tmp_path / "out"], tmp_path / "out")
    run = Campaign(inputs | write_pages(inputs, tmp_path / "out"))
    rows = run.of_arm("episodes", "clean")
    won, n = int(rows["success"].sum()), int((rows["outcome"] != "error").sum())
    assert n == len(rows) - 1 and (rows["outcome"] == "error").sum() == 1
    count = f"{won}/{n}"
    first = headline.section(run)
    assert count in first and "ended in an infrastructure error and is not counted" in first.replace("\u00a0", " ")
    assert count in chapters.success_table(run) and f"{n - won}/{n}" in chapters.failures(run)
    assert count in (tmp_path / "out/episodes/clean/index.html").read_text()
    judged = verdicts.evaluate(_claims(tmp_path), inputs)["claims"]
    assert [claim["short"] for claim in judged][:1] == ["1/1"] and count in judged[1]["sentence"]


@pytest.mark.parametrize("change", [{"success": {"k": 1, "n": 99}}, {"outcomes": {"error": 0}}])
def test_k1_finds_a_summary_that_counts_errors(tmp_path: Path, change: dict) -> None:
    with_errors(tmp_path)
    inputs = prepare([tmp_path / "out"], tmp_path / "out")
    summary = provenance.json_load(inputs["summaries"][0])
    for part, values in change.items():
        summary[part] |= values
    provenance.json_dump(summary, Path(inputs["summaries"][0]))
    found = verdicts.evaluate(_claims(tmp_path), inputs)["claims"][0]
    assert found["verdict"] == "refuted" and "clean: the summary says" in found["sentence"]


def test_nothing_is_said_of_a_clock_that_no_record_names(tmp_path: Path) -> None:
    with_errors(tmp_path)
    run = Campaign(prepare([tmp_path / "out"], tmp_path / "out"))
    assert "waits for the policy" not in headline.section(run) + running_chapter.section(run)
    assert "do not say whether the simulator waited" in running_chapter.section(run)


def test_k1_is_not_tested_where_episodes_came_alone(tmp_path: Path) -> None:
    stages.write(tmp_path / "csv")
    found = CsvRun([stages.path(tmp_path / "csv", "stage4_episode")], "pi0", 7, "clean").read()
    write(found, tmp_path / "out")
    (first, _) = verdicts.evaluate(_claims(tmp_path), prepare([tmp_path / "out"], tmp_path / "out"))["claims"]
    assert first["verdict"] == "not_tested" and "only k/n could be checked against the rows" in first["sentence"]


def _claims(root: Path) -> Path:
    common = {"title": "t", "statement": "s", "scope": "s", "refuted_if": "r", "estimand": "e"}
    found = [{"id": "K1", "test": "bookkeeping"}, {"id": "C1", "test": "rate_at_least", "arm": "clean", "bar": 0.5}]
    provenance.json_dump({"version": 1, "claims": [{**common, **claim} for claim in found]}, root / "claims.yaml")
    return root / "claims.yaml"


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        ("../../x", "x"),
        ("/home/somebody/runs/x/", "x"),
        ("~/x", "x"),
        ("C:\\runs\\x", "x"),
        ("..", ".."),
        ("/", "/"),
        ("pi0/seed 7", "pi0/seed 7"),
        ("a<b", "a&lt;b"),
    ],
)
def test_a_run_that_is_called_by_a_path_is_named_by_its_last_part(tmp_path: Path, run: str, shown: str) -> None:
    rows = stages.write(tmp_path / "csv", trials=1)
    files = [stages.path(tmp_path / "csv", f"stage4_{kind}") for kind in ("infer", "episode")]
    for file, kind in zip(files, ("infer", "episode"), strict=True):
        found = [row | {"run_name": run} for row in rows[f"stage4_{kind}"]]
        stages.write_rows(file, stages.HEADERS[f"stage4_{kind}"].split(","), found)
    write(CsvRun(files, "pi0", 7, "clean").read(), tmp_path / "out")
    write_pages(prepare([tmp_path / "out"], tmp_path / "out"), tmp_path / "out")
    pages = sorted((tmp_path / "out/episodes/clean").glob("libero_*.html"))
    said = [re.sub("<wbr>|&nbsp;", "", path.read_text()) for path in pages]
    assert said and all(f"<dt>Run</dt><dd><code>{shown}</code>" in text for text in said)


def test_rows_are_labelled_as_imported_and_what_was_left_out_is_counted(tmp_path: Path) -> None:
    with_errors(tmp_path)
    inputs = prepare([tmp_path / "out"], tmp_path / "out")
    run = Campaign(inputs)
    head = overview.header(run, "t")
    assert "Imported, not run here: CSV files stage4_episode_summary.csv, stage4_infer_summary.csv (left out" in head
    assert re.search(r"left out because they could not be read: 1 of 6 episodes, \d+ of \d+ rounds\)", head)
    beside = comparison.published_beside_ours(run)
    assert "<strong>imported: CSV files" in beside and "ours" not in beside


def test_pages_of_an_arm_that_is_gone_go_and_others_stay(tmp_path: Path) -> None:
    with_errors(tmp_path, arm="first")
    inputs = prepare([tmp_path / "out"], tmp_path / "out")
    write_pages(inputs, tmp_path / "out")
    mine = tmp_path / "out/episodes/mine/index.html"
    mine.parent.mkdir()
    mine.write_text("not FLASHTrail's")
    found = CsvRun([stages.path(tmp_path / "csv", "stage4_episode")], "pi0", 7, "second").read()
    write(found, tmp_path / "again")
    write_pages(prepare([tmp_path / "again"], tmp_path / "out"), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out/episodes").iterdir()} == {"second", "mine", "index.html"}


def test_a_place_without_an_import_and_two_profiles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a directory that flashtrail import-run wrote"):
        prepare([tmp_path], tmp_path / "out")
    stages.write(tmp_path / "csv")
    for arm in ("a", "b"):
        write(CsvRun([stages.path(tmp_path / "csv", "stage6_infer")], "pi0", arm=arm).read(), tmp_path / "out")
    with pytest.raises(UserError, match="2 profiles"):
        prepare([tmp_path / "out"], tmp_path / "out")


@pytest.mark.parametrize("text", [None, "# no notebook", '{"cells": 3}', "[]"])
def test_what_is_not_a_notebook_is_one_line_and_nothing_is_written(tmp_path: Path, capsys, text: str | None) -> None:
    with_errors(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    notebook = tmp_path.parent / f"{tmp_path.name}.ipynb"
    if text is not None:
        notebook.write_text(text)
    assert cli.main(["report-run", str(tmp_path / "out"), "--notebook", str(notebook)]) == 2
    assert "; give a notebook" in (message := capsys.readouterr().err) and message.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_is_text_on_every_page_and_in_every_drawing(tmp_path: Path) -> None:
    name = "$\\frac{<b>$"
    with_errors(tmp_path, arm=name)
    inputs = prepare([tmp_path / "out"], tmp_path / "out")
    run = Campaign(inputs | write_pages(inputs, tmp_path / "out"))
    parts = [headline.section(run), chapters.success(run), chapters.routes(run), chapters.failures(run)]
    parts += [overview.provenance_table(run), comparison.published_beside_ours(run)]
    for part in parts:
        assert "&lt;b&gt;" in part and "<b>" not in part
    assert "<b>" not in (tmp_path / "out/episodes/index.html").read_text()
    targets = set(re.findall(r'href="(episodes/[^"#]+)', "".join(part for part in parts)))
    assert targets and all((tmp_path / "out" / target).is_file() for target in targets)


def alone(root: Path, *names: str) -> tuple[Campaign, str]:
    """Import these files alone; return the campaign with its pages, and the head of its report as text."""
    stages.write(root / "csv")
    found = CsvRun([stages.path(root / "csv", name) for name in names], "pi0", 7, "clean").read()
    write(found, root / "out")
    inputs = prepare([root / "out"], root / "out")
    run = Campaign(inputs | write_pages(inputs, root / "out"))
    head = overview.header(run, "t") + headline.section(run)
    targets = {place.split("#")[0] for place in re.findall(r'href="(episodes/[^"]+)"', head)}
    assert all((root / "out" / place).is_file() for place in targets)
    words = re.sub(r"<[^>]+>", " ", head).replace("\u00a0", " ")
    assert not re.search(r"\b0 (arm|episode|round)s|[;,:] ?[;,.]|seed ?;|\(\)|None|nan", words), words
    return run, " ".join(words.split())


def test_the_head_of_a_profile_says_what_was_timed_and_nothing_of_episodes(tmp_path: Path) -> None:
    run, words = alone(tmp_path, "stage6_infer")
    counts = run.profile["route"].value_counts()
    said = f"{len(run.profile)} rounds of pi0 timed ({counts['full']} full and {counts['draft']} draft; imported: CSV "
    assert said + "file stage6_infer_summary.csv), without episodes" in words
    assert "t pi0: rounds timed, no episodes Imported, not run here: " in words
    assert not re.search("seed|paired|clock|every episode|Brackets", words)
    assert not (tmp_path / "out/episodes/index.html").exists()


def test_the_list_of_an_earlier_report_goes_where_only_a_profile_is_left(tmp_path: Path) -> None:
    alone(tmp_path / "first", "stage4_episode")
    shutil.copytree(tmp_path / "first/out/episodes", tmp_path / "out/episodes")
    alone(tmp_path, "stage6_infer")
    assert list((tmp_path / "out/episodes").iterdir()) == []


def test_the_command_that_repeats_a_report_can_be_typed_as_it_stands() -> None:
    said = repeated_by([Path("runs/my run"), Path(), Path("/home/someone/run")])
    assert said == "flashtrail report-run 'runs/my run' . run"


@pytest.mark.parametrize("route", ["full", "draft"])
def test_a_profile_of_one_route_has_its_time_on_the_first_screen(tmp_path: Path, route: str) -> None:
    rows = [row for row in stages.write(tmp_path / "csv")["stage6_infer"] if row["route_type"] == route]
    stages.write_rows(tmp_path / "one.csv", stages.HEADERS["stage6_infer"].split(","), rows)
    write(CsvRun([tmp_path / "one.csv"], "pi0").read(), tmp_path / "out")
    first = headline.section(Campaign(prepare([tmp_path / "out"], tmp_path / "out")))
    assert f"A {route} round takes" in first and f"({len(rows)} {route};" in first


def test_the_head_of_episodes_alone_says_that_their_rounds_are_not_recorded(tmp_path: Path) -> None:
    run, words = alone(tmp_path, "stage4_episode")
    assert f"1 arm, {len(run.episodes)} episodes , rounds not recorded; seed 7. " in words
    page = (tmp_path / "out/episodes/clean/index.html").read_text()
    assert "time ran out, fault not recorded" in page and "no fault" not in page
    shown = re.sub(r"\s+", " ", chapters.success(run) + chapters.failures(run) + overview.header(run, "t"))
    assert "Blue: fault not recorded" in shown and "no fault" not in shown


def test_the_head_of_episodes_with_rounds_counts_both(tmp_path: Path) -> None:
    run, words = alone(tmp_path, "stage4_infer", "stage4_episode")
    assert f"1 arm, {len(run.episodes)} episodes , {len(run.rounds)} rounds; seed 7. " in words
