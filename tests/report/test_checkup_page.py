"""The checkup's page through its real notebook, on simulated tables: what it says, and what a browser says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import browser
import pytest
from claims.simulated import METADATA, shard
from report.rendered import linked, marked, unlinked

from flashtrail.base import provenance
from flashtrail.claims import checkup, summaries
from flashtrail.claims.campaign import Campaign
from flashtrail.report import checkup_chapter, episode_pages, rendering
from flashtrail.tables import schemas

REPOSITORY = Path(__file__).resolve().parents[2]
EPISODES = 16
pytestmark = pytest.mark.slow


def seen(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """What a run of ours adds to a simulated episode: the third success was never grasped, the fifth never closed."""
    won = row["success"] and number not in (2, 4)
    reason = None if won else "never grasped" if row["success"] else "no success"
    closing = None if number == 4 else 20 + 3 * number
    counts = {"gripper_closures": 1, "grasps": int(won), "lifts": int(won), "first_close_step": closing}
    return {**row, "verified_success": won, "verified_reason": reason, **counts}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("checkup")
    rows = {name: [row | {"arm": "checkup"} for row in part] for name, part in shard("clean", 1, EPISODES).items()}
    rows["episodes"] = [seen(number, row) for number, row in enumerate(rows["episodes"])]
    files = {name: root / "tables" / f"{name}.parquet" for name in schemas.SCHEMAS}
    for name, path in files.items():
        schemas.write_table(path, rows[name], schemas.SCHEMAS[name], METADATA)
    provenance.json_dump(summaries.summarize_arm(**files), root / "summary.json")
    published = sorted((REPOSITORY / "resources" / "published").glob("*.yaml"))
    provenance.json_dump(checkup.judge(files["episodes"], published, "pi0_nano/FLASH"), root / "checkup.json")
    directory = root / "reports" / "episodes" / "checkup"
    episode_pages.write_arm(directory, files, report="../../checkup.html", index=None)
    found = {name: str(path) for name, path in files.items()}
    found |= {"summaries": str(root / "summary.json"), "checkup": str(root / "checkup.json")}
    return found | {"pages": [str(directory / "index.html")], "arms": ["checkup"], "grids": {}}


@pytest.fixture(scope="module")
def rendered(inputs) -> Path:
    reports = Path(inputs["pages"][0]).parents[2]
    notebook = REPOSITORY / "notebooks" / "checkup.ipynb"
    rendering.render(notebook, reports / "checkup.ipynb", reports / "checkup.html", inputs)
    return reports / "checkup.html"


def test_the_page_has_verdict_figures_disagreements_and_every_episode(inputs, rendered):
    text = rendered.read_text().replace("<wbr>", "")
    found = checkup_chapter.found_of(Campaign(inputs))
    assert text.count("<figure>") == 2 and "Simulated data" in text
    assert f"{found['success']['k']}/{EPISODES}" in text and "18/20" in text
    assert (
        text.count("no: never grasped") == 2 and "never in 1 of 16" in text and "1 of them counted as success" in text
    )
    links = [f"episodes/checkup/libero_goal_task_1_init_{state:03d}_repeat_0.html" for state in range(EPISODES)]
    assert all(link in text and (rendered.parent / link).is_file() for link in links)


def test_every_count_leads_to_its_episodes_or_is_marked_as_published(rendered):
    assert unlinked(rendered) == [] and marked(rendered) == [("18/20", "published")]
    assert {place.partition("#")[0] for _, place in linked(rendered)} == {"episodes/checkup/index.html"}


def test_a_page_without_a_published_figure_says_so(inputs):
    run = Campaign({kind: value for kind, value in inputs.items() if kind != "checkup"})
    run.__dict__["checkup"] = checkup.judge(inputs["episodes"], [], None)
    parts = (checkup_chapter.first, checkup_chapter.power_of_this, checkup_chapter.compared, checkup_chapter.episodes)
    text = "".join(part(run) for part in parts)
    assert "the config names no published figure" in text and text.count("Nothing published to compare with.") == 2


def test_episodes_lead_back_to_the_checkup_and_to_no_index(rendered):
    for path in (rendered.parent / "episodes" / "checkup").glob("*.html"):
        text = path.read_text()
        assert 'href="../../checkup.html"' in text and "final.html" not in text and "../index.html" not in text


@pytest.mark.skipif(browser.executable() is None, reason="no browser on this machine")
@pytest.mark.parametrize("size", [browser.DESK, browser.PHONE], ids=["desk", "phone"])
def test_a_browser_finds_nothing_wrong(rendered, size):
    with browser.launched() as chromium:
        lists = rendered.parent / "episodes" / "checkup" / "index.html"
        assert [browser.problems(chromium, page, size) for page in (rendered, lists)] == [[], []]
