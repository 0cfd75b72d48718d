"""Colours of the figures as colour-blind readers see them (simulated), and against the white of the page."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE

from flashtrail.report import checkup_figures, palette, run_figures, sweep_figures, timeline

SEEN_BY = (None, "deuteranomaly", "protanomaly", "tritanomaly")
APART = 10.0  # distance in CAM02-UCS; 1 is just noticeable side by side
# Colours that stand in one figure; a colour with a hatching or a mark of its own is told apart by that as well.
FIGURES = {
    "success of arms": [(colour, "") for colour in (palette.BLUE, palette.ORANGE, palette.GREEN, palette.PURPLE)],
    "routes": [(palette.ORANGE, ""), *((colour, hatch) for _, colour, hatch in run_figures._CAUSES.values())],
    "latency": [(colour, run_figures.ROUTE_MARKS[route]) for route, colour in run_figures.ROUTE_COLOURS.items()],
    "stages": [(colour, hatch) for _, colour, hatch in run_figures.STAGES.values()],
    "ends": [(colour, hatch) for _, colour, hatch in run_figures.ENDS.values()],
    "first closing": [
        (colour, hatch) for name, (_, colour, hatch) in checkup_figures.LOOKS.items() if name != "success"
    ],
    "control steps": list(sweep_figures.STEPS.values()),
    "latencies": sweep_figures.CLOCKS,
}
BACKGROUND = {palette.PALE}  # beside a count or a label, never a mark of its own


def channels(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def seen(colour: str, kind: str | None) -> np.ndarray:
    if kind is None:
        return channels(colour)
    space = {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}
    return np.clip(cspace_convert(channels(colour), space, "sRGB1"), 0, 1)


def distance(one: str, other: str, kind: str | None) -> float:
    return float(deltaE(seen(one, kind), seen(other, kind), input_space="sRGB1"))


@pytest.mark.parametrize("name", FIGURES)
def test_colours_of_a_figure_are_told_apart_by_everyone(name):
    for (one, mark), (other, its_mark) in combinations(FIGURES[name], 2):
        for kind in SEEN_BY if mark == its_mark else ():
            assert distance(one, other, kind) > APART, f"{one} and {other} to {kind or 'most readers'}"


def test_marks_stand_out_from_white():
    """WCAG 2.1, 1.4.11: at least 3:1 for whatever is needed to understand a figure."""
    colours = {colour for found in FIGURES.values() for colour, _ in found} - BACKGROUND
    colours |= {timeline.BLUE, timeline.ORANGE, timeline.GREEN, timeline.PURPLE, timeline.GREY, timeline.INK}
    for colour in sorted(colours):
        value = channels(colour)
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3, colour


def test_red_and_green_of_one_lightness_would_be_noticed():
    assert distance("#c05a5a", "#7d8a2e", None) > APART > distance("#c05a5a", "#7d8a2e", "deuteranomaly")
