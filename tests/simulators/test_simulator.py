"""The real simulator: episodes that do not depend on what ran before, scenes by key, limits (see test_fidelity.py)."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from flashtrail.base.errors import UserError
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.suites import SUITES
from flashtrail.simulators.libero.simulator import CAMERAS, LiberoSimulator
from flashtrail.simulators.protocol import Simulator, Step
from flashtrail.simulators.robosuite import opengl, substeps, unseen

TASK, CHUNKS = 1, (5, 1, 12)  # put the bowl on the stove; actions executed after each query
KEYS = [EpisodeKey("libero_goal", TASK, init_state, 0) for init_state in (0, 3)]


def actions(key):
    rng = np.random.default_rng(key.init_state)
    return [rng.uniform(-1, 1, (count, 7)) for count in CHUNKS]


def play(simulator: Simulator, key: EpisodeKey):
    """Return the states at every step and the observations at every query of a short scripted episode."""
    simulator.reset(key)
    states, seen, steps = [simulator.state()], [simulator.observe()], []
    for chunk in actions(key):
        for offset, action in enumerate(chunk):
            step = simulator.step(action, render=offset == len(chunk) - 1)
            assert isinstance(step, Step) and step.eef_pos.shape == (3,)
            states.append(simulator.state())
            steps.append((step.reward, step.done, tuple(step.eef_pos)))
        seen.append(simulator.observe())
    return states, seen, steps


def assert_same(one, other):
    for left, right in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(left, right)
    for query, (left, right) in enumerate(zip(one[1], other[1], strict=True)):
        np.testing.assert_array_equal(left.agent, right.agent, err_msg=f"agent view at query {query}")
        np.testing.assert_array_equal(left.wrist, right.wrist, err_msg=f"wrist view at query {query}")
        np.testing.assert_array_equal(left.state, right.state)
    assert one[2] == other[2]


@pytest.fixture(scope="module")
def lazy():
    simulator = LiberoSimulator("libero_goal", TASK)
    yield simulator
    simulator.close()


@pytest.fixture(scope="module")
def lazy_runs(lazy):
    """Both episodes, and the first one again after them."""
    return [play(lazy, key) for key in [*KEYS, KEYS[0]]]


@pytest.mark.simulator
@pytest.mark.slow
def test_an_episode_is_the_same_after_others(lazy_runs):
    assert_same(lazy_runs[0], lazy_runs[2])
    assert not np.array_equal(lazy_runs[0][0][0], lazy_runs[1][0][0])


@pytest.mark.simulator
@pytest.mark.slow
def test_what_the_policy_gets(lazy, lazy_runs):
    first = lazy_runs[0][1][0]
    assert first.agent.shape == first.wrist.shape == (224, 224, 3)
    assert first.agent.dtype == np.uint8 and first.agent.std() > 20 and first.wrist.std() > 20
    assert first.state.shape == (8,) and np.isfinite(first.state).all()
    assert 2.5 < np.linalg.norm(first.state[3:6]) < 3.8  # the hand points down: half a turn
    assert first.prompt == "put the bowl on the stove"
    assert lazy.init_state_count == 50 and lazy.horizon == 300


@pytest.mark.simulator
@pytest.mark.slow
def test_a_repeat_is_another_scene_with_the_same_objects(lazy, lazy_runs):
    lazy.reset(EpisodeKey("libero_goal", TASK, 0, 1))
    assert not np.array_equal(lazy.state(), lazy_runs[0][0][0]), "fixtures are drawn from the key"


@pytest.mark.simulator
@pytest.mark.slow
def test_no_stale_picture_is_handed_out(lazy):
    lazy.reset(KEYS[0])
    lazy.step([0.0] * 7, render=False)
    with pytest.raises(RuntimeError, match="render=True"):
        lazy.observe()


@pytest.mark.simulator
@pytest.mark.slow
def test_a_picture_is_the_same_without_what_its_camera_cannot_see(lazy):
    lazy.reset(KEYS[1])
    sim = lazy.truth[0].sim
    group = sim.model._model.geom_group
    before, hidden = group.copy(), 0
    for action in actions(KEYS[1])[2]:
        lazy.step(action, render=False)
        for camera in CAMERAS:
            whole = sim.render(width=256, height=256, camera_name=camera)
            with unseen.left_out(sim, camera):
                hidden += int((group != before).sum())
                np.testing.assert_array_equal(sim.render(width=256, height=256, camera_name=camera), whole)
    assert hidden > 100 and np.array_equal(group, before)


@pytest.mark.simulator
@pytest.mark.slow
def test_what_was_not_checked_is_stepped_by_robosuite(lazy, monkeypatch):
    import mujoco

    lazy.reset(KEYS[0])
    env, stepped = lazy.truth[0], []
    monkeypatch.setattr(env, "step", lambda action: stepped.append(action) or type(env).step(env, action))
    options = env.sim.model._model.opt
    assert substeps.objection(env) is None
    lazy.step(actions(KEYS[0])[0][0], render=False)
    assert not stepped
    steps = substeps.LeanSteps(env)
    for _ in range(2):  # a soft reset keeps the model and makes a new controller
        env.robots[0]._load_controller()
        steps.step(list(actions(KEYS[0])[0][1]))
        assert steps._arm._controller is env.robots[0].controller and not stepped
    options.integrator = mujoco.mjtIntegrator.mjINT_IMPLICIT
    assert "integrator" in substeps.objection(env)
    options.integrator = mujoco.mjtIntegrator.mjINT_EULER
    with monkeypatch.context() as changed:
        changed.setattr(env.robots[0].controller, "impedance_mode", "variable")
        assert "controller" in substeps.objection(env)
    monkeypatch.setattr(mujoco, "__version__", "3.0.0")
    assert "3.0.0" in substeps.objection(env)
    substeps.LeanSteps(env).step(list(actions(KEYS[0])[0][1]))
    assert len(stepped) == 1


@pytest.mark.simulator
@pytest.mark.slow
def test_a_simulator_draws_the_same_after_another_of_its_process(lazy_runs):
    first = LiberoSimulator("libero_goal", TASK)
    second = LiberoSimulator("libero_goal", TASK)
    first.reset(KEYS[0])
    second.reset(KEYS[0])  # robosuite draws in whichever OpenGL context is current
    np.testing.assert_array_equal(second.observe().agent, lazy_runs[0][1][0].agent)
    first.close()
    del first
    gc.collect()  # collected late, it deleted the textures of the living one
    second.reset(KEYS[0])
    np.testing.assert_array_equal(second.observe().agent, lazy_runs[0][1][0].agent)
    second.close()


@pytest.mark.simulator
@pytest.mark.slow
def test_an_init_state_out_of_range_is_named_with_the_range(lazy):
    with pytest.raises(UserError, match="50 is out of range 0-49 of libero_goal task 1"):
        lazy.reset(EpisodeKey("libero_goal", TASK, 50, 0))


@pytest.mark.simulator
def test_the_suites_are_those_of_the_package():
    pytest.importorskip("libero")
    opengl.choose_backend()
    from libero.libero.benchmark import get_benchmark

    for name, suite in ((n, s) for n, s in SUITES.items() if s.simulator == "libero"):
        assert get_benchmark(name)().n_tasks == suite.tasks


def test_a_missing_library_gets_the_apt_line(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(opengl, "_loads", lambda name, soname: name != "OSMesa")
    error = opengl.explain(AttributeError("'NoneType' object has no attribute 'glGetError'"))
    assert str(error) == f"no OpenGL library for rendering (libOSMesa.so.8 not found): {opengl.APT_LINE}"
    assert opengl.APT_LINE.startswith("apt-get install -y libosmesa6 ")


def test_a_renderer_that_fails_for_another_reason_says_which(monkeypatch):
    monkeypatch.setattr(opengl, "_loads", lambda name, soname: True)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert "MUJOCO_GL=egl (RuntimeError: no display)" in str(opengl.explain(RuntimeError("no display")))


def test_tasks_out_of_range_are_refused_before_anything_is_built():
    with pytest.raises(UserError, match="task 10 is out of range 0-9 of libero_goal"):
        LiberoSimulator("libero_goal", 10)
