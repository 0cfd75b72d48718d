"""robosuite's Lift on the real simulator: the same key the same episode, and every task steps as it says."""

from __future__ import annotations

import numpy as np
import pytest

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators.robosuite_lift.simulator import LiftSimulator
from flashtrail.simulators.robosuite_lift.tasks import SUITE

pytestmark = pytest.mark.simulator

DOWN = (0.1, 0.0, -0.2, 0.0, 0.0, 0.0, -1.0)


@pytest.fixture
def simulator(request):
    made = LiftSimulator(SUITE, getattr(request, "param", 0))
    yield made
    made.close()


def episode(simulator, init_state, steps=3):
    """Return the states and the last observation of an episode's first steps."""
    simulator.reset(EpisodeKey(SUITE, simulator.task_id, init_state, 0))
    states = [simulator.state()]
    for number in range(steps):
        simulator.step(DOWN, render=number == steps - 1)
        states.append(simulator.state())
    return np.stack(states), simulator.observe()


def test_the_same_key_is_the_same_episode_bit_for_bit_and_another_one_another(simulator):
    first, seen = episode(simulator, 3)
    other, _ = episode(simulator, 4)
    again, seen_again = episode(simulator, 3)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    for view in ("agent", "wrist", "state"):
        assert np.array_equal(getattr(seen, view), getattr(seen_again, view)), view
    assert seen.agent.shape == seen.wrist.shape == (224, 224, 3) and seen.agent.dtype == np.uint8
    assert seen.state.shape == (8,) and seen.prompt == "lift the red cube"
    # Upright: robosuite's table and robot are below, the wall's texture above; the cube is red, below the middle.
    red = np.argwhere((seen.agent[..., 0] > 110) & (seen.agent[..., 1] < 60))
    assert len(red) > 50 and red.mean(0)[0] > 90
