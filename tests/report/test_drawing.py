"""Figures within a page: their colours are the page's, their ids their own, and they load nothing."""

import re
from html import unescape

import pytest
from matplotlib import pyplot as plt

from flashtrail.report import drawing, page, palette, plotting, rendering


def drawn(colour: str) -> str:
    with plotting.style():
        figure, axes = plotting.axes_of(1.0)
        axes.plot([0, 1], [0, 1], "o", color=colour, label="a & b")
        axes.legend()
        return drawing.svg(figure, 'one "quoted" name')


def test_a_figures_colours_follow_the_page():
    text = drawn(palette.BLUE)
    assert "var(--blue)" in text and "var(--ink)" in text and "var(--ground)" in text
    assert not re.search(r": ?#", text) and "paper" not in text
    assert 'aria-label="one &#34;quoted&#34; name"' in text and text.endswith("</svg>")


def test_a_figure_with_other_colours_stays_on_light_paper():
    text = drawn("#123456")
    assert 'class="plot paper"' in text and "#123456" in text and "var(--" not in text


def test_figures_of_one_page_share_no_id_and_no_style():
    one, other = drawn(palette.BLUE), drawn(palette.ORANGE)
    ids = [re.findall(r'\bid="([^"]+)"', text) for text in (one, other)]
    assert all(len(found) == len(set(found)) > 3 for found in ids) and not {*ids[0]} & {*ids[1]}
    for text, own in zip((one, other), ids, strict=True):
        assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)} <= {*own}
    assert "<style" not in one + other and rendering.external_references(one + other) == []


def test_a_mark_tells_its_words_as_a_title_and_no_other_has_an_id():
    with plotting.style():
        figure, axes = plotting.axes_of(1.0)
        (dot,) = axes.plot([0], [0], "o", color=palette.BLUE)
        drawing.told(dot, 'clean, "task" <0>: 7/9 & more')
        text = drawing.svg(figure, "x")
    (title,) = re.findall(r"<g><title>([^<]*)</title>", text)
    assert unescape(title) == 'clean, "task" <0>: 7/9 & more' and "told:" not in text


def test_a_drawn_figure_is_closed():
    before = plt.get_fignums()
    page.figure(plotting.axes_of(1.0)[0], "empty", "nothing")
    assert plt.get_fignums() == before


@pytest.mark.parametrize("name", ["href", "xlink:href"])
def test_a_figure_that_would_load_something_is_noticed(name):
    assert len(rendering.external_references(f'<svg><image {name}="https://x.example/a.png"/></svg>')) == 1
    assert rendering.external_references(f'<svg><use {name}="#a"/></svg>') == []
