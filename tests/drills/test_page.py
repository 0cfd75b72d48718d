"""reports/drills.html through its real notebook on made episodes: what stands on it, and how a browser shows it."""

from __future__ import annotations

import re
from pathlib import Path

import browser
import pytest
from drills import written
from report.rendered import answers, unlinked

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims.campaign import Campaign
from flashtrail.drills import diagnosis
from flashtrail.report import (
    drills_chapter,
    drills_findings,
    episode_browser,
    episode_pages,
    layout,
    overview,
    rendering,
)
from flashtrail.tables import schemas

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "notebooks" / "drills.ipynb"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("drills")
    inputs = written.write_campaign(root, episodes=12)
    for arm in inputs["arms"]:
        files = {name: root / "tables" / arm / f"{name}.parquet" for name in ("episodes", "steps")}
        files["rounds"] = root / "tables" / arm / "rounds.parquet"
        schemas.write_table(files["rounds"], [], schemas.ROUNDS, written.METADATA)
        upwards = {"report": "../../drills.html", "index": "../drills.html"}
        episode_pages.write_arm(root / "reports/episodes" / arm, files, **upwards)
    rounds = [str(root / "tables" / arm / "rounds.parquet") for arm in inputs["arms"]]
    files = {"episodes": inputs["episodes"], "rounds": rounds}
    episode_browser.write_index(root / "reports/episodes/drills.html", files, inputs["arms"], "../drills.html")
    inputs["page_index"] = "reports/episodes/drills.html"
    inputs["pages"] = [f"reports/episodes/{arm}/index.html" for arm in inputs["arms"]]
    return root, inputs


def test_every_verdict_follows_from_the_diagnosis(campaign):
    """With another diagnosis in its place the first screen says another thing: nothing is written in advance."""
    root, inputs = campaign
    text = drills_chapter.section(Campaign(inputs))
    assert "Noticed, but not named" not in text and "Not told from a clean run" not in text
    found = provenance.json_load(inputs["diagnosis"])
    for name in ("no_flip", "bad_prompt"):
        found["verdicts"][name] = {
            "verdict": "unseen",
            "run_cause": None,
            "same_name": [],
            "not_told_from": [diagnosis.CLEAN],
        }
    found["enough"]["no_flip"] = None
    provenance.json_dump(found, root / "other.json")
    other = drills_chapter.section(Campaign(inputs | {"diagnosis": str(root / "other.json")}))
    assert "Not told from a clean run" in other and "not with 15 for no_flip" in other


def test_counts_are_links_to_the_episodes_behind_them(campaign):
    _, inputs = campaign
    run = Campaign(inputs)
    text = drills_chapter.confusion(run)
    assert 'href="episodes/drill_no_flip/index.html"' in text
    assert "libero_goal_task_0_init_000_repeat_0.html" in text
    without = Campaign({kind: value for kind, value in inputs.items() if kind != "pages"})
    assert "<a href" not in drills_chapter.confusion(without)


def test_a_page_without_a_diagnosis_is_refused(campaign):
    _, inputs = campaign
    with pytest.raises(UserError, match="has no diagnosis: run `make drills`"):
        drills_chapter.section(Campaign({kind: value for kind, value in inputs.items() if kind != "diagnosis"}))


def test_the_notebook_calls_what_there_is():
    calls = re.findall(r"(drills_chapter|drills_findings|overview)\.(\w+)\(run", NOTEBOOK.read_text())
    parts = {"drills_chapter": drills_chapter, "drills_findings": drills_findings, "overview": overview}
    assert len(calls) >= 12 and all(callable(getattr(parts[part], name)) for part, name in calls)


# --- as a browser shows it ---


@pytest.fixture(scope="module")
def reports(campaign) -> Path:
    root, inputs = campaign
    rendering.render(NOTEBOOK, root / "reports/drills.ipynb", root / "reports/drills.html", inputs)
    return root / "reports"


@pytest.fixture(scope="module")
def chromium():
    if browser.executable() is None:
        pytest.skip(f"no browser on this machine: {', '.join(browser.NAMES)}")
    with browser.launched() as found:
        yield found


@pytest.mark.slow
def test_the_page_is_one_small_file_of_its_own_and_warns_of_simulated_rows(reports):
    text = (reports / "drills.html").read_text()
    assert len(text.encode()) < 3_000_000 and rendering.external_references(text) == []
    assert layout.content_policy(parts=["filter"]) in text and "Simulated data" in text and "Traceback" not in text


@pytest.mark.slow
def test_every_count_of_the_page_is_a_link(reports):
    assert unlinked(reports / "drills.html") == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [browser.DESK, browser.PHONE], ids=["desk", "phone"])
def test_the_page_has_no_problem(chromium, reports, size):
    assert browser.problems(chromium, reports / "drills.html", size) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "drills.html",
        "episodes/drills.html",
        "episodes/drill_no_flip/index.html",
        f"episodes/drill_no_flip/{written.SUITE}_task_0_init_000_repeat_0.html",
    ],
)
def test_every_link_opens(chromium, reports, name):
    """Without a final report: from the page to each episode, and from there back to the page and to other drills."""
    with browser.opened(chromium, reports / name) as found:
        links = found.page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
    inside = {link for link in links if link.startswith("file:")}
    assert len(inside) > 3 and not [link for link in inside if "final.html" in link]
    for link in sorted(inside):
        place, _, anchor = link.removeprefix("file://").partition("#")
        assert Path(place).is_file(), link
        assert answers(place, anchor), link


@pytest.mark.slow
def test_the_first_screen_answers_without_scrolling(chromium, reports):
    with browser.opened(chromium, reports / "drills.html") as found:
        for term in ("What was run", "Named", "False alarms", "How many episodes"):
            box = found.page.locator(".first dt", has_text=term).first.bounding_box()
            assert box is not None and box["y"] + box["height"] < browser.DESK[1], term
