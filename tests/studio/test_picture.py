"""Where a place of the world is in the agent view: what is drawn there is what lies there."""

from __future__ import annotations

import numpy as np
import pytest

from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts.worker import make_simulator
from flashtrail.simulators import registry
from flashtrail.studio import picture

_STILL = (0.0,) * 6 + (-1.0,)


def shown(suite, task, body_of):
    """Return where the camera says that a body is, and where the picture changes when the body is not drawn."""
    simulator = registry.make(suite, task, seed=7, scene_seed="episode", hard_reset=True)
    simulator.reset(EpisodeKey(suite, task, 0, 0))
    env, _ = simulator.truth
    body = body_of(env)
    geoms = np.flatnonzero(env.sim.model.geom_bodyid == body)
    simulator.step(_STILL, render=True)
    there = simulator.observe().agent.astype(int)
    (place,) = picture.Camera(simulator, suite).points([env.sim.data.body_xpos[body]])
    env.sim.model.geom_rgba[geoms, 3] = 0.0
    simulator.step(_STILL, render=True)
    gone = simulator.observe().agent.astype(int)
    rows, columns = np.nonzero(np.abs(there - gone).max(axis=2) > 40)
    simulator.close()
    assert len(rows) > 15
    return place, (columns.mean(), rows.mean())


@pytest.mark.simulator
def test_lifts_cube_is_where_the_camera_says():
    said, seen = shown("robosuite_lift", 0, lambda env: env.cube_body_id)
    assert np.hypot(*np.subtract(said, seen)) < 5


@pytest.mark.simulator
def test_liberos_bowl_is_too_though_its_view_is_mirrored():
    said, seen = shown("libero_goal", 2, lambda env: env.obj_body_id["akita_black_bowl_1"])
    assert np.hypot(*np.subtract(said, seen)) < 8


def test_a_chunks_accepted_prefix_and_rest_have_colours_of_their_own():
    image = np.zeros((224, 224, 3), np.uint8)
    path = [(20.0 + 20 * step, 100.0) for step in range(6)]
    drawn = np.asarray(picture.chunk(image, path, 2, [False, False, False, True, True]))
    assert tuple(drawn[200, 100]) == picture.ACCEPTED and tuple(drawn[200, 220]) == picture.BEYOND
    assert (drawn == picture.GRIP).all(axis=2).any()
    assert not (np.asarray(picture.chunk(image, path, 2, [False] * 5)) == picture.GRIP).all(axis=2).any()


def test_without_a_camera_that_is_known_nothing_is_drawn():
    spec = {"suite": "reach", "task_id": 0, "seed": 7, "scene_seed": "episode", "hard_reset": True, "horizon": None}
    simulator = make_simulator(type("Spec", (), spec))
    assert picture.Camera(simulator, "reach").points([np.zeros(3)]) is None
    assert not np.asarray(picture.chunk(np.zeros((224, 224, 3), np.uint8), None, 0, [])).any()
