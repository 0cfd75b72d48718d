"""Figures of the drills: counts stand in every cell and can be read on any shade; no mark needs its colour."""

from __future__ import annotations

import numpy as np
import pytest
from drills import made
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from flashtrail.drills.predicates import NAMES
from flashtrail.report import drills_figures


def luminance(colour: object) -> float:
    value = np.array(to_rgb(colour))
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def matrix(share: float) -> dict:
    return {arm: {name: {"k": round(share * 40), "n": 40, "rate": share} for name in NAMES} for arm in NAMES}


@pytest.mark.parametrize("share", np.linspace(0, 1, 41))
def test_every_count_is_written_and_stands_out_from_its_cell(share):
    drawing = drills_figures.confusion(matrix(share))
    axes = drawing.axes[0]
    faces = {round(p.get_x() + 0.47): p.get_facecolor()[:3] for p in axes.patches if p.get_y() < 0}
    texts = [text for text in axes.texts if text.get_position()[1] == 0]
    assert len(texts) == len(faces) == len(NAMES) and len(axes.texts) == len(NAMES) ** 2
    for text in texts:
        one, other = sorted((luminance(text.get_color()), luminance(faces[round(text.get_position()[0])])))
        assert (other + 0.05) / (one + 0.05) >= 4.5 and text.get_text() == f"{round(share * 40)}/40"
    plt.close(drawing)


def test_an_unjudged_cell_is_a_dash_and_not_a_zero():
    cells = matrix(0.0)
    cells["no_flip"]["long_chunk"] = {"k": 0, "n": 0, "rate": None}
    drawing = drills_figures.confusion(cells)
    assert [text.get_text() for text in drawing.axes[0].texts].count("\u2013") == 1
    plt.close(drawing)


def test_every_episode_is_a_point_and_the_bounds_are_lines():
    found = {"clean": [{"features": {"reach": float(i)}, "rewarded": i % 2 == 0} for i in range(5)]}
    found["blind"] = [{"features": {"reach": None}, "rewarded": False}]
    bound = made.reference().bounds["reach"]
    drawing = drills_figures.feature("reach", found, {"low": bound.low, "high": bound.high})
    axes = drawing.axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(points) == 5 and [text.get_text() for text in axes.texts] == ["not logged"]
    assert {line.get_xdata()[0] for line in axes.lines if line.get_marker() != "o"} == {bound.low, bound.high}
    assert len({line.get_markerfacecolor() for line in points}) == 2  # filled or hollow: no second hue
    plt.close(drawing)
