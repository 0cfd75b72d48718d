"""Reports in the machine's Firefox, light and dark: console, requests, overflow, keys; a fault is noticed there."""

from __future__ import annotations

from pathlib import Path

import browser
import firefox
import pytest
from claims.simulated import SUITE, write_reports
from report.test_browser import written

ARMS = ["clean", "wrist_zero_every4", "guard_wrist_zero_every4"]
EPISODE = f"episodes/{ARMS[2]}/{SUITE}_task_0_init_000_repeat_0.html"
GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
SIZES = [browser.DESK, browser.PHONE]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(firefox.executable() is None, reason=f"no Firefox on this machine: {', '.join(firefox.NAMES)}"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    """final.html through its real notebook on simulated tables, with the pages of all episodes beside it."""
    return write_reports(tmp_path_factory.mktemp("campaign"), ARMS, ["final"])


@pytest.fixture(scope="module", params=firefox.MODES)
def launched(request):
    with firefox.launched(request.param) as found:
        yield request.param, found


@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_a_page_has_no_problem(launched, reports, size):
    mode, found = launched
    with found.tab(size) as tab:
        for name in ("final.html", "episodes/index.html", EPISODE):
            assert browser.wrong(tab, reports / name) == [], name
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == GROUND[mode]
            assert tab.evaluate("innerWidth") == size[0]


def test_the_list_of_episodes_is_walked_by_keys_and_escape_comes_back(launched, reports):
    index = (reports / "episodes/index.html").as_uri()
    with launched[1].tab(browser.DESK) as tab:
        tab.goto(f"{index}#arm={ARMS[1]}")
        shown = "[...document.querySelectorAll('#episodes li:not([hidden]) a')].map(a => a.dataset.place)"
        places, focused = tab.evaluate(shown), "document.activeElement.dataset.place"
        assert len(places) > 3 and all(place.startswith(f"{ARMS[1]}/") for place in places)
        tab.press("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight")
        assert tab.evaluate(focused) == places[1]
        tab.press("Enter")
        tab.wait(f"location.pathname.endsWith('{places[1]}')")
        assert tab.evaluate("document.querySelector('h1').textContent").startswith(f"{ARMS[1]}: task ")
        tab.press("Escape")
        tab.wait("location.pathname.endsWith('/index.html')")
        tab.wait(f"{focused} === '{places[1]}'")
        tab.press("Escape")
        assert len(tab.evaluate(shown)) > len(places)


def test_a_folded_section_opens_where_the_address_leads_into_it(launched, reports):
    """On a phone sections but the first are folded; a card leads to a row in the first, the contents to the others."""
    with launched[1].tab(browser.PHONE) as tab:
        tab.goto((reports / "final.html").as_uri())
        heads = tab.evaluate("[...document.querySelectorAll('main h2')].map(h => [h.id, !!h.closest('details.part')])")
        assert len(heads) > 8 and [folded for _, folded in heads] == [False] + [True] * (len(heads) - 1)
        assert tab.evaluate("document.querySelectorAll('details.part[open]').length") == 0
        tab.evaluate(f"() => document.querySelector('.contents a[href=\"#{heads[-1][0]}\"]').click()")
        tab.wait("document.querySelectorAll('details.part[open]').length === 1")
        assert tab.evaluate(f"document.getElementById('{heads[-1][0]}').closest('details').open")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<script>throw new Error('broken')</script>", "console: "),
        ('<img alt="from afar" src="https://example.org/a.png">', "console: stopped: https://example.org/a.png"),
        ('<img alt="not there" src="nowhere.png">', "image missing: not there"),
        ('<div style="width: 900px">wide</div>', "wider than the window: 9"),
    ],
    ids=["script", "request", "image", "overflow"],
)
def test_what_is_wrong_is_noticed(launched, tmp_path, body, problem):
    with launched[1].tab(browser.PHONE) as tab:
        found = browser.wrong(tab, written(tmp_path, body))
        assert any(line.startswith(problem) for line in found), found
        assert browser.wrong(tab, written(tmp_path, "")) == []


def test_a_request_that_a_policy_would_have_stopped_is_noticed(launched, tmp_path):
    path = tmp_path / "page.html"
    image = '<img alt="x" src="http://127.0.0.1:45999/other.png">'
    path.write_text(f'<!DOCTYPE html><html lang="en"><title>t</title><main>{image}</main>')
    with launched[1].tab(browser.DESK) as tab:
        assert "asks for http://127.0.0.1:45999/other.png" in browser.wrong(tab, path)
