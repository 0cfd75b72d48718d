"""The offline figures, on answers whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from flashtrail.training.lift import data, offline


def test_figures_of_answers_that_close_two_steps_late_and_see_a_centimetre_beside(demos) -> None:
    frames = data.load(demos).train
    expert = frames.chunks[:, 0, -1]
    late = np.where((expert > 0) & (frames.step >= 10), 1.0, -1.0)  # the expert closes at step 8
    cube = frames.cube + np.array([0.006, 0.008, 0.5])  # the height does not count
    got = offline.figures(frames, late, cube)
    assert got["cube_mm"] == pytest.approx(10.0, rel=1e-4) and got["closing_late"] == 2
    assert got["closing_right"] == pytest.approx(3 / 5)  # steps 6, 7 and 10 of 6 to 10
    assert offline.figures(frames, np.full(len(frames), -1.0), cube)["closing_late"] == 16 - 8
    assert offline.figures(frames, expert, cube)["closing_right"] == 1.0
