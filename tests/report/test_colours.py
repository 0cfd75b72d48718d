"""Colours of pages and figures, light and dark: as colour-blind readers see them (simulated), against the ground."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE

from flashtrail.report import checkup_chapter, figures, palette, running_chapter

SEEN_BY = (None, "deuteranomaly", "protanomaly", "tritanomaly")
APART = 10.0  # distance in CAM02-UCS; 1 is just noticeable side by side
# Colours that stand in one figure; a colour with a hatching or a mark of its own is told apart by that as well.
FIGURES = {
    "success of arms": [(colour, "") for colour in (figures.BLUE, figures.ORANGE, figures.GREEN, figures.PURPLE)],
    "routes": [(figures.ORANGE, ""), *((colour, hatch) for _, colour, hatch in figures._CAUSES.values())],
    "latency": [(colour, figures.ROUTE_MARKS[route]) for route, colour in figures.ROUTE_COLOURS.items()],
    "stages": [(colour, hatch) for _, colour, hatch in figures.STAGES.values()],
    "ends": [(colour, hatch) for _, colour, hatch in figures.ENDS.values()],
    "first closing": [
        (colour, hatch) for name, (_, colour, hatch) in checkup_chapter.LOOKS.items() if name != "success"
    ],
    "control steps": list(running_chapter._LOOKS.values()),
    "latencies": running_chapter._LINES,
}
BACKGROUND = {figures.PALE}  # beside a count or a label, never a mark of its own


def channels(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def seen(colour: str, kind: str | None) -> np.ndarray:
    if kind is None:
        return channels(colour)
    space = {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}
    return np.clip(cspace_convert(channels(colour), space, "sRGB1"), 0, 1)


def distance(one: str, other: str, kind: str | None) -> float:
    return float(deltaE(seen(one, kind), seen(other, kind), input_space="sRGB1"))


MODES = {"light": 0, "dark": 1}
WORDS = ("ink", "soft", "accent", "supported", "refuted", "inconclusive", "not-tested")
MARKS = ("blue", "orange", "green", "purple", "navy", "grey", "ink")


def in_mode(colour: str, mode: int) -> str:
    """A figure's colour as a page of this mode shows it."""
    named = palette.named(colour)
    assert named, f"{colour} is not the palette's"
    return palette.COLOURS[named.removeprefix("var(--").removesuffix(")")][mode]


def contrast(one: str, other: str) -> float:
    """WCAG 2.1's ratio, 1 to 21."""
    values = (channels(colour) for colour in (one, other))
    linear = (np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4) for v in values)
    low, high = sorted(float(value @ [0.2126, 0.7152, 0.0722]) for value in linear)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FIGURES)
def test_colours_of_a_figure_are_told_apart_by_everyone(name, mode):
    shown = [(in_mode(colour, MODES[mode]), mark) for colour, mark in FIGURES[name]]
    for (one, mark), (other, its_mark) in combinations(shown, 2):
        for kind in SEEN_BY if mark == its_mark else ():
            assert distance(one, other, kind) > APART, f"{one} and {other} to {kind or 'most readers'}"


@pytest.mark.parametrize("mode", MODES)
def test_marks_and_words_stand_out_from_the_ground(mode):
    """WCAG 2.1: at least 3:1 for whatever is needed to understand a figure (1.4.11), 4.5:1 for words (1.4.3)."""
    at = {name: pair[MODES[mode]] for name, pair in palette.COLOURS.items()}
    drawn = {colour for found in FIGURES.values() for colour, _ in found} - BACKGROUND
    for colour in {*(in_mode(colour, MODES[mode]) for colour in drawn), *(at[name] for name in MARKS)}:
        assert contrast(colour, at["ground"]) >= 3, colour
    for name in WORDS:
        assert min(contrast(at[name], at[ground]) for ground in ("ground", "tint")) >= 4.5, name
    assert contrast(at["ink"], at["mark"]) >= 4.5 and contrast(at["accent"], at["mark"]) >= 4.5
    inside = {"ink": "pale", "deep": "orange", "ground": "blue"}  # counts within bars: figures._inside
    for words, bar in inside.items():
        assert contrast(at[words], at[bar]) >= 4.5, f"{words} on {bar}"


def test_every_colour_of_the_palette_has_one_name():
    light = [pair[0] for pair in palette.COLOURS.values()]
    assert {in_mode(colour, 0) for colour in light} == set(light)
    roles = {palette.COLOURS[colour][0] for colour in palette.ROLES.values()}
    assert roles <= {colour for colour, _ in FIGURES["success of arms"]}


def test_red_and_green_of_one_lightness_would_be_noticed():
    assert distance("#c05a5a", "#7d8a2e", None) > APART > distance("#c05a5a", "#7d8a2e", "deuteranomaly")
