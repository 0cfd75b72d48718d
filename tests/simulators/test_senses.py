"""What limits go by, in robosuite itself; and what a hostile policy does to the robot with limits and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flashtrail.experiment import config
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.policies.scripted.scripts import SCRIPTS
from flashtrail.rollouts.limits import REACH, Limiter
from flashtrail.simulators import registry
from flashtrail.simulators.expert import UNIT_M
from flashtrail.simulators.robosuite_lift.simulator import LiftSimulator
from flashtrail.simulators.robosuite_lift.tasks import SUITE

pytestmark = pytest.mark.simulator
ROOT = Path(__file__).parents[2]
LIMITS = config.load(ROOT / "config.yaml", ROOT / "profiles/deployment/overlay.yaml").limits


@pytest.fixture(scope="module")
def panda():
    made = LiftSimulator(SUITE, 0)
    yield made
    made.close()


def acted(simulator, given, act, steps=60) -> tuple[Limiter, bool]:
    """Run one episode under these limits; return them, and whether it ended in success."""
    simulator.reset(EpisodeKey(SUITE, 0, 0, 0))
    limiter, done = Limiter(given, simulator.sense()), False
    for step in range(steps):
        done = simulator.step(limiter.apply(act(step)).action, render=False).done
        limiter.felt(simulator.sense())
        if done:
            break
    return limiter, done


def test_corners_lie_around_the_gripper_and_the_sensor_bears_its_weight(panda):
    panda.reset(EpisodeKey(SUITE, 0, 0, 0))
    before = panda.state()
    sense = panda.sense()
    assert np.array_equal(before, panda.state()), "to feel changes nothing"
    low, high = sense.points.min(0) - sense.hand, sense.points.max(0) - sense.hand
    assert (low < 0).all() and (high > 0).all() and (high - low < 0.25).all()
    assert -0.03 < low[2] < -0.005, "fingertips are below the point that actions move"
    assert 3 < sense.force_n < 7


def test_the_hand_comes_to_rest_where_the_limits_take_it_to_be(panda):
    """REACH, against the simulator: one action, then none."""
    panda.reset(EpisodeKey(SUITE, 0, 0, 0))
    start = panda.sense().hand
    for step in range(20):
        panda.step([0.5 if step == 0 else 0.0, 0, 0, 0, 0, 0, -1], render=False)
    assert panda.sense().hand[0] - start[0] == pytest.approx(0.5 * UNIT_M * REACH, rel=0.2)


def test_hostile_actions_stay_near_the_box_and_press_little_and_without_limits_do_not(panda):
    worst = {}
    for name, given in LIMITS.items():
        script = SCRIPTS["hostile"]((10, 7), None)
        chunks = [script.chunk(np.zeros(8), 0, [7, number]) for number in range(6)]
        limiter, _ = acted(panda, given, lambda step: chunks[step // 10][step % 10])  # noqa: B023
        worst[name] = limiter.totals
    assert worst["table"]["worst_excursion_mm"] < 25 and worst["table"]["peak_force_n"] < 60
    assert worst["measured"]["worst_excursion_mm"] > 50, "the control"


def test_the_expert_still_lifts_the_cube(panda):
    panda.reset(EpisodeKey(SUITE, 0, 0, 0))
    expert = registry.expert(SUITE, panda)
    limiter, done = acted(panda, LIMITS["table"], lambda step: expert(), steps=80)
    assert done and limiter.totals["stops"] == 0 and limiter.totals["worst_excursion_mm"] < 0
