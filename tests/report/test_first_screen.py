"""The first screen: the figure's places, cards by group, films of one start; on runs of every kind."""

import io
import itertools
import random
import re
from html import escape

import kit
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from flashtrail.claims.campaign import Campaign
from flashtrail.report import (
    cards,
    drawing,
    films,
    headline,
    layout,
    plotting,
    rendering,
    thumbnails,
    tradeoff,
    tradeoff_figures,
    tradeoff_places,
)
from flashtrail.report.tradeoff_places import PAGE, Point
from flashtrail.statistics import intervals
from flashtrail.statistics.intervals import Interval


@pytest.fixture(scope="module")
def run() -> Campaign:
    return kit.campaign()


def point(arm, k, n, ms, role="clean", control=None, name="a name of an arm, which is long enough for two lines"):
    wilson = intervals.rate(k, n).wilson
    return Point(arm, "words", name, role, k, n, wilson, 100, ms, Interval(ms * 0.9, ms * 1.1), control)


def test_two_claims_about_the_same_pairs_say_so(run):
    claims = {claim["id"]: claim for claim in run.claims["claims"]}
    assert claims["C8"]["arms"] == claims["F2"]["arms"]
    words = {name: str(cards.numbers(run, claims[name], None)) for name in ("C8", "F1", "F2")}
    assert 'the same comparison as <a href="#claim-C8">C8</a>' in words["F2"]
    assert not any("the same comparison" in words[name] for name in ("C8", "F1"))


# --- success against latency ---


def test_points_are_the_summaries_and_the_profile(run):
    found = {p.arm: p for p in tradeoff.points(run)}
    means = run.profile.groupby("route")["policy_ms"].mean()
    for arm, p in found.items():
        assert (p.k, p.n) == (run.summaries[arm]["success"]["k"], run.summaries[arm]["success"]["n"])
        share = (run.of_arm("rounds", arm)["route"] == "draft").mean()
        assert p.ms == pytest.approx(share * means["draft"] + (1 - share) * means["full"])
        ends = p.ms_interval
        assert (ends is None) == (arm == "full_only") and (ends is None or ends.low < p.ms < ends.high)
    arrows = {arm: p.control for arm, p in found.items() if p.control}
    assert arrows == {
        "wrist_zero_every4": "clean",
        "wrist_zero_all": "clean",
        "guard_wrist_zero_every4": "wrist_zero_every4",
    }
    assert tradeoff.ratio(list(found.values()), run) == pytest.approx(found["full_only"].ms / found["clean"].ms)


def test_without_a_profile_the_rounds_themselves_are_timed(run):
    bare = kit.campaign(["clean", "full_only"])
    bare.__dict__["profile"] = bare.profile.iloc[:0]
    found = {p.arm: p for p in tradeoff.points(bare)}
    assert found["full_only"].ms == pytest.approx(33.0) and found["clean"].ms_interval is None
    assert "in the arm\u2019s own episodes" in str(tradeoff.section(bare))
    assert tradeoff.section(Campaign({})) is None


def test_marks_stand_apart_and_names_do_not_overlap():
    """Any twelve arms: names stay within the picture, in the order of their marks, none over another."""
    draw = random.Random(1)
    for _ in range(200):
        found = [
            point(str(i), draw.choice([0, 0, 3, 9]), 9, draw.choice([8.0, 8.1, 30.0]))
            for i in range(draw.randint(1, 12))
        ]
        drawn = tradeoff_places.places(found, PAGE)
        marks = drawn["marks"]
        assert len(marks) == len(found)
        for one, other in itertools.combinations(marks, 2):
            assert max(abs(one["x"] - other["x"]), abs(one["y"] - other["y"])) >= tradeoff_places.SHIFT - 1e-9
        tops = [mark["label"] for mark in marks]
        assert tops == sorted(tops) and tops[0] > 0
        ends = [mark["label"] + tradeoff_places.LINE * (len(mark["lines"]) - 1) for mark in marks]
        assert ends[-1] <= PAGE.height
        if len(found) <= 9:
            assert all(end < top for end, top in zip(ends, tops[1:], strict=False))
        assert all(len(line) <= PAGE.letters for mark in marks for line in mark["lines"])


@pytest.mark.parametrize("most", [0.002, 0.4, 1.0, 7.0, 33.0, 592.0, 12000.0])
def test_the_axis_holds_every_point_and_has_few_ticks(most):
    drawn = tradeoff_places.places([point("a", 1, 2, most), point("b", 1, 2, most / 3)], PAGE)
    ticks = [float(name) for _, name in drawn["across"]]
    assert 3 <= len(ticks) <= 8 and ticks[-1] >= most * 1.1
    assert all(mark["right"] <= drawn["frame"]["right"] for mark in drawn["marks"])


def test_a_numeral_covers_no_mark_and_no_other_numeral():
    """Any eight arms, on the page and in a column."""
    draw = random.Random(2)
    for sheet in (PAGE, tradeoff_figures.sheet(3.25)):
        wide, high = sheet.digit
        for _ in range(100):
            found = [point(str(i), draw.choice([0, 3, 9]), 9, draw.uniform(8, 30)) for i in range(draw.randint(1, 8))]
            marks = tradeoff_places.places(found, sheet)["marks"]
            assert [mark["number"] for mark in marks] == list(range(1, len(found) + 1))
            for one, other in itertools.combinations(marks, 2):
                (x, y), (to_x, to_y) = one["numeral"], other["numeral"]
                assert abs(x - to_x) >= wide - 1e-9 or abs(y - to_y) >= high - 1e-9
            for one, other in itertools.product(marks, marks):
                assert max(abs(one["numeral"][0] - other["x"]), abs(one["numeral"][1] - other["y"])) > 6


@pytest.mark.parametrize("width", [3.25, 7.0])
def test_paper_and_page_show_the_same_points_intervals_and_arrows(run, width):
    found = tradeoff.points(run)
    on_page = tradeoff_places.places(found, PAGE)
    with plotting.style(width):
        figure = tradeoff_figures.tradeoff(found)
        (axes,) = figure.axes
        texts = " ".join(text.get_text() for text in axes.texts)
        svg = drawing.svg(figure, "x")
    assert all(f"{p.k}/{p.n}" in texts for p in found) and "Wilson 95 %" in texts and "mean time" in texts
    assert len(axes.patches) == len(on_page["arrows"]) > 0
    assert all(escape(p.said).replace("\u00a0", " ") in svg for p in found)
    numerals = [text for text in axes.texts if text.get_text() in [str(n) for n in range(1, len(found) + 1)]]
    assert bool(numerals) == (width < 5), "a column has numbers and a list, a page's width has names"


def test_boxes_are_spread_within_their_bounds():
    assert tradeoff_places.spread([0, 0, 0], [10, 10, 10], 100) == [0, 10, 20]
    assert tradeoff_places.spread([95, 96], [10, 10], 100) == [80, 90]
    assert tradeoff_places.spread([5, 50], [10, 10], 100) == [5, 50]
    assert tradeoff_places.spread([0, 0], [10, 10], 10) == [0, 5]


def test_the_figure_says_each_arm_in_words_and_has_a_table_behind_it(run):
    soup = BeautifulSoup(str(tradeoff.section(run)), "html.parser")
    said = [mark["aria-label"] for mark in soup.find_all(class_="arm")]
    assert len(said) == len(run.summaries) and all(
        re.search(r"\d+/30 = .*ms .*a round, 270\s", words) for words in said
    )
    rows = soup.find("details").find_all("tr")[1:]
    assert [row.find("code").get_text() for row in rows] == list(run.summaries)


# --- cards ---


def test_plumbing_and_published_figures_do_not_count_as_this_runs(run):
    every = run.claims["claims"]
    groups = cards.grouped(every)
    assert sorted(c["id"] for members in groups.values() for c in members) == sorted(c["id"] for c in every)
    ids = {group: {c["id"] for c in members} for group, members in groups.items()}
    assert ids["run"] == {"C5", "C6", "C8", "C9", "C10", "C11", "S1", "F1", "F2", "R1", "R2"}
    assert ids["published"] == {"P1", "P2", "P3", "P4", "K5"}
    soup = BeautifulSoup(str(cards.section(run, None)), "html.parser")
    own = soup.find("ul").find_all(class_="card")
    assert len(own) == sum(c["verdict"] != "not_tested" for c in groups["run"])
    tally = soup.find("h3").get_text().replace("\u00a0", " ")
    for verdict in ("supported", "refuted", "inconclusive", "not_tested"):
        n = sum(claim["verdict"] == verdict for claim in groups["run"])
        assert (f" {n} {verdict.replace('_', ' ')}" in tally) == (n > 0)
    untested = [c for c in soup.find_all(class_="card") if "not_tested" in c["class"]]
    assert untested and all(card.find_parent("details") for card in untested)


def test_a_card_leads_to_its_row():
    text = kit.body(kit.campaign())
    for place in re.findall(r'class="whole" href="#([^"]+)"', text):
        assert text.count(f'id="{place}"') == 1, place


# --- films ---


def test_the_films_are_of_one_start_and_tell_the_story(run):
    chosen = films.choose(run)
    assert [row["arm"] for row in chosen] == ["clean", "wrist_zero_every4", "guard_wrist_zero_every4"]
    assert len({(row["task_id"], row["init_state"], row["repeat"]) for row in chosen}) == 1
    text = str(films.section(run))
    assert text.count("<img") == 3 and "<video" not in text and rendering.external_references(text) == []


def test_a_small_film_is_embedded_and_a_large_one_is_not(run, tmp_path):
    row = run.episodes.iloc[0].to_dict() | {"video": "videos/x.mp4"}
    film = tmp_path / "clean" / "videos" / "invented_task_0_init_000_repeat_0.mp4"
    film.parent.mkdir(parents=True)
    listed = tmp_path / "clean" / "index.html"
    assert films._kept(listed, row) is None
    film.write_bytes(b"0" * films.EMBEDDED)
    assert films._kept(listed, row) == film and films._kept(None, row) is None
    film.write_bytes(b"0" * (films.EMBEDDED + 1))
    assert films._kept(listed, row) is None and films._kept(listed, row | {"video": None}) is None


def test_rounds_below_a_film_are_its_rows(run):
    rounds = run.of_arm("rounds", "guard_wrist_zero_every4")
    said = films.rounds_said(rounds[rounds["init_state"] == 0].to_dict("records"))
    assert said[0]["route"] == "full" and [one["hit"] for one in said] == [i % 4 == 0 for i in range(9)]
    assert said[0]["words"] == "round 0: full, fault" and said[4]["words"].endswith(", fault, replaced")
    assert all(0 <= one["height"] <= 1 for one in said)


def test_a_still_is_one_picture_of_the_sheet():
    sheet = Image.new("RGB", (896, 384), (0, 0, 0))
    sheet.paste((255, 255, 255), (448, 128, 672, 256))  # the seventh of twelve
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG")
    assert thumbnails.frame(b"not a picture", 12) is None
    cut = Image.open(io.BytesIO(thumbnails.frame(buffer.getvalue(), 12, words=True)))
    assert cut.size == (224, 128) and cut.getpixel((100, 60)) > (250, 250, 250)


# --- the whole, on runs of every kind ---


@pytest.mark.parametrize(
    "arms",
    [["clean"], ["full_only"], ["clean", "full_only"], ["clean", "wrist_zero_all"], ["wrist_zero_every4"], None],
    ids=lambda arms: "+".join(arms or ["every"]),
)
def test_every_kind_of_run_has_a_first_screen(arms):
    text = str(headline.section(kit.campaign(arms)))
    said = BeautifulSoup(text, "html.parser").find(class_="said").get_text()
    assert said.endswith(".") and said[0].isupper() and "None" not in text and "nan" not in said
    assert ("Undecided</strong>" in text) == ("undecided" in said)


def test_a_run_without_claims_and_one_without_anything_say_so(run):
    bare = kit.campaign(["clean", "wrist_zero_all"])
    bare.__dict__["claims"] = None
    assert "clean succeeds in 28/30 and wrist_zero_all succeeds in 0/30; no claim was evaluated." in headline.section(
        bare
    )
    assert "No episode was run and no round was timed." in headline.section(Campaign({}))


def test_the_kit_is_one_page_with_every_component(tmp_path):
    assert kit.main([str(tmp_path / "kit.html")]) == 0
    text = (tmp_path / "kit.html").read_text()
    assert rendering.external_references(text) == [] and "Simulated data" in text
    parts = {"said", "banner", "tradeoff", "cards", "films", "glance", "facts", "filter", "plot", "long", "apart"}
    classes = {name for found in re.findall(r'class="([^"]+)"', text) for name in found.split()}
    assert parts <= classes and set(cards.GROUPS.values()) <= {*re.findall(r"<h3>([\w ]+?) ?<span", text)}
    assert "Copy" in layout.SCRIPT and "data-copy" in text
