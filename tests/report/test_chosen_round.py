"""An episode's page at a chosen round: what was sent, returned and executed, drawn in a browser from the rows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import browser
import numpy as np
import pytest
from bs4 import BeautifulSoup
from claims.simulated import SUITE, write_campaign
from PIL import Image
from report.filmed import STATE, film_episode, shade

from flashtrail.report import episode_pages, layout
from flashtrail.tables import pictures, schemas

NAME = f"{SUITE}_task_0_init_00{{}}_repeat_0.html"
SIZES = [browser.DESK, browser.PHONE]
SHOWS = """n => { const film = document.querySelector("video");
  return film.readyState >= 2 && !film.seeking && Math.floor(film.currentTime * 4) === n; }"""
pytestmark = pytest.mark.slow
in_browser = pytest.mark.skipif(browser.executable() is None, reason=f"no browser: {', '.join(browser.NAMES)}")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """An arm of two starts a task; the first of task 0 is filmed."""
    root = tmp_path_factory.mktemp("campaign")
    write_campaign(root, ["clean"], episodes=2)
    film_episode(root, "clean")
    files = {name: root / "tables/clean" / f"{name}.parquet" for name in schemas.SCHEMAS}
    episode_pages.write_arm(root / "episodes/clean", files, [root / "rollouts/clean/task_0/sheets.parquet"])
    (root / "episodes/index.html").write_text(layout.document("all", "<h1>All</h1>", "f"))
    return root


def rows_of(root: Path, table: str, state: int = 0) -> list[dict]:
    rows = schemas.read_table(root / "tables/clean" / f"{table}.parquet", schemas.SCHEMAS[table]).to_pylist()
    return [row for row in rows if (row["task_id"], row["init_state"]) == (0, state)]


def data_of(page: Path) -> dict:
    return json.loads(BeautifulSoup(page.read_text(), "html.parser").find(id="rounds").string)


@pytest.mark.parametrize("state", [0, 1])
def test_what_is_drawn_is_what_the_steps_say(root, state):
    rounds, steps = rows_of(root, "rounds", state), rows_of(root, "steps", state)
    drawn = data_of(root / "episodes/clean" / NAME.format(state))
    assert drawn["length"] == len(steps) and len(drawn["rounds"]) == len(rounds)
    for row, entry in zip(rounds, drawn["rounds"], strict=True):
        own = [step for step in steps if step["round"] == row["round"]]
        assert [action[0] for action in entry["done"]] == [step["offset_in_chunk"] for step in own]
        assert (
            np.allclose([action[1:] for action in entry["done"]], [step["action"] for step in own], atol=6e-4)
            or not own
        )
        assert (entry["start"], entry["accepted"]) == (row["env_step"], row["accepted_prefix"])
        assert ("chunk" in entry) == (state == 0)


def test_state_prompt_and_chunk_are_those_that_lie_beside_the_film(root):
    for number, entry in enumerate(data_of(root / "episodes/clean" / NAME.format(0))["rounds"]):
        assert entry["prompt"] == f"prompt {number}" and np.allclose(entry["state"], STATE + number)
        assert np.allclose(entry["chunk"], np.full((50, 7), 0.01 * number), atol=6e-4)


def test_what_was_not_kept_is_said(root):
    texts = [(root / "episodes/clean" / NAME.format(state)).read_text() for state in (0, 1)]
    assert ["were not kept for this episode" in text for text in texts] == [False, True]
    assert [' poster="data:image/jpeg' in text for text in texts] == [True, False]


def test_what_belongs_to_another_episode_is_left_out(root, tmp_path):
    source = root / "rollouts/clean/task_0/videos/init_000_repeat_0.npz"
    sent, steps = pictures.read_sent(source), schemas.STEPS.empty_table().to_pandas()
    short = pictures.Sent(sent.prompts[:-1], sent.states[:-1], sent.chunks[:-1])
    from flashtrail.report import chosen_round

    (text,) = chosen_round.section(None, None, rows_of(root, "rounds"), steps, 12, short)
    assert '"prompt"' not in text


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@in_browser
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
@pytest.mark.parametrize("state", [0, 1])
def test_a_page_has_no_problem_at_any_round(chromium, root, size, state):
    with (
        browser.tab(chromium, size) as tab,
        browser.visited(tab, root / "episodes/clean" / NAME.format(state)) as found,
    ):
        tab.get_by_role("button", name="Next round").click()
        tab.get_by_text("These actions as numbers").click()
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        film = [url for url in found.requests if not url.endswith(".mp4")]
        assert (wide, found.messages, film) == (0, [], []) and browser.violations(tab) == []


@in_browser
def test_slider_keys_and_timeline_choose_a_round_and_the_address_keeps_it(chromium, root):
    path, rounds = root / "episodes/clean" / NAME.format(0), rows_of(root, "rounds")
    with browser.tab(chromium) as tab, browser.visited(tab, path) as found:
        said = tab.locator("output")
        assert said.inner_text().startswith(f"Round 0 of 0 to {len(rounds) - 1}") and found.requests == []
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowLeft")
        assert said.inner_text().startswith("Round 1 of") and tab.url.endswith("#round=1")
        assert "\u201cprompt 1\u201d" in tab.locator(".round dl").inner_text()
        slider = tab.get_by_role("slider")
        slider.fill("3")
        assert said.inner_text().startswith("Round 3 of")
        assert tab.locator(".round dl dd").nth(2).inner_text() == rounds[3]["route"]
        last = rounds[-1]
        lane = tab.locator(".lane svg").first
        box, length = lane.bounding_box(), len(rows_of(root, "steps"))
        lane.click(position={"x": box["width"] * (last["env_step"] + 0.5) / length, "y": 5})
        assert said.inner_text().startswith(f"Round {last['round']} of")
        assert float(tab.locator(".lane .now").first.get_attribute("x")) == last["env_step"]
        tab.reload()
        assert said.inner_text().startswith(f"Round {last['round']} of")


@in_browser
def test_the_film_shows_the_picture_of_the_chosen_round(chromium, root):
    with browser.tab(chromium) as tab, browser.visited(tab, root / "episodes/clean" / NAME.format(0)):
        for number in (4, 1):
            tab.get_by_role("slider").fill(str(number))
            tab.wait_for_function(SHOWS, arg=number)
            tab.wait_for_timeout(200)
            picture = np.asarray(Image.open(io.BytesIO(tab.locator("video").screenshot())).convert("L"))
            assert np.median(picture[60:150]) == pytest.approx(shade(number), abs=4)


@in_browser
def test_escape_goes_back_to_the_page_of_all_episodes_as_it_was_left(chromium, root):
    path = root / "episodes/clean" / NAME.format(1)
    with browser.tab(chromium) as tab:
        tab.goto(f"{path.as_uri()}#back=arm%3Dclean%26q%3Dwine")
        tab.get_by_role("link", name="Previous").click()  # an episode later, the way back is the same
        tab.wait_for_url(f"**/{NAME.format(0)}*")
        tab.keyboard.press("Escape")
        tab.wait_for_url("**/index.html#arm=clean&q=wine")
        tab.goto(path.as_uri())
        tab.keyboard.press("Escape")
        tab.wait_for_url("**/index.html#arm=clean")
