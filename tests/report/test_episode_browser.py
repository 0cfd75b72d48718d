"""The page of all episodes: what it shows of the rows; filtered, paired and walked by keys in a browser."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs

import browser
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from claims.simulated import TASKS, write_campaign
from PIL import Image
from report.filmed import film_episode, shade
from report.rendered import linked, unlinked

from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, episode_browser, episode_pages, layout, rendering, thumbnails
from flashtrail.tables import links, schemas

ARMS = ["clean", "wrist_zero_every4", "wrist_zero_all"]
A, B = "clean", "wrist_zero_every4"
SIZES = [browser.DESK, browser.PHONE]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("campaign")
    inputs = write_campaign(root, ARMS, episodes=4)
    film_episode(root, "clean")
    directory = root / "reports" / "episodes"
    sheets = sorted((root / "rollouts").glob("*/task_*/sheets.parquet"))
    for arm in ARMS:
        files = {name: root / "tables" / arm / f"{name}.parquet" for name in schemas.SCHEMAS}
        episode_pages.write_arm(directory / arm, files, [path for path in sheets if path.parts[-3] == arm])
    episode_browser.write_index(directory / "index.html", inputs, ARMS, sheets=sheets)
    (root / "reports" / "final.html").write_text(layout.document("r", "<h1>The report</h1>", "f"))
    return inputs | {"root": root}


@pytest.fixture(scope="module")
def index(campaign) -> Path:
    return campaign["root"] / "reports/episodes/index.html"


@pytest.fixture(scope="module")
def run(campaign) -> Campaign:
    return Campaign({key: value for key, value in campaign.items() if key != "root"})


def test_without_scripts_it_is_a_list_of_links_by_arm(index, run):
    soup = BeautifulSoup(index.read_text(), "html.parser")
    sections = soup.select("#episodes section")
    assert [section["data-arm"] for section in sections] == ARMS and not soup.select("#episodes [hidden]")
    for section in sections:
        rows = run.of_arm("episodes", section["data-arm"])
        targets = [link["href"] for link in section.select("li a")]
        assert targets == [f"{section['data-arm']}/{links.file_name(row)}" for row in rows.to_dict("records")]
        assert all((index.parent / target).is_file() for target in targets)
        ends = [card["data-end"] == "success" for card in section.select("li")]
        assert ends == rows["success"].tolist()
        assert [int(card["data-won"]) for card in section.select("li")] == rows["success"].tolist()


def test_each_count_equals_the_rows_and_leads_to_them(index, run):
    found = dict((target.split("/")[0], count) for count, target in linked(index))
    won = {arm: run.of_arm("episodes", arm)["success"] for arm in ARMS}
    assert found == {arm: f"{of_arm.sum()}/{len(of_arm)}" for arm, of_arm in won.items()}
    assert unlinked(index) == [] and rendering.external_references(index.read_text()) == []


def test_an_arm_is_called_in_words_beside_its_key(index, run, campaign, tmp_path):
    soup = BeautifulSoup(index.read_text(), "html.parser")
    for section in soup.select("#episodes section"):
        summary = run.summaries[section["data-arm"]]
        words = arm_words.short(summary, run.usual_policy(summary))
        assert section["data-name"] == words and section.h2.small.get_text() == words
        assert section.h2.code.get_text() == section["data-arm"]
    bare = {name: campaign[name] for name in ("episodes", "rounds")}
    episode_browser.write_index(tmp_path / "index.html", bare, ARMS)
    assert not BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser").select("h2 small")


def test_an_episode_with_a_sheet_has_its_last_picture_and_each_other_its_rounds(index):
    cards = BeautifulSoup(index.read_text(), "html.parser").select("#episodes li")
    assert [bool(card.select("img")) for card in cards] == [True] + [False] * (len(cards) - 1)
    assert all(bool(card.select("svg.strip")) != bool(card.select("img")) for card in cards)


@pytest.mark.parametrize("count", [1, 3, 12, 40])
def test_a_frame_is_cut_out_of_its_sheet(tmp_path, count):
    shades = [shade(i) for i in range(12)]
    shown = min(count, 12)
    sheet = Image.new("RGB", (min(4, shown) * 224, -(-shown // 4) * 128))
    for i in range(shown):
        sheet.paste((shades[i],) * 3, (i % 4 * 224, i // 4 * 128 + 16, i % 4 * 224 + 224, i // 4 * 128 + 128))
    jpeg = io.BytesIO()
    sheet.save(jpeg, "JPEG")
    for place in (0, -1):
        cut = np.asarray(Image.open(io.BytesIO(thumbnails.frame(jpeg.getvalue(), count, place))))
        assert cut.shape == (112, 224, 3) and cut.mean() == pytest.approx(shades[range(shown)[place]], abs=3)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8 no picture", b"GIF89a"])
def test_what_is_no_sheet_is_no_picture(data):
    assert thumbnails.frame(data, 10, -1) is None and thumbnails.frame(data, float("nan"), 0) is None


def test_a_page_keeps_to_its_bytes(campaign, monkeypatch, tmp_path):
    sheets = sorted((campaign["root"] / "rollouts").glob("*/task_*/sheets.parquet"))
    monkeypatch.setattr(episode_browser, "PAGE_BYTES", 10)
    episode_browser.write_index(tmp_path / "index.html", campaign, ARMS, sheets=sheets)
    assert "data:image/jpeg" not in (tmp_path / "index.html").read_text()


def test_a_text_under_two_numbers_pairs_by_both():
    rows = [("a", 3, "stack"), ("a", 4, "stack"), ("a", 5, "pour"), ("b", 7, "pour")]
    frame = pd.DataFrame([{"arm": arm, "suite": "s", "task_id": n, "task": text} for arm, n, text in rows])
    assert episode_browser._task_of_start(frame).tolist() == ["stack 3", "stack 4", "pour", "pour"]


# --- in a browser ---

in_browser = pytest.mark.skipif(browser.executable() is None, reason=f"no browser: {', '.join(browser.NAMES)}")


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


def shown(tab) -> list[str]:
    return tab.eval_on_selector_all(
        "#episodes li a", "all => all.filter(a => a.offsetParent).map(a => a.dataset.place)"
    )


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
@pytest.mark.parametrize("fragment", ["", "#arm=clean&task=1", f"#a={A}&b={B}"])
def test_it_has_no_problem_whatever_is_chosen(chromium, index, size, fragment, tmp_path):
    with browser.tab(chromium, size) as tab, browser.visited(tab, index) as found:
        tab.evaluate("fragment => { location.hash = fragment; }", fragment)
        tab.wait_for_timeout(100)
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert (wide, found.messages, found.requests) == (0, [], []) and browser.violations(tab) == []


@in_browser
@pytest.mark.slow
def test_a_link_opens_it_filtered_and_back_undoes_a_choice(chromium, index, run):
    with browser.tab(chromium) as tab:
        tab.goto(f"{index.as_uri()}#{links.chosen(arm=B, task=1)}")
        assert shown(tab) == [f"{B}/libero_goal_task_1_init_{state:03d}_repeat_0.html" for state in range(4)]
        assert tab.locator("#chosen output").inner_text() == f"4 of {len(run.episodes)} episodes"
        tab.get_by_label("Outcome").select_option("success")
        won = run.of_arm("episodes", B).query("task_id == 1 and success")
        assert len(shown(tab)) == len(won) and parse_qs(tab.url.split("#")[1])["end"] == ["success"]
        tab.go_back()
        assert len(shown(tab)) == 4 and tab.get_by_label("Outcome").input_value() == ""
        tab.get_by_role("button", name="Clear").click()
        assert len(shown(tab)) == len(run.episodes)
        tab.get_by_label("Words").fill(f"wine {ARMS[2]}")
        assert len(shown(tab)) == 4 and "q=wine" in tab.url
        tab.reload()
        assert len(shown(tab)) == 4 and tab.get_by_label("Words").input_value() == f"wine {ARMS[2]}"


@in_browser
@pytest.mark.slow
def test_two_arms_side_by_side_have_the_pairs_of_the_paired_test_discordant_first(chromium, index, run):
    both = run.pairs(A, B)
    expected = Counter(zip(both["success_a"], both["success_b"], strict=True))
    with browser.tab(chromium) as tab:
        tab.goto(f"{index.as_uri()}#{links.chosen(a=A, b=B)}")
        heads = tab.locator(".pairs h2").all_inner_texts()
        kinds = {(1, 0): f"Success only in {A}", (0, 1): f"Success only in {B}"}
        kinds |= {(0, 0): "Success in neither", (1, 1): "Success in both"}
        counts = {kind: expected[kind] for kind in kinds if expected[kind]}
        assert heads == [f"{kinds[kind]} {n} start{'s' * (n != 1)}" for kind, n in counts.items()]
        assert counts.get((1, 0)) and tab.locator(".pair").count() == len(both) and shown(tab) == []
        tab.get_by_label("Task").select_option("2")
        assert tab.locator(".pair").count() == (both["task_id"] == 2).sum() and f"a={A}" in tab.url
        start = tab.locator(".pair").first
        labels = [text.split("\n")[0] for text in start.locator("a").all_inner_texts()]
        called = {arm: arm_words.short(run.summaries[arm], run.usual_policy(run.summaries[arm])) for arm in (A, B)}
        assert labels == [f"{arm} \u2013 {words}" for arm, words in called.items()]
        pages = [
            link.rpartition("/")[2].partition("#")[0]
            for link in start.locator("a").evaluate_all("all => all.map(a => a.href)")
        ]
        assert pages[0] == pages[1]


@in_browser
@pytest.mark.slow
def test_it_is_walked_by_keys_and_escape_comes_back_to_where_one_was(chromium, index):
    with browser.tab(chromium) as tab:
        tab.goto(f"{index.as_uri()}#arm={B}")
        places = shown(tab)
        focused = lambda: tab.evaluate("document.activeElement.dataset.place")  # noqa: E731
        tab.keyboard.press("ArrowRight")
        assert focused() == places[0]
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowDown")
        columns = tab.eval_on_selector_all("#episodes li", "all => { const tops = all.filter(c => c.offsetParent)"
            ".map(c => c.offsetTop); return tops.filter(top => top === tops[0]).length; }")  # fmt: skip
        assert focused() == places[columns]
        tab.keyboard.press("Enter")
        tab.wait_for_url(f"**/{places[columns]}*")
        assert tab.get_by_role("heading", level=1).inner_text().startswith(f"{B}: task ")
        tab.keyboard.press("Escape")
        tab.wait_for_url("**/index.html*")
        assert shown(tab) == places and tab.locator("[name=arm]").input_value() == B
        assert focused() == places[columns]
        tab.go_back()
        tab.go_back()
        assert focused() == places[columns]  # the browser's own way back
        tab.keyboard.press("Escape")
        assert len(shown(tab)) == 4 * len(TASKS) * len(ARMS)


@in_browser
@pytest.mark.slow
def test_without_scripts_nothing_is_hidden(chromium, index, run):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{index.as_uri()}#arm={B}")
    assert tab.locator("#episodes li:visible").count() == len(run.episodes)
    assert tab.locator("form").count() == 0 and not tab.locator("#chosen").is_visible()
    context.close()
