"""The expert's geometry and its phase machine, on a world of one point hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flashtrail.base.errors import UserError
from flashtrail.simulators.expert import CLOSED, DOWN, OPEN, UNIT_RAD, PickPlaceExpert, Scene
from flashtrail.training import expert
from flashtrail.training.expert import BOWL_ON_STOVE, DrawerExpert


def scene(hand, item=(0.0, 0.0, 0.9), width=0.08, attitude=DOWN, goal=(0.3, 0.2, 0.95)):
    return Scene(
        hand=np.array(hand, float),
        attitude=np.asarray(attitude),
        width=width,
        objects={BOWL_ON_STOVE.item: np.array(item, float)},
        place=lambda name: np.array(goal, float),
    )


@pytest.mark.parametrize("angle", [0.0, 0.3, -1.2, 2.5, np.pi - 1e-5])
def test_servo_turns_the_shortest_way(angle):
    wanted = Rotation.from_euler("x", angle).as_matrix() @ DOWN
    action = expert.servo(np.zeros(3), DOWN, np.zeros(3), wanted, OPEN)
    np.testing.assert_allclose(action[3:6], [np.clip(angle / UNIT_RAD, -0.6, 0.6), 0, 0], atol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_quaternion_and_its_negative_are_one_attitude(sign):
    """robosuite's quaternions are x, y, z, w."""
    hand = {"robot0_eef_pos": np.zeros(3), "robot0_gripper_qpos": np.array([0.04, -0.04])}
    seen = expert.observe(
        SimpleNamespace(sim=SimpleNamespace(data=None)), hand | {"robot0_eef_quat": sign * np.array([1.0, 0, 0, 0])}
    )
    np.testing.assert_allclose(seen.attitude, DOWN, atol=1e-12)


def test_servo_keeps_its_direction_when_it_is_limited():
    action = expert.servo(np.zeros(3), DOWN, np.array([0.4, -0.2, 0.1]), DOWN, OPEN, top=0.7)
    np.testing.assert_allclose(action[:3], [0.7, -0.35, 0.175])
    np.testing.assert_allclose(action[3:6], 0, atol=1e-12)
    assert action[6] == OPEN


def test_it_closes_where_the_grasp_is_and_nowhere_else():
    master = PickPlaceExpert(BOWL_ON_STOVE)
    grasp = np.array([0.0, 0.0, 0.9]) + BOWL_ON_STOVE.grasp
    for aside, phase in (((0, 0, 0.1), "descend"), ((0.02, 0, 0.0), "descend"), ((0.005, 0, 0.005), "close")):
        master.act(scene(grasp + aside))
        assert master.phase == phase
    actions = [master.act(scene(grasp)) for _ in range(expert.CLOSE_STEPS)]
    assert all(a[6] == CLOSED for a in actions)
    assert master.phase == "lift"


def test_a_lost_object_is_fetched_again():
    master = PickPlaceExpert(BOWL_ON_STOVE)
    master.phase, master.ticks, master.hold = "lift", 10, np.array([0.0, -0.05, -0.04])
    hand = np.array([0.0, 0.05, 1.05])
    action = master.act(scene(hand, item=(0.0, 0.0, 0.9)))  # the bowl stayed on the table
    assert master.phase == "retreat"
    assert action[6] == OPEN
    assert action[2] > 0


def test_fingers_that_met_end_the_pull():
    master = DrawerExpert("geom:handle")
    master.phase, master.ticks = "pull", expert.CLOSE_STEPS
    assert master.act(scene((0, 0, 1), width=0.001))[6] == OPEN
    assert master.phase == "back"


@pytest.mark.parametrize("task_id", sorted(expert.TASKS))
def test_any_state_has_an_action_within_limits(task_id):
    rng = np.random.default_rng(0)
    master = expert.for_task(task_id)
    names = (BOWL_ON_STOVE.item, expert.BOTTLE_ON_CABINET.item)
    for _ in range(200):
        action = master.act(
            Scene(
                hand=rng.uniform(-0.4, 1.4, 3),
                attitude=Rotation.from_quat(rng.normal(size=4)).as_matrix(),
                width=float(rng.uniform(0, 0.08)),
                objects={name: rng.uniform(-0.3, 1.2, 3) for name in names},
                place=lambda _: np.array([0.1, 0.1, 1.0]),
            )
        )
        assert action.shape == (7,)
        assert np.abs(action).max() <= 1.0


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="not 8"):
        expert.for_task(8)
