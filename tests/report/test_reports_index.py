"""The page over all reports: what it lists, and what it says of the sources' claims against what was judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import browser
import pytest
from bs4 import BeautifulSoup
from claims.simulated import METADATA, TASKS, write_reports
from drills import written
from report.rendered import answers, linked, unlinked

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import published
from flashtrail.report import early, layout, reports_index
from flashtrail.tables import schemas

ARMS = ["clean", "wrist_zero_every4", "wrist_zero_all", "guard_wrist_zero_every4"]
OTHERS = published.load(published.DEFAULT.with_name("documents.yaml"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's reports/ and results/, with drills that were diagnosed, and a directory with an imported run's report."""
    root = tmp_path_factory.mktemp("run")
    reports = write_reports(root, ARMS, ["claims", "final"])
    (root / "claims").mkdir()
    shutil.move(root / "claims.json", root / "claims/claims.json")
    inputs = written.write_campaign(tmp_path_factory.mktemp("drills"), episodes=9)
    (root / "drills").mkdir()
    for kind in ("diagnosis", "bounds"):
        shutil.copy(inputs[kind], root / "drills" / f"{kind}.json")
    for arm in inputs["arms"]:
        table = Path(inputs["episodes"][0]).parents[1] / arm / "episodes.parquet"
        rows = [
            row | {"task": TASKS[row["task_id"]]} for row in schemas.read_table(table, schemas.EPISODES).to_pylist()
        ]
        schemas.write_table(root / "tables" / arm / "episodes.parquet", rows, schemas.EPISODES, METADATA)
        (reports / "episodes" / arm).mkdir()
        (reports / "episodes" / arm / "index.html").write_text("its episodes")
    (reports / "drills.html").write_text(layout.document("FLASHTrail: Drills", "<h1>Drills</h1>", "f"))
    (reports / "theirs").mkdir()
    body = '<h1>R</h1><p class="line note">pi0 on <b>goal</b>: 4/15</p>'
    (reports / "theirs/report.html").write_text(layout.document("FLASHTrail: A & B", body, "f"))
    (reports / "mine.html").write_text("<html><title>my own notes</title></html>")
    assert cli.main(["reports", str(reports), "--results", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def page(run) -> Path:
    return run / "reports/index.html"


@pytest.fixture(scope="module")
def soup(page) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(), "html.parser")


def rows_of(soup: BeautifulSoup, source: str) -> dict[str, list[str]]:
    """Each claim of a source's table, with the text of its other cells."""
    table = soup.find(id=f"source-{source}").find_next("table")
    cells = [
        [" ".join(cell.get_text(" ").split()) for cell in row.find_all("td")] for row in table.tbody.find_all("tr")
    ]
    return {first: rest for first, *rest in cells}


def test_every_report_is_listed_with_what_it_says_first(soup):
    table = soup.find("table")
    found = {link["href"]: link.get_text() for link in table.select("td:first-child a")}
    assert list(found) == ["final.html", "drills.html", "claims.html", "theirs/report.html"]
    assert found["theirs/report.html"] == "A & B" and found["drills.html"] == "Drills"
    assert "pi0 on goal: 4/15" in table.get_text() and "pi0_nano on libero_goal" in table.get_text()


def test_each_count_is_a_link_and_each_link_leads_somewhere(page, soup):
    assert unlinked(page) == [] and len(linked(page)) > 5
    for link in soup.select("main a[href]"):
        place, _, anchor = link["href"].partition("#")
        target = page.parent / place if place else page
        assert target.is_file() and (anchor == "success" or answers(target, anchor)), link["href"]


def test_a_claim_of_the_reproduction_has_its_words_and_our_verdict(run, soup):
    judged = {claim["id"]: claim for claim in provenance.json_load(run / "claims/claims.json")["claims"]}
    rows = {name.split(":")[0]: cells for name, cells in rows_of(soup, "reproduction").items()}
    made = {name for name, claim in judged.items() if claim["seed"]["word"] or claim["seed"]["figures"]}
    assert set(rows) >= made and set(rows) <= set(judged)
    for name, (said, found, evidence) in rows.items():
        claim = judged[name]
        assert claim["seed"]["caveat"] in said and (claim["seed"]["word"] or "") in said.replace("_ ", "_"), name
        assert claim["verdict"].replace("_", " ") in found.replace("\u00a0", " ") and evidence == name
    tested = [name for name in rows if judged[name]["verdict"] != "not_tested"]
    assert tested and all(judged[name]["short"].split()[0] in rows[name][1] for name in tested)


def test_the_papers_claims_are_quoted_and_say_why_they_are_not_tested(soup):
    for said, found, _ in rows_of(soup, "paper").values():
        assert said and found.startswith("\u25cb not tested") and "here: pi0_nano" in found


def test_a_claim_that_nothing_tries_gives_its_reason_and_its_source_word_by_word(soup):
    untested = [said for said in OTHERS.said if said.untested]
    assert {said.source for said in untested} == {"exercise", "lift", "fluid", "deployment"}
    for said in untested:
        quoted, found, evidence = rows_of(soup, said.source)[said.figure]
        assert quoted.startswith(f"\u201c{said.value}\u201d {said.where[0]}"), quoted
        assert found.replace("\u00a0", " ") == f"\u25cb not tested : {said.untested}." and evidence == "\u2013"


def test_what_a_drill_tries_has_the_words_of_its_diagnosis(run, soup):
    found = provenance.json_load(run / "drills/diagnosis.json")
    rows = rows_of(soup, "exercise")
    for name in ("no_flip", "bad_prompt", "bad_unnorm"):
        word = {"unseen": "not told from a clean run"}.get(
            found["verdicts"][name]["verdict"], found["verdicts"][name]["verdict"]
        )
        own = found["matrix"][name][name]
        assert rows[name][1].startswith(word) and f"{own['k']}/{own['n']}" in rows[name][1]
    assert "no checkup was run here" in rows["a sweep of fifty episodes tells a healthy install"][1]


def test_without_results_it_lists_reports_and_claims_nothing(run, tmp_path):
    shutil.copy(run / "reports/final.html", tmp_path)
    assert reports_index.write(tmp_path, tmp_path / "results") == 1
    text = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser").get_text(" ")
    assert "No claim was judged here" in text and "no drill was run here" in text
    assert "\u25cf" not in text and "\u2715" not in text


def test_a_report_says_its_verdict_before_its_subject(run, tmp_path):
    text = (run / "reports/final.html").read_text()
    verdict = '<p class="said long">FLASH costs nothing.</p>'
    (tmp_path / "final.html").write_text(text.replace("</header>", f"</header>{verdict}", 1))
    reports_index.write(tmp_path, tmp_path / "results")
    table = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser").find("table").get_text(" ")
    assert "FLASH costs nothing." in table and "pi0_nano on libero_goal" not in table


def test_a_run_under_way_is_no_report_and_an_empty_directory_one_line(tmp_path):
    with pytest.raises(UserError, match="has no report: run `make report`"):
        reports_index.write(tmp_path, tmp_path)
    (tmp_path / "final.html").write_text(early.text({}, {}))
    (tmp_path / "loop.html").symlink_to("loop.html")
    (tmp_path / "a directory.html").mkdir()
    reports_index.write(tmp_path, tmp_path)
    assert "a run under way" in (tmp_path / "index.html").read_text()


@pytest.mark.skipif(browser.executable() is None, reason=f"no browser: {', '.join(browser.NAMES)}")
@pytest.mark.parametrize("size", [browser.DESK, browser.PHONE], ids=["desk", "phone"])
def test_it_has_no_problem(page, size):
    with browser.launched() as chromium:
        assert browser.problems(chromium, page, size) == []
