"""Each count of a rendered report leads to what it counts, or says that it counts no episode."""

from __future__ import annotations

from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from claims.simulated import CONTROL, TASKS, write_campaign, write_reports
from report.rendered import answers, linked, marked, unlinked

from flashtrail.base import provenance
from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.report import claims_chapter, count_links, layout, page

ARMS = ["clean", "full_only", "wrist_zero_every4", "wrist_zero_all", "guard_wrist_zero_every4"]
CHAPTERS = ["baseline", "profiling", "robustness", "guard", "claims", "final"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    return write_reports(tmp_path_factory.mktemp("campaign"), ARMS, CHAPTERS)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_count_of_a_page_is_a_link_or_says_of_what_it_is(reports, chapter):
    assert unlinked(reports / f"{chapter}.html") == []


@pytest.mark.slow
def test_an_episodes_pages_have_no_count_without_a_link(reports):
    pages = list((reports / "episodes").rglob("*.html"))
    assert len(pages) > len(ARMS) and [line for path in pages for line in unlinked(path)] == []


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_count_leads_to_a_page_and_an_anchor_that_are_there(reports, chapter):
    source, seen = reports / f"{chapter}.html", linked(reports / f"{chapter}.html")
    assert len(seen) >= 4
    for count, href in seen:
        place, _, anchor = href.partition("#")
        target = source.parent / place if place else source
        assert target.is_file(), f"{count}: {href}"
        assert answers(target, anchor), f"{count}: {href}"


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["claims", "final"])
def test_a_verdicts_counts_lead_to_lists_of_as_many_episodes(reports, chapter):
    """In the matrix: n starts behind each k/n of a claim about success, k of them ended in success."""
    soup = BeautifulSoup((reports / f"{chapter}.html").read_text(), "html.parser")
    matrix = soup.find("div", attrs={"aria-label": "This run: verdicts, computed from the tables"})
    followed = []
    for link in matrix.find_all("a"):
        k, _, n = link.get_text().partition("/")
        place, _, anchor = link["href"].partition("#")
        if not n or anchor or not place.endswith("/index.html") or place.count("/") != 2:
            continue  # an id, records, or every episode
        listed = BeautifulSoup((reports / place).read_text(), "html.parser")
        rows = [cell.get_text() for cell in listed.find_all("td", attrs={"data-head": "End"})]
        assert len(rows) == int(n), f"{link}: {len(rows)} episodes"
        assert sum("success" in end for end in rows) == int(k), link
        followed.append(place)
    assert len(followed) >= 6 and len(set(followed)) >= 3


@pytest.mark.slow
def test_marked_counts_are_others_or_of_no_episode(reports):
    """Nothing of this run hides behind a mark: published figures are in their file, the control in its own."""
    figures = published.load()
    rates = {f"{entry.count}/{entry.n}" for entry in figures.success} | {"28/60", "16/60"}
    rates |= {
        f"{sum(e.count for e in figures.success if (e.source, e.method) == key)}/2000" for key in _methods(figures)
    }
    verdicts = provenance.json_load(reports.parent / "claims.json")["claims"]
    rates |= {count for claim in verdicts for count in count_links.COUNT.findall(claim["seed"]["figures"])}
    rates |= {claim["short"] for claim in verdicts if claim["test"] == "published_checks"}
    own = {f"{round(CONTROL['share_within_tau'] * CONTROL['queries'])}/{CONTROL['queries']}"}
    own.add(f"{CONTROL['histogram'][0]}/{CONTROL['queries']}")
    for chapter in CHAPTERS:
        for count, mark in marked(reports / f"{chapter}.html"):
            assert count in {"published": rates, "profile": own}[mark], f"{chapter}: {count} marked {mark}"
    assert {mark for _, mark in marked(reports / "final.html")} == {"published", "profile"}


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["baseline", "robustness", "final"])
def test_the_control_stands_in_the_table_of_acceptance(reports, chapter):
    soup = BeautifulSoup((reports / f"{chapter}.html").read_text(), "html.parser")
    table = soup.find("div", attrs={"aria-label": "Routes and accepted prefix (of 12)"})
    cells = [cell.get_text() for cell in table.find_all("tr")[-1].find_all("td")]
    mean = sum(accepted * count for accepted, count in enumerate(CONTROL["histogram"])) / CONTROL["queries"]
    assert cells[0].startswith("control: full route against itself") and "pi0_nano" in cells[0]
    assert f"{CONTROL['queries']} queries" in cells and f"{mean:.2f}" in cells


def _methods(figures: published.Published) -> set[tuple[str, str]]:
    return {(entry.source, entry.method) for entry in figures.success if entry.n == 500}


def test_a_count_without_a_link_is_noticed(tmp_path):
    rows = [{"a": page.link("5/8", "x.html"), "b": count_links.apart("4/15", "published"), "c": "6/15 of them"}]
    path = tmp_path / "page.html"
    path.write_text(layout.document("27/30", page.table(rows, caption="Of results/3/4"), "end"))
    assert unlinked(path) == ["6/15 in <td>: 6/15 of them"]
    assert linked(path) == [("5/8", "x.html")] and marked(path) == [("4/15", "published")]


def test_counts_in_a_sentence_are_linked_in_turn():
    text = count_links.in_text(
        "a won 3/5, b 2/5 (1,875/2,000) of libero/0/1", [lambda c: page.bold(c), lambda c: page.code(c)]
    )
    assert text == ("a won <strong>3/5</strong>, b <code>2/5</code> (<code>1,875/<wbr>2,000</code>) of libero/0/1")
    assert count_links.in_text("a < b", [page.bold]) == "a &lt; b"


def test_a_verdict_links_its_arms_in_order_and_its_episodes_by_name(tmp_path):
    inputs = write_campaign(tmp_path, ["clean", "full_only"], episodes=1)
    run = Campaign(inputs | {"pages": [f"reports/episodes/{arm}/index.html" for arm in ("clean", "full_only")]})
    claim = {"id": "C1", "test": "paired_difference", "arms": ["full_only", "clean"]}
    words = count_links.of_claim(run, claim, "full_only 3/3, clean 2/3", None)
    assert words.index('episodes/full_only/index.html">3/3') < words.index('episodes/clean/index.html">2/3')
    rows = claims_chapter._rows(run, claim | {"rows": {"only_arm": ["libero_goal/2/0/0"], "failed": []}})
    assert rows is not None and "task 2, initial state 0" in rows
    for arm in claim["arms"]:
        assert f'href="episodes/{arm}/libero_goal_task_2_init_000_repeat_0.html"' in rows


def test_a_pooled_count_leads_to_every_episode_or_to_the_table_of_arms(tmp_path):
    inputs = write_campaign(tmp_path, ["clean", "full_only"], episodes=1)
    pages = [f"reports/episodes/{arm}/index.html" for arm in ("clean", "full_only")]
    assert count_links.pooled(Campaign(inputs), "5/6") == "5/6"
    assert count_links.pooled(Campaign(inputs | {"pages": pages}), "5/6") == '<a href="#arms">5/6</a>'
    index = {"pages": pages, "page_index": "reports/episodes/index.html"}
    assert count_links.pooled(Campaign(inputs | index), "5/6") == '<a href="episodes/index.html">5/6</a>'
    assert count_links.pooled(Campaign(inputs | {"pages": pages[:1]}), len(TASKS)).startswith('<a href="episodes/clean')
