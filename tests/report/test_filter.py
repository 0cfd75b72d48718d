"""Which arms and tasks a report's tables show: chosen with buttons, kept in the address, and never more than hidden."""

from __future__ import annotations

from pathlib import Path

import browser
import pytest

from flashtrail.report import layout, page

ARMS = ["clean", "wrist_zero_every4", "guard_wrist_zero_every4"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.executable() is None, reason=f"no browser: {', '.join(browser.NAMES)}"),
]


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture
def path(tmp_path) -> Path:
    return written(tmp_path / "page.html", ARMS)


def written(path: Path, arms: list[str]) -> Path:
    rows = [{"arm": page.code(arm), "k": f"{n}", "0": f"{n}", "1": "2"} for n, arm in enumerate(arms)]
    by_task = page.table(rows, {"arm": "Arm", "0": "Task 0", "1": "Task 1"}, ("0", "1"), "By task", stacked=True)
    others = page.table([{"what": "radius", "value": "0.3"}], {"what": "Setting", "value": "Value"}, caption="Settings")
    link = page.link("every episode", "episodes/index.html")
    parts = [page.heading("Success"), page.table(rows, {"arm": "Arm", "k": "k"}, ("k",), "All"), by_task, others]
    body = page.join(page.header("A page", "line", link), *parts)
    path.write_text(layout.document("a page", body, "end", parts=("filter",)))
    return path


def shown(tab, table: str) -> list[str]:
    return tab.get_by_role("region", name=table).locator("tbody tr:visible td:first-child").all_inner_texts()


def test_arms_and_tasks_are_chosen_and_the_address_keeps_them(chromium, path):
    with browser.tab(chromium) as tab, browser.visited(tab, path) as found:
        bar = tab.get_by_role("region", name="What the tables show")
        bar.get_by_role("button", name=ARMS[1], exact=True).click()
        assert shown(tab, "All") == shown(tab, "By task") == [ARMS[1]] and shown(tab, "Settings") == ["radius"]
        assert bar.get_by_role("link").get_attribute("href") == f"episodes/index.html#arm={ARMS[1]}"
        bar.get_by_role("button", name="clean").focus()
        tab.keyboard.press("Space")
        assert shown(tab, "All") == ARMS[:2] and "2 of 3 arms" in bar.locator("output").inner_text()
        assert bar.get_by_role("link").get_attribute("href") == f"episodes/index.html#a=clean&b={ARMS[1]}"
        bar.get_by_role("button", name="task 1").click()
        heads = tab.get_by_role("region", name="By task").locator("th:visible").all_inner_texts()
        assert heads == ["Arm", "Task 1"]
        tab.reload()
        assert shown(tab, "By task") == ARMS[:2]
        for _ in range(3):
            tab.go_back()
        assert shown(tab, "All") == ARMS and found.messages == found.requests == []


def test_a_link_opens_it_filtered_and_another_anchor_leaves_it_so(chromium, path):
    with browser.tab(chromium) as tab:
        tab.goto(f"{path.as_uri()}#arm={ARMS[2]}&arm=unknown")
        assert shown(tab, "All") == [ARMS[2]]
        tab.evaluate("location.hash = 'success'")
        assert shown(tab, "All") == [ARMS[2]]


def test_a_table_that_is_sorted_stays_filtered(chromium, path):
    with browser.tab(chromium) as tab:
        tab.goto(f"{path.as_uri()}#arm={ARMS[0]}&arm={ARMS[2]}")
        head = tab.get_by_role("region", name="All").get_by_role("button", name="k")
        head.click()
        head.click()
        assert shown(tab, "All") == [ARMS[2], ARMS[0]]


@pytest.mark.parametrize("size", [browser.DESK, browser.PHONE], ids=["desk", "phone"])
def test_it_has_no_problem(chromium, path, size):
    assert browser.problems(chromium, path, size) == []


def test_where_it_would_be_of_no_use_it_is_not_offered(chromium, tmp_path):
    with browser.tab(chromium) as tab:
        tab.goto(written(tmp_path / "two.html", ARMS[:2]).as_uri())
        assert tab.get_by_role("region", name="What the tables show").count() == 0
