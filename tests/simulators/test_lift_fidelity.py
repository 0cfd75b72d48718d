"""LiftSimulator against a plain loop on robosuite's own Lift: model rebuilt, both cameras drawn at every step.

Compared are all that moves and what moves it next after every step, and both pictures and the state at every query. Our
episodes come in another order than the plain loop's, so that nothing may depend on what ran before.
"""

from __future__ import annotations

import fidelity
import numpy as np
import pytest

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import axis_angle
from flashtrail.simulators.robosuite import opengl, substeps
from flashtrail.simulators.robosuite_lift import cube
from flashtrail.simulators.robosuite_lift.simulator import CAMERAS, LiftSimulator
from flashtrail.simulators.robosuite_lift.tasks import SUITE, TASKS

STARTS, CHUNKS = (0, 5), (4, 1, 7)  # init states; actions executed after each query
STILL = (0.0,) * 6 + (-1.0,)


def actions(init_state):
    rng = np.random.default_rng(init_state)
    return [rng.uniform(-1, 1, (count, 7)) for count in CHUNKS]


def world(sim):
    model = sim.model._model
    return fidelity._world(sim) + fidelity._hash(np.concatenate([model.geom_size.ravel(), model.body_mass]))


def plain(task_id):
    """Return states and what is seen, by init state, of robosuite's own environment."""
    opengl.choose_backend()
    import robosuite
    from robosuite.utils.placement_samplers import UniformRandomSampler

    opengl.keep_contexts_apart()
    task = TASKS[task_id]
    controller = robosuite.load_controller_config(default_controller=task.controller)
    place = None
    if task.half_width != 0.03:  # robosuite's own
        reach = (-task.half_width, task.half_width)
        centre = np.array((0, 0, 0.8))
        options = {"rotation": None, "ensure_object_boundary_in_range": False, "reference_pos": centre}
        place = UniformRandomSampler("ObjectSampler", x_range=reach, y_range=reach, z_offset=0.01, **options)
    env = robosuite.make(
        "Lift",
        robots=task.robot,
        controller_configs=controller,
        placement_initializer=place,
        camera_names=list(CAMERAS),
        camera_heights=224,
        camera_widths=224,
        ignore_done=True,
    )
    found = {init_state: episode_of(env, task, task_id, init_state) for init_state in STARTS}
    env.close()
    return found


def episode_of(env, task, task_id, init_state):
    np.random.seed(seeds.legacy_seed(seeds.derive(7, EpisodeKey(SUITE, task_id, init_state, 0), "sim")))
    env.reset()
    taken = (lambda a: [*a[:3], a[6]]) if task.controller == "OSC_POSITION" else list
    for _ in range(10):
        raw, *_ = env.step(taken(STILL))
    states, seen = [world(env.sim)], [picture_of(raw, task)]
    for chunk in actions(init_state):
        for action in chunk:
            raw, *_ = env.step(taken(action))
            states.append(world(env.sim))
        seen.append(picture_of(raw, task))
    return states, seen


def picture_of(raw, task):
    fingers = raw["robot0_gripper_qpos"]
    state = [*raw["robot0_eef_pos"], *axis_angle(raw["robot0_eef_quat"]), *(fingers[i] for i in task.fingers)]
    return [fidelity._hash(a) for a in (*(raw[f"{name}_image"][::-1] for name in CAMERAS), np.array(state))]


def ours(task_id):
    simulator = LiftSimulator(SUITE, task_id)
    found = {}
    for init_state in reversed(STARTS):
        simulator.reset(EpisodeKey(SUITE, task_id, init_state, 0))
        sim = simulator.truth[0].sim
        states, seen = [world(sim)], [shown(simulator)]
        for chunk in actions(init_state):
            for offset, action in enumerate(chunk):
                simulator.step(action, render=offset == len(chunk) - 1)
                states.append(world(sim))
            seen.append(shown(simulator))
        found[init_state] = states, seen
    lean = substeps.objection(simulator.truth[0])
    simulator.close()
    return found, lean


def shown(simulator):
    seen = simulator.observe()
    return [fidelity._hash(array) for array in (seen.agent, seen.wrist, seen.state)]


@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.parametrize("task_id", range(7))
def test_states_and_pictures_are_those_of_a_plain_loop(task_id):
    found, objection = ours(task_id)
    assert objection is None, "steps were left to robosuite: nothing of ours was compared"
    expected = plain(task_id)
    for init_state in STARTS:
        assert len(expected[init_state][0]) == 1 + sum(CHUNKS) and len(expected[init_state][1]) == 1 + len(CHUNKS)
        for what, one, other in zip(("state", "picture"), found[init_state], expected[init_state], strict=True):
            differing = [number for number, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
            assert not differing, f"init state {init_state}: {what}s differ from number {differing[0]} on"
    assert found[STARTS[0]] != found[STARTS[1]]


@pytest.mark.simulator
@pytest.mark.slow
@pytest.mark.parametrize("task_id", [0, 3, 4, 6])  # every gripper
def test_a_model_with_another_cube_written_into_it_is_the_compiled_one(task_id):
    """Every array and number of the two; beyond them a model holds its names and options, which the XML shares."""
    import mujoco

    simulator = LiftSimulator(SUITE, task_id)
    env, _ = simulator.truth
    models, sizes = cube.CubeModels(), set()
    for seed in range(5):
        np.random.seed(seed)
        env._load_model()  # as a hard reset begins: it draws the cube and writes the scene
        xml = env.model.get_xml()
        written, compiled = models.model(xml), mujoco.MjModel.from_xml_string(xml)
        for name in (name for name in dir(compiled) if not name.startswith("_")):
            one, other = getattr(written, name), getattr(compiled, name)
            if isinstance(other, np.ndarray | int | float | bytes):
                assert np.array_equal(one, other), name
        for name in (name for name in dir(compiled.stat) if not name.startswith("_")):
            assert np.array_equal(getattr(written.stat, name), getattr(compiled.stat, name)), name
        sizes.add(compiled.geom("cube_g0").size.tobytes())
    simulator.close()
    assert len(sizes) == 5
