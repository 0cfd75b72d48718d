"""The experts' phases, on a world of one point hand, and their episodes in the real simulator."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flashtrail.simulators.expert import CLOSED, DOWN, OPEN, Scene
from flashtrail.simulators.robosuite_lift import expert

CUBE = np.array([0.02, -0.01, 0.821])


def scene(hand, cube=CUBE):
    return Scene(np.array(hand, float), DOWN, float("nan"), {expert.CUBE: np.array(cube, float)}, lambda name: cube)


def at(x, y, z):
    """So far from where the cube lies."""
    return CUBE + np.array([x, y, z])


def test_the_four_phases_of_a_lift():
    master = expert.for_task(0)
    said = []
    for hand, cube in (
        (at(0, 0, 0.2), CUBE),  # from above
        (at(0, 0, 0.055), CUBE),  # 5 cm above, to 2 cm
        (CUBE, CUBE),  # at its centre
        *[(CUBE, CUBE)] * expert.GRIPS["Panda"].close_steps,
        (at(0, 0, 0.05), at(0, 0, 0.05)),
        (at(0, 0, 0.09), at(0, 0, 0.09)),  # 11 cm above the table
        (at(0, 0, 0.09), at(0, 0, 0.09)),
    ):
        action = master.act(scene(hand, cube))
        said.append((master.phase, action[6]))
    closing = [("close", CLOSED)] * (expert.GRIPS["Panda"].close_steps - 1)
    assert said == [
        ("approach", OPEN), ("descend", OPEN), ("close", OPEN), *closing,
        ("lift", CLOSED), ("lift", CLOSED), ("hold", CLOSED), ("hold", CLOSED),
    ]  # fmt: skip
    np.testing.assert_allclose(action[:6], 0, atol=1e-9)


@pytest.mark.parametrize("phase", ["lift", "hold"])
def test_a_cube_that_stays_behind_is_fetched_again(phase):
    master = expert.for_task(0)
    master.enter(phase, scene(CUBE))
    master.hold = np.zeros(3)
    for _ in range(5):
        master.act(scene(at(0, 0, 0.02), at(0, 0, 0.02)))
    assert master.phase == phase
    action = master.act(scene(at(0, 0, 0.05)))
    assert (master.phase, action[6]) == ("retreat", OPEN)


@pytest.mark.parametrize(
    ("hand", "cube", "phase", "grip"),
    [
        (at(0, 0, 0.03), at(0, 0.01, 0.03), "lift", CLOSED),  # held in the air
        (at(0.01, 0, 0.01), CUBE, "close", CLOSED),  # between the fingers, on the table
        (at(0.01, 0, 0.04), CUBE, "descend", OPEN),  # below them
        (at(0, 0.025, 0), CUBE, "approach", OPEN),  # beside them: it would be pushed
        (at(0, 0, 0.12), at(0, 0, 0.03), "approach", OPEN),  # in the air, but not in the hand
    ],
)
def test_one_that_takes_over_goes_on_from_where_the_arm_is(hand, cube, phase, grip):
    master = expert.for_task(0)
    assert master.act(scene(hand, cube))[6] == grip and master.phase == phase


@pytest.mark.parametrize(("yaw", "turned"), [(0, 0), (30, 30), (60, -30), (-100, -10), (179, -1)])
def test_fingers_that_let_a_cube_slip_meet_its_faces_by_the_shortest_turn(yaw, turned):
    about = [Rotation.from_euler("z", angle, degrees=True).as_matrix() for angle in (yaw, turned)]
    np.testing.assert_allclose(expert.squarely(about[0]), about[1] @ DOWN, atol=1e-12)


def test_a_push_goes_behind_the_cube_and_never_over_it():
    master = expert.for_task(7)
    assert master.act(scene(at(0.06, 0, 0)))[2] > 0.9  # low on the far side: straight up first
    assert master.act(scene(at(-0.065, 0, 0.07)))[6] == CLOSED
    assert master.phase == "descend"
    master.act(scene(at(-0.065, 0, 0.005)))
    assert master.phase == "push"
    ahead = master.act(scene(at(-0.03, 0.01, 0)))
    assert ahead[0] > 0.5
    assert ahead[1] < 0  # to the line through the cube's centre
    master.act(scene(at(-0.03, 0.04, 0)))
    assert master.phase == "approach"


def test_a_push_ends_where_the_cube_is_far_enough_wherever_it_lay():
    master = expert.for_task(7)
    master.enter("push", scene(CUBE))
    action = master.act(scene([0.1, 0, 0.821], [0.131, 0, 0.821]))
    np.testing.assert_allclose(action[:6], 0, atol=1e-9)
    assert master.phase == "stay"
