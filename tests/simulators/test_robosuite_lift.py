"""robosuite's Lift on the real simulator: the same key the same episode, and every task steps as it says."""

from __future__ import annotations

import numpy as np
import pytest

from flashtrail.base.errors import SettingError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import SUITES
from flashtrail.simulators import registry, seeds, verify
from flashtrail.simulators.protocol import Metrics, Step
from flashtrail.simulators.robosuite_lift import goals, metrics
from flashtrail.simulators.robosuite_lift.simulator import HOLD_STEPS, LiftSimulator
from flashtrail.simulators.robosuite_lift.tasks import SUITE, TASKS

pytestmark = pytest.mark.simulator

STILL, CLOSED = (0.0,) * 6 + (-1.0,), (0.0,) * 6 + (1.0,)
DOWN = (0.1, 0.0, -0.2, 0.0, 0.0, 0.0, -1.0)
PANDA = 0


@pytest.fixture(scope="module")
def panda():
    made = LiftSimulator(SUITE, PANDA)
    yield made
    made.close()


def key(init_state, task_id=PANDA, repeat=0):
    return EpisodeKey(SUITE, task_id, init_state, repeat)


def episode(simulator, start, steps=3):
    """Return the states of an episode's first steps, and the last observation."""
    simulator.reset(start)
    states = [simulator.state()]
    for number in range(steps):
        step = simulator.step(DOWN, render=number == steps - 1)
        assert isinstance(step, Step) and step.eef_pos.shape == (3,)
        states.append(simulator.state())
    return np.stack(states), simulator.observe()


def cube(simulator):
    env, _ = simulator.truth
    return np.array(env.sim.data.body_xpos[env.cube_body_id])


def cube_size(simulator):
    model = simulator.truth[0].sim.model
    return np.array(model.geom_size[model.geom_name2id("cube_g0")])


def red(picture):
    """Return rows and columns of the cube's pixels, (N, 2); nothing else in the agent view is red."""
    levels = picture.astype(int)
    return np.argwhere((levels[..., 0] - levels[..., 1] > 60) & (levels[..., 0] - levels[..., 2] > 60))


def put_cube(simulator, place, velocity=(0.0, 0.0, 0.0)):
    sim = simulator.truth[0].sim
    joint = simulator.truth[0].cube.joints[0]
    sim.data.set_joint_qpos(joint, [*place, 1.0, 0.0, 0.0, 0.0])
    sim.data.set_joint_qvel(joint, [*velocity, 0.0, 0.0, 0.0])
    sim.forward()


def test_the_tasks_are_those_of_the_suite():
    assert len(TASKS) == SUITES[SUITE].tasks and SUITES[SUITE].init_states == 1000
    assert [task.family for task in TASKS].count(verify.PUSH) == 1


def test_an_unknown_task_is_refused_in_one_line():
    with pytest.raises(SettingError, match=r"^task 8 is out of range 0-7 of robosuite_lift$"):
        registry.make(SUITE, 8, seed=7, scene_seed="episode", hard_reset=True)


@pytest.mark.slow
def test_the_same_key_is_the_same_episode_bit_for_bit_and_another_one_is_another(panda):
    first, seen = episode(panda, key(3))
    other, _ = episode(panda, key(4))
    repeated, _ = episode(panda, key(3, repeat=1))
    again, seen_again = episode(panda, key(3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[0], repeated[0])
    for view in ("agent", "wrist", "state"):
        assert np.array_equal(getattr(seen, view), getattr(seen_again, view)), view


@pytest.mark.slow
def test_what_the_policy_gets(panda):
    panda.reset(key(0))
    seen = panda.observe()
    assert seen.agent.shape == seen.wrist.shape == (224, 224, 3) and seen.agent.dtype == np.uint8
    assert seen.agent.std() > 20 and seen.wrist.std() > 20
    assert seen.state.shape == (8,) and seen.prompt == "lift the red cube" and panda.horizon == 100
    assert np.linalg.norm(seen.state[:2]) < 0.2 and 0.9 < seen.state[2] < 1.2
    assert len(red(seen.agent)) > 50


@pytest.mark.slow
def test_pictures_are_upright_and_not_mirrored(panda):
    """The camera `agentview` looks at the robot: its up is up, and the robot's left (+y) is on the right."""
    panda.reset(key(0))
    seen = []
    for place in ([0.0, -0.1, 0.83], [0.0, 0.1, 0.83], [0.0, 0.1, 1.0]):
        put_cube(panda, place)
        panda.step(STILL, render=True)
        seen.append(red(panda.observe().agent).mean(0))
    (_, here), (low, there), (high, _) = seen
    assert here < 112 < there and high < low


@pytest.mark.slow
def test_no_stale_picture_is_handed_out(panda):
    panda.reset(key(0))
    panda.step(STILL, render=False)
    with pytest.raises(RuntimeError, match="render=True"):
        panda.observe()


@pytest.mark.slow
def test_a_key_of_another_suite_or_no_init_state_is_refused(panda):
    with pytest.raises(ValueError, match="this simulator runs robosuite_lift task 0"):
        panda.reset(EpisodeKey("libero_goal", PANDA, 0, 0))
    with pytest.raises(SettingError, match="init state 1000 is out of range 0-999 of robosuite_lift task 0"):
        panda.reset(key(1000))


@pytest.mark.slow
def test_done_only_after_the_goal_has_held(panda):
    """A cube that is set high in each step: the world looks lifted, so `done` comes in time; the verdict sees it."""
    panda.reset(key(1))
    assert panda.metrics() == metrics.NOTHING_YET
    ends = []
    for number in range(2 * HOLD_STEPS + 1):
        put_cube(panda, [0.0, 0.2, 1.0] if number != HOLD_STEPS else [0.0, 0.2, 0.83])
        ends.append(panda.step(STILL, render=False).done)
    assert ends == [False] * (HOLD_STEPS - 1) + [True] + [False] * HOLD_STEPS + [True]
    assert panda.verdict(True) == verify.Verdict(False, verify.NEVER_GRASPED, 0, 0)
    assert panda.metrics() == Metrics(naive_success=True, own_success=True, printed_success=False)


@pytest.mark.slow
def test_a_policy_that_does_nothing_pleases_the_naive_metric_alone(panda):
    panda.reset(key(2))
    assert not any(panda.step(STILL, render=False).done for _ in range(12))
    assert panda.metrics() == Metrics(naive_success=True, own_success=False, printed_success=False)
    assert not panda.verdict(False).verified and panda.seen()[0].family == verify.LIFT


@pytest.mark.slow
def test_without_hard_resets_the_cube_is_one_of_the_seed_and_episodes_do_not_depend_on_others():
    soft = LiftSimulator(SUITE, PANDA, hard_reset=False)
    first, seen = episode(soft, key(3))
    other, _ = episode(soft, key(4))
    for _ in range(5):
        soft.step(CLOSED, render=False)
    again, seen_again = episode(soft, key(3))
    assert np.array_equal(first, again) and np.array_equal(seen.agent, seen_again.agent)
    size = cube_size(soft)
    soft.close()
    another = LiftSimulator(SUITE, PANDA, hard_reset=False)
    assert np.array_equal(episode(another, key(4))[0], other)
    assert np.array_equal(cube_size(another), size)
    another.close()


@pytest.mark.slow
@pytest.mark.parametrize("task_id", range(1, len(TASKS)))
def test_each_robot_steps(task_id):
    task = TASKS[task_id]
    simulator = LiftSimulator(SUITE, task_id)
    starts = []
    for init_state in range(3):
        simulator.reset(key(init_state, task_id))
        starts.append(cube(simulator)[:2])
    env, _ = simulator.truth
    before = simulator.observe().state
    assert env.robots[0].robot_model.naming_prefix == "robot0_" and env.robot_names == [task.robot]
    for _ in range(8):
        simulator.step((0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0), render=False)
    step = simulator.step((0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0), render=True)
    after = simulator.observe()
    assert after.state.shape == (8,) and after.prompt == task.prompt and np.isfinite(after.state).all()
    assert np.array_equal(after.state[:3], step.eef_pos)
    assert after.state[2] - before[2] > 0.05, "nine half actions up"
    # Both fingers closed, and both by about as much: one joint of each side.
    moved = np.abs(after.state[6:] - before[6:])
    assert (moved > 0.005).all() and moved.max() < 2 * moved.min()
    simulator.close()


@pytest.mark.slow
def test_the_robot_without_rotation_drops_it():
    """Task 2: what the wire says of rotation changes nothing."""
    simulator = LiftSimulator(SUITE, 2)
    simulator.reset(key(0, 2))
    for _ in range(3):
        simulator.step((0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), render=False)
    straight = simulator.state()
    simulator.reset(key(0, 2))
    for _ in range(3):
        simulator.step((0.2, 0.0, 0.0, 0.9, -0.5, 0.3, 1.0), render=False)
    assert np.array_equal(simulator.state(), straight)
    assert simulator.truth[0].action_dim == 4
    simulator.close()


@pytest.mark.slow
def test_wide_is_wide():
    """The places that reset would draw, by the same generator: task 0 within 3 cm, task 1 within 10 cm and beyond 3."""
    for task_id, half_width in ((0, 0.03), (1, 0.10)):
        simulator = LiftSimulator(SUITE, task_id, hard_reset=False)
        places = []
        for init_state in range(40):
            np.random.seed(seeds.legacy_seed(seeds.derive(7, key(init_state, task_id), "sim")))
            simulator.truth[0].reset()
            places.append(cube(simulator)[:2])
        far = np.abs(places).max()
        assert 0.9 * half_width < far <= half_width, (task_id, far)
        simulator.close()


@pytest.mark.slow
def test_pushed_forward_is_far_enough_straight_and_on_the_table():
    simulator = LiftSimulator(SUITE, 7)
    simulator.reset(key(0, 7))
    env, _ = simulator.truth
    start = goals.place(env)
    for way, held in (
        ((0.09, 0.0, 0.0), True),
        ((0.07, 0.0, 0.0), False),
        ((0.09, 0.05, 0.0), False),
        ((0.09, 0.0, 0.05), False),
    ):
        put_cube(simulator, np.add(start, way))
        assert goals.holds(env, verify.PUSH, start) is held, way
    simulator.close()
