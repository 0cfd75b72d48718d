"""Reports as a browser shows them: opened, measured, sorted. A page with each fault shows that it is noticed."""

from __future__ import annotations

import contextlib
import functools
import io
import unicodedata
from pathlib import Path

import browser
import kit
import pytest
from claims.simulated import METADATA, SUITE, write_reports
from PIL import Image
from pypdf import PdfReader
from report.rendered import answers

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.outlook import Shard, State
from flashtrail.report import early, layout, page, rendering
from flashtrail.tables import links, schemas

LONG = "dropout_trained_wrist_zero_every4"  # a name that does not fit on a phone
ARMS = ["clean", "wrist_zero_every4", "guard_wrist_zero_every4", LONG]
SIZES = [browser.DESK, browser.PHONE]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.executable() is None, reason=f"no browser on this machine: {', '.join(browser.NAMES)}"),
]


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture(scope="module")
def problems(chromium):
    """What is wrong with a page in a window, found once: no test changes a page of `reports`."""
    wrong = browser.wrong
    with contextlib.ExitStack() as tabs:
        sides = {size: tabs.enter_context(browser.tab(chromium, size)) for size in SIZES}
        yield functools.cache(lambda path, size: wrong(sides[size], path))


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    """final.html through its real notebook on simulated tables, with the pages of all episodes beside it."""
    root = tmp_path_factory.mktemp("campaign")
    for arm in ARMS:
        write_sheet(root, arm)
    return write_reports(root, ARMS, ["claims", "final"])


def write_sheet(root: Path, arm: str) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (448, 256), (90, 90, 90)).save(picture, "JPEG")
    key = {"arm": arm, "suite": SUITE, "task_id": 0, "init_state": 0, "repeat": 0}
    path = root / "rollouts" / arm / "task_0" / "sheets.parquet"
    row = {**key, "outcome": "success", "jpeg": picture.getvalue()}
    schemas.write_table(path, [row], schemas.SHEETS, METADATA)


def test_the_final_report_is_one_small_file_of_its_own(reports):
    text = (reports / "final.html").read_text()
    assert len(text.encode()) < 5_000_000 and rendering.external_references(text) == []
    assert text.count("<script") == 1 and layout.content_policy(parts=["filter"]) in text


@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
@pytest.mark.parametrize(
    "name",
    [
        "final.html",
        "episodes/index.html",
        f"episodes/{LONG}/index.html",
        f"episodes/guard_wrist_zero_every4/{SUITE}_task_0_init_000_repeat_0.html",
    ],
)
def test_a_page_has_no_problem(problems, reports, name, size):
    assert problems(reports / name, size) == []


def test_every_link_of_the_report_opens(chromium, reports):
    """Counts lead to their episodes and claims to their details, an episode to its arm, the index to both."""
    with browser.opened(chromium, reports / "final.html") as found:
        whole = "all => all.map(a => new URL(a.getAttribute('href'), location).href)"
        links = found.page.eval_on_selector_all("a[href]", whole)
    inside = {link for link in links if link.startswith("file:")}
    assert len(inside) > 20
    for link in sorted(inside):
        place, _, anchor = link.removeprefix("file://").partition("#")
        assert Path(place).is_file(), link
        assert answers(place, anchor), link


@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_a_table_sorts_by_mouse_and_by_keyboard_and_says_so(chromium, reports, size):
    with browser.opened(chromium, reports / "final.html", size) as found:
        found.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        table = found.page.get_by_role("region", name="Success, all tasks")
        counts = lambda: table.locator("tbody tr td:nth-child(2)").all_inner_texts()  # noqa: E731
        given, head = counts(), table.get_by_role("columnheader", name="k/n")
        shares = lambda: [int(k) / int(n) for k, n in (cell.split("/") for cell in counts())]  # noqa: E731
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending" and shares() == sorted(shares())
        head.get_by_role("button").focus()
        found.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending" and shares() == sorted(shares(), reverse=True)
        other = table.get_by_role("columnheader", name="Arm")
        other.get_by_role("button").click()
        assert head.get_attribute("aria-sort") is None and other.get_attribute("aria-sort") == "ascending"
        names = table.locator("tbody tr td:first-child").all_inner_texts()
        assert names == sorted(names)
        other.get_by_role("button").click()
        found.page.keyboard.press("Space")
        assert other.get_attribute("aria-sort") is None and counts() == given
        assert found.messages == []


def test_empty_cells_stay_last_and_numbers_are_not_words(chromium, tmp_path):
    rows = [{"n": text} for text in ("10", "9", "\u2013", "\u22123", "1,000")]
    path = written(tmp_path, page.table(rows, {"n": "N"}))
    with browser.opened(chromium, path) as found:
        cells = lambda: found.page.locator("tbody td").all_inner_texts()  # noqa: E731
        found.page.get_by_role("button").click()
        assert cells() == ["\u22123", "9", "10", "1,000", "\u2013"]
        found.page.get_by_role("button").click()
        assert cells() == ["1,000", "10", "9", "\u22123", "\u2013"]


def test_without_scripts_a_table_is_as_it_was_given(chromium, reports):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((reports / "final.html").as_uri())
    assert tab.locator("th button").count() == 0 and tab.locator("table").count() > 5
    context.close()


def test_the_first_screen_has_the_answer(chromium, reports):
    """The sentence, what is open, the figure and the verdicts, on a desk's screen, without scrolling."""
    with browser.opened(chromium, reports / "final.html") as found:
        tops = {
            name: found.page.locator(name).first.bounding_box() for name in (".said", ".banner", ".tradeoff", ".card")
        }
        assert all(box is not None for box in tops.values())
        assert tops[".banner"]["y"] + tops[".banner"]["height"] < 600
        assert max(box["y"] for box in tops.values()) < 600


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_the_kit_has_no_problem_in_either_mode(chromium, tmp_path, scheme, size):
    """Contrast, overflow, console, requests: of every component."""
    kit.main([str(tmp_path / "kit.html")])
    with browser.tab(chromium, size) as tab:
        tab.emulate_media(color_scheme=scheme)
        assert browser.wrong(tab, tmp_path / "kit.html") == []
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]


def test_every_card_and_mark_is_reached_by_keyboard(chromium, reports):
    with browser.opened(chromium, reports / "final.html") as found:
        wanted = found.page.evaluate("document.querySelectorAll('.beside > .cards > ul .whole, a.arm').length")
        reached = set()
        for _ in range(120):
            found.page.keyboard.press("Tab")
            name = found.page.evaluate(
                """() => { const e = document.activeElement;
                  const ours = e.matches(".beside > .cards > ul .whole, a.arm");
                  return ours ? e.getAttribute("href") + e.textContent : "" }"""
            )
            reached |= {name} - {""}
        assert len(reached) == wanted > 8


def test_a_card_opens_its_row_and_the_filter_needs_no_script(chromium, reports):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((reports / "final.html").as_uri())
    rows = tab.get_by_role("region", name="This run: verdicts").locator("tbody tr")
    every = rows.count()
    supported = rows.filter(has=tab.locator(".verdict.supported")).count()
    tab.locator(".filter [value=supported]").check()
    assert 0 < sum(rows.nth(i).is_visible() for i in range(every)) == supported < every
    tab.locator(".filter [value=all]").check()
    tab.locator(".card.inconclusive .whole").first.click()
    assert tab.url.split("#")[1].startswith("claim-")
    assert tab.locator("tr:has(:target)").is_visible()
    context.close()


def test_contents_stay_in_view_on_a_desk_and_are_folded_on_a_phone(chromium, reports):
    for size in SIZES:
        with browser.opened(chromium, reports / "final.html", size) as found:
            link = found.page.locator(".contents a").last
            found.page.evaluate("scrollTo({top: document.body.scrollHeight / 2, behavior: 'instant'})")
            found.page.wait_for_timeout(100)
            box = link.bounding_box()
            assert (box is not None and 0 <= box["y"] < size[1] and link.is_visible()) == (size == browser.DESK)
            current = found.page.locator(".contents [aria-current]")
            assert current.count() == 1 and current.inner_text() != "Top"


def test_sections_are_folded_on_a_phone_and_open_where_an_address_leads_into_one(chromium, reports):
    for size in SIZES:
        with browser.opened(chromium, reports / "final.html", size) as found:
            parts = found.page.locator("details.part")
            assert (parts.count() > 7) == (size == browser.PHONE)
            assert found.page.locator("details.part[open]").count() == 0
            assert found.page.locator("main > h2").count() >= 1  # the first stays open
            for link in (found.page.locator(".contents a").last, found.page.locator(f"a[href='#{links.ARMS}']").first):
                if not link.count():
                    continue
                target = link.get_attribute("href")
                found.page.evaluate("target => { location.hash = target; }", target)
                found.page.wait_for_timeout(100)
                assert found.page.locator(target).is_visible()


def test_films_play_in_view_only_and_never_against_the_readers_wish(chromium, tmp_path):
    """A film without pictures still tells whether it was asked to play."""
    film = (
        '<figure><video muted loop controls src="data:video/mp4;base64,AAAA"></video><span class="now"></span></figure>'
    )
    path = written(tmp_path, f'<section class="films">{film}</section><p style="height: 3000px">x</p>')
    count = "HTMLMediaElement.prototype.play = function() { window.played = (window.played || 0) + 1;"
    for motion, wanted in (("no-preference", 1), ("reduce", 0)):
        with browser.tab(chromium) as tab:
            tab.emulate_media(reduced_motion=motion)
            tab.add_init_script(f"{count} return Promise.resolve(); }}")
            tab.goto(path.as_uri())
            tab.wait_for_timeout(300)
            assert tab.evaluate("window.played || 0") == wanted
            tab.evaluate("scrollTo({top: 2000, behavior: 'instant'})")
            tab.wait_for_timeout(300)
            assert tab.evaluate("document.querySelector('video').paused")


@pytest.mark.parametrize(
    "name",
    [
        "final.html",
        "claims.html",
        f"episodes/{LONG}/index.html",
        f"episodes/clean/{SUITE}_task_0_init_000_repeat_0.html",
    ],
)
def test_on_paper_nothing_is_cut_and_what_is_folded_is_open(chromium, reports, name):
    """A4 less its margins is 680 px wide. Links are not told from text, and nothing dark is printed but figures."""
    with browser.opened(chromium, reports / name, (680, 960)) as found:
        found.page.emulate_media(media="print")
        found.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        assert found.page.locator("details:not([open])").count() == 0
        wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
        assert found.page.evaluate(f"{wide}.map(e => e.tagName + ' ' + e.textContent.slice(0, 60))") == []
        assert found.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        dark = """() => [...document.querySelectorAll("body, body *:not(svg):not(svg *):not(video)")].filter(e => {
          const rgb = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
          return rgb[3] !== 0 && Math.min(...rgb.slice(0, 3)) < 230; }).map(e => e.outerHTML.slice(0, 80))"""
        assert found.page.evaluate(dark) == []
        looks = "[...document.querySelectorAll('a')].map(a => getComputedStyle(a).textDecorationLine)"
        assert set(found.page.evaluate(looks)) <= {"none"}


def test_a_tables_head_is_on_each_of_its_pages(chromium, tmp_path):
    """Chromium leaves buttons out of a head that it repeats; a table that goes on would have an empty one."""
    rows = [{"n": number} for number in range(200)]
    said = printed(chromium, written(tmp_path, page.table(rows, {"n": "Uncommon"})))
    assert len(said) >= 4 and [text.count("Uncommon") for text in said] == [1] * len(said)


def test_on_paper_no_heading_is_left_behind_and_pages_are_numbered(chromium, reports):
    """What ends a page is never a heading or a claim's statement: they go with what they are about."""
    said = printed(chromium, reports / "claims.html")
    verdicts = provenance.json_load(reports.parent / "claims.json")["claims"]
    last = [[line for line in text.splitlines() if line.strip()][-2:] for text in said]
    heads = [f"{claim['id']}: {claim['title']}" for claim in verdicts] + [claim["statement"] for claim in verdicts]
    heads += ["Matrix", "One by one", "Words", "What is not claimed"]
    assert len(said) >= 8 and not {line for lines in last for line in lines} & set(heads)
    assert all(f"{number} of {len(said)}" in text for number, text in enumerate(said, 1))


def test_paper_names_what_it_leaves_to_the_file(chromium, reports):
    text = " ".join(" ".join(printed(chromium, reports / "final.html")).split())  # lines break anywhere
    left = {
        "What others printed, beside ours": "Follows from its rows",
        "The same by route": "order statistics and take",
    }
    for name, inside in left.items():
        assert f"{name}: in the file" in text and inside not in text.replace(name, "")
    assert "Success, all tasks" in text


def printed(chromium, path: Path) -> list[str]:
    """The text of each page of a report as it is printed on A4."""
    with browser.opened(chromium, path) as found:
        sheets = PdfReader(io.BytesIO(found.page.pdf(format="A4"))).pages
    return [unicodedata.normalize("NFKC", sheet.extract_text()) for sheet in sheets]  # a font may have "fi" as one sign


def test_every_kind_of_page_is_checked_and_a_screenshot_left(chromium, reports, problems, monkeypatch):
    monkeypatch.setattr(browser, "wrong", lambda tab, path: problems(path, tuple(tab.viewport_size.values())))
    paths, said = browser.check(chromium, reports)
    names = {str(path.relative_to(reports)) for path in paths}
    assert {"final.html", "episodes/index.html", "episodes/clean/index.html"} <= names
    assert len(paths) == 3 + len(ARMS) * (1 + 3) and said == []
    assert Image.open(reports / "final.png").size == browser.DESK
    assert Image.open(reports / "final-phone.png").size == browser.PHONE
    assert browser.first_paint_ms(chromium, reports / "final.html", browser.PHONE) > 0


@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_the_page_of_a_run_under_way_has_no_problem_and_is_no_report(chromium, tmp_path, size):
    shards = {
        Shard(arm, task, tmp_path, ("a", "b")): State({"a": "success"} if task else {})
        for arm in ARMS
        for task in range(3)
    }
    early.write(tmp_path / "final.html", early.text(shards, {"Now": "roll out shard"}))
    assert browser.problems(chromium, tmp_path / "final.html", size) == []
    with pytest.raises(UserError, match="the page of a run that has not ended"):
        browser.check(chromium, tmp_path)


def test_the_page_of_a_run_under_way_reads_itself_again_unless_told_not_to(chromium, tmp_path):
    page, text = tmp_path / "final.html", early.text({}, {})
    page.write_text(text.replace(" checked>", ">").replace('data-seconds="60"', 'data-seconds="0.5"'))
    with browser.opened(chromium, page) as found:
        page.write_text(text.replace("<h1>", "<h1>now "))
        found.page.wait_for_timeout(1500)
        assert found.page.get_by_role("heading", level=1).inner_text() == "0 of 0 episodes"
        found.page.get_by_role("checkbox").check()
        found.page.get_by_text("now 0 of 0 episodes").wait_for()


def test_a_directory_without_a_report_is_refused_in_one_line(chromium, tmp_path):
    with pytest.raises(UserError, match=r"final\.html does not exist: run `make report` first"):
        browser.check(chromium, tmp_path)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<script>throw new Error('broken')</script>", "console: "),
        ('<img alt="from afar" src="https://example.org/a.png">', "image missing: from afar"),
        ('<img alt="not there" src="nowhere.png">', "image missing: not there"),
        ('<div style="width: 900px">wide</div>', "wider than the window: 9"),
        ('<p style="color: #999">faint</p>', "color-contrast (1): "),
        ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', "image-alt (1): "),
    ],
    ids=["script", "request", "image", "overflow", "contrast", "alt"],
)
def test_what_is_wrong_is_noticed(chromium, tmp_path, body, problem):
    found = browser.problems(chromium, written(tmp_path, body))
    assert any(line.startswith(problem) for line in found), found


def test_a_tab_tells_of_each_page_that_it_visits_what_is_wrong_with_that_one(chromium, tmp_path):
    bodies = {
        "good": "",
        "throws": "<script>throw new Error('broken')</script>",
        "asks": '<img alt="x" src="other.png">',
    }
    paths = {name: written(tmp_path, body).rename(tmp_path / f"{name}.html") for name, body in bodies.items()}
    alone = {name: browser.problems(chromium, path) for name, path in paths.items()}
    assert [bool(found) for found in alone.values()] == [False, True, True]
    with browser.tab(chromium, browser.PHONE) as tab:
        for name in ("good", "throws", "good", "asks", "asks", "good"):
            assert browser.wrong(tab, paths[name]) == alone[name], name


def test_a_request_that_a_policy_would_have_stopped_is_noticed(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text('<!DOCTYPE html><html lang="en"><title>t</title><main><img alt="x" src="other.png"></main>')
    found = browser.problems(chromium, path)
    assert any(line.startswith("asks for file:") and line.endswith("other.png") for line in found)


def written(directory: Path, body: str) -> Path:
    path = directory / "page.html"
    path.write_text(layout.document("a page", f"<h1>A page</h1>{body}", "end"))
    return path
