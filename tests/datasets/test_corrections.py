"""Corrections: which steps are one, that a replay shows what the episode saw, and the first so many of them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from rollouts.scripted import FULL, Policy
from training.lift import recordings

from flashtrail.base.errors import UserError
from flashtrail.datasets import corrections
from flashtrail.experiment import handoff
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.policies.parts.pictures import shrink
from flashtrail.rollouts import conditions, guards
from flashtrail.rollouts.episode import run_episode
from flashtrail.simulators import registry
from flashtrail.tables import schemas
from flashtrail.training.lift import data, files

SUITE, TASK, SEED = "robosuite_lift", 1, 7
DARK = {"kind": "zero", "view": "agent"}
ARM = {"arm": "helped", "suite": SUITE, "seed": SEED, "rollout": {"hard_reset": True}, "condition": DARK}


def step(number, who, of):
    return {"step": number, "who": who, "round": of}


def test_a_hand_over_is_one_correction_also_where_the_next_follows_at_once():
    steps = [step(0, "policy", 0), step(1, "expert", 1), step(2, "expert", 1), step(3, "expert", 2), step(4, "hold", 3)]
    assert corrections.interventions(steps, alone=False) == [range(1, 3), range(3, 4)]
    assert corrections.interventions(steps[:1], alone=False) == []


def test_an_episode_of_the_experts_own_arm_is_one():
    steps = [step(number, None, number) for number in range(4)]
    assert corrections.interventions(steps, alone=True) == [range(4)]
    assert corrections.interventions([], alone=True) == []


# --- the first so many, and a queue ---


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[Path]:
    """Two files: corrections of 4, 5, 6, 4 and of 5, 6 steps; one is of an episode that failed."""
    folder = tmp_path_factory.mktemp("corrections")
    made = [recordings.demonstration(n, verified=n != 2, steps=4 + n % 3) for n in range(6)]
    for number, own in enumerate((made[:4], made[4:])):
        files.write(folder / f"{number}.hdf5", own, recordings.ENV_ARGS)
    return sorted(folder.glob("*.hdf5"))


def actions(path: Path) -> np.ndarray:
    with h5py.File(path, "r") as file:
        names = [name.decode() for name in file["mask/train"]]
        return np.concatenate([file[f"data/{name}/actions"][:] for name in names])


SPANS = [(None, None, 6, (0, 30)), (5, None, 5, (0, 24)), (5, 7, 2, (17, 24)), (2, 99, 2, (0, 9))]


@pytest.mark.parametrize(("count", "keep", "whole", "span"), SPANS)
def test_the_first_so_many_are_trained_on_and_a_queue_keeps_the_last_steps(tmp_path, parts, count, keep, whole, span):
    every = np.concatenate([actions_of(part) for part in parts])
    target = tmp_path / "gathered.hdf5"
    assert files.gather(parts, count, keep, target) == (whole, span[1] - span[0])
    assert np.array_equal(actions(target), every[slice(*span)].astype(np.float32))
    frames, _ = data.demonstrations(target, 10)
    assert len(frames) == span[1] - span[0] and frames.views.shape[1:] == (2, 112, 112, 3)


def actions_of(part: Path) -> np.ndarray:
    with h5py.File(part, "r") as file:
        return np.concatenate([file[f"data/demo_{number}/actions"][:] for number in range(len(file["data"]))])


def test_more_than_there_are_is_one_line_and_leaves_nothing(tmp_path, parts):
    with pytest.raises(UserError, match="there are 6 corrections, not 7: ask for fewer, or run more episodes"):
        files.gather(parts, 7, None, tmp_path / "gathered.hdf5")
    assert not list(tmp_path.iterdir())


# --- the real simulator ---


def _rolled(folder: Path) -> list[dict]:
    """An episode in which the expert is asked twice; what was to be seen before each of its steps, in order."""
    simulator = registry.make(SUITE, TASK, seed=SEED, scene_seed="episode", hard_reset=True)
    seen = []
    take = simulator.step

    def watched(action, *, render):
        step = take(action, render=True)
        seen.append(simulator.observe())
        return step

    key = EpisodeKey(SUITE, TASK, 3, 0)
    given = {"signal": "novelty", "alarm": 1.0, "to": "expert", "steps": 12, "budget": 24}
    simulator.reset(key)
    first = simulator.observe()
    simulator.step = watched
    simulator.horizon = 40
    rounds = [(5, FULL | {"novelty": value}) for value in (0.0, 2.0, 0.0, 2.0, 0.0)]
    record = run_episode(
        simulator, Policy(rounds), key, condition=conditions.build(DARK), guard=guards.build({"kind": "none"}),
        handoff=handoff.read(given), expert=lambda: registry.expert(SUITE, simulator), seed=SEED, replan_steps=5,
    )  # fmt: skip
    own = {"run_id": "r", "arm": "helped", "policy": "p", "suite": SUITE, "task_id": TASK, "init_state": 3}
    own |= {"repeat": 0, "seed": SEED}
    for name, rows in {"episodes": [record.episode], "steps": record.steps}.items():
        schema = schemas.SCHEMAS[name]
        known = [{k: v for k, v in (own | row).items() if k in schema.names} for row in rows]
        schemas.write_table(folder / f"{name}.parquet", known, schema)
    before = [first, *seen[-len(record.steps) :]]
    pictures = [(one.agent, one.wrist, one.state) for one in before]
    return [{"who": row["who"], "action": row["action"], "seen": pictures[row["step"]]} for row in record.steps]


def _apart(call, *given):
    """In a process of its own: a second simulator in one renders other pictures."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        return pool.submit(call, *given).result()


@pytest.mark.simulator
@pytest.mark.slow
def test_corrections_show_what_the_episode_saw_and_what_the_expert_did(tmp_path):
    rolled = _apart(_rolled, tmp_path)
    target = tmp_path / "corrections.hdf5"
    assert _apart(corrections.record, tmp_path, ARM, TASK, target) == "2 corrections, 24 steps"
    mine = [row for row in rolled if row["who"] == "expert"]
    with h5py.File(target, "r") as file:
        demos = [file["data/demo_0"], file["data/demo_1"]]
        assert all(demo["intervention"][:].all() and len(demo["intervention"]) == 12 for demo in demos)
        agent, wrist = (np.concatenate([demo[f"obs/{name}"][:] for demo in demos]) for name in files.PICTURES)
        state, label = (np.concatenate([demo[name][:] for demo in demos]) for name in ("obs/state", "actions"))
    assert not agent.any()  # the arm's condition: the agent view is black
    assert np.array_equal(state, np.stack([row["seen"][2] for row in mine]).astype(np.float32))
    assert np.array_equal(wrist, np.stack([shrink(row["seen"][1]) for row in mine]))
    assert np.array_equal(label, np.array([row["action"] for row in mine], np.float32))


@pytest.mark.simulator
@pytest.mark.slow
def test_an_episode_that_its_replay_does_not_repeat_gives_no_correction(tmp_path):
    _apart(_rolled, tmp_path)
    with pytest.raises(
        UserError, match=r"no corrections: no replay repeated its record \(init state 3, repeat 0: from step 1 on"
    ):
        _apart(corrections.record, tmp_path, ARM | {"seed": 8}, TASK, tmp_path / "corrections.hdf5")
    assert not (tmp_path / "corrections.hdf5").exists()
