"""Scripted policies: what each answers from the state and the seed alone, and which artifacts are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flashtrail.checkpoints import artifact as artifacts
from flashtrail.policies.scripted import family
from flashtrail.policies.scripted.scripts import CLOSE_STEPS, CLOSED, OPEN, SCRIPTS

SHIPPED = Path(__file__).parents[2] / "resources" / "scripted"
NAMES = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
TABLE = {"x": 0.1, "y": -0.2, "z": 0.8}


def load(directory: Path) -> family.Scripted:
    options = {"device": "cpu", "backend": "auto", "action_stats": None, "settings": family.Settings()}
    return family.load(directory, None, **options)


def made(directory: Path, **dims) -> Path:
    content = {"dims": {"action_horizon": 5, "action_dim": 7, **dims}, "files": {}}
    digest = artifacts.artifact_digest(**content)
    whole = {"format": "flashtrail-artifact", "version": 1, "kind": "base", "digest": digest}
    manifest = {"family": "scripted", **whole, **content}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def ask(policy: family.Scripted, session, hand=(0.0, 0.0, 1.0), **request) -> np.ndarray:
    pictures = {key: np.random.default_rng().integers(0, 255, (2, 2, 3)) for key in ("observation/image", "other")}
    obs = pictures | {"observation/state": np.array([*hand, 0.0, 0.0, 0.0, 0.04, -0.04])}
    return policy.infer(session, obs, **request)["actions"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_whole_and_says_which_script_it_is(name: str, tmp_path: Path) -> None:
    manifest = artifacts.take_artifact(SHIPPED / name, tmp_path / "taken")
    policy = load(tmp_path / "taken")
    assert policy.metadata["script"] in SCRIPTS and policy.metadata["base_digest"] == manifest["digest"]
    reply = ask(policy, policy.new_session(), noise_seed=[1])
    assert reply.shape == (manifest["dims"]["action_horizon"], 7) and np.abs(reply).max() <= 1


def test_every_script_is_shipped_and_no_two_have_one_digest() -> None:
    manifests = [json.loads((SHIPPED / name / "manifest.json").read_text()) for name in NAMES]
    assert {manifest["dims"]["script"] for manifest in manifests} == set(SCRIPTS)
    assert len({manifest["digest"] for manifest in manifests}) == len(NAMES)


def test_nothing_and_close_only_differ_in_the_hand_alone() -> None:
    for name, grip in (("nothing", OPEN), ("close_only", CLOSED)):
        policy = load(SHIPPED / name)
        actions = ask(policy, policy.new_session())
        assert not actions[:, :6].any() and (actions[:, 6] == grip).all()


def test_random_is_the_rounds_seed() -> None:
    policy = load(SHIPPED / "random")
    one, other = policy.new_session(), policy.new_session()
    assert np.array_equal(ask(policy, one, noise_seed=[7, 1]), ask(policy, other, noise_seed=[7, 1]))
    assert not np.array_equal(ask(policy, one, noise_seed=[7, 1]), ask(policy, one, noise_seed=[7, 2]))
    assert not np.array_equal(ask(policy, one), ask(policy, one))
    many = np.concatenate([ask(policy, one, noise_seed=k) for k in range(50)])
    assert np.abs(many.mean(axis=0)).max() < 0.1 and np.abs(many).max() > 0.95


def played(policy: family.Scripted, steps: int, response: float, start=(0.0, 0.3, 1.0)) -> np.ndarray:
    """Return (steps, 4): hand and gripper's command of an arm that makes `response` of each commanded motion."""
    session, hand, rows, actions, done = policy.new_session(), np.array(start), [], [], 0
    for step in range(steps):
        if step % 5 == 0:
            actions = ask(policy, session, hand, executed_steps=done, reset=step == 0)
            done = 0
        hand = hand + actions[done][:3] * 0.05 * response
        rows.append([*hand, actions[done][6]])
        done += 1
    return np.array(rows)


@pytest.mark.parametrize("response", [0.2, 0.25, 0.35])
@pytest.mark.parametrize("lift", [None, 0.0])
def test_blind_grasp_closes_at_its_place_and_lifts_if_told_so(tmp_path: Path, response: float, lift) -> None:
    grasp = TABLE if lift is None else TABLE | {"lift": lift}
    rows = played(load(made(tmp_path, script="blind_grasp", grasp=grasp)), 100, response)
    closed = rows[:, 3] == CLOSED
    first = int(np.argmax(closed))
    assert 10 < first < 70 and closed[first:].all() and not closed[:first].any()
    assert np.abs(rows[first, :3] - [0.1, -0.2, 0.82]).max() < 0.015
    assert np.abs(rows[first : first + CLOSE_STEPS, :3] - rows[first, :3]).max() < 1e-9, "it moves while it closes"
    top = 0.82 if lift == 0.0 else 0.95
    assert abs(rows[-1, 2] - top) < 0.02


def test_an_episode_begins_with_its_reset(tmp_path: Path) -> None:
    policy = load(made(tmp_path, script="blind_grasp", grasp=TABLE))
    session = policy.new_session()
    for _ in range(2):  # over it, then down at it: it closes
        ask(policy, session, (0.1, -0.2, 0.87), executed_steps=5)
    assert (ask(policy, session, (0.1, -0.2, 0.82), executed_steps=5)[:, 6] == CLOSED).all()
    assert (ask(policy, session, (0.1, -0.2, 0.82), executed_steps=0, reset=True)[:, 6] == OPEN).all()


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({}, "is not a manifest of the family scripted (KeyError: 'script')"),
        (
            {"script": "blind"},
            "dims.script 'blind' is no script; known: nothing, random, close_only, hostile, blind_grasp",
        ),
        ({"script": ["random"]}, "is no script"),
        ({"script": "blind_grasp"}, "is not a manifest of the family scripted (KeyError: 'grasp')"),
        ({"script": "blind_grasp", "grasp": None}, "dims.grasp must hold x, y, z of the table's top in m"),
        ({"script": "blind_grasp", "grasp": [0, 0, 0.8]}, "dims.grasp must hold x, y, z of the table's top in m"),
        ({"script": "blind_grasp", "grasp": {"x": 0, "y": 0}}, "dims.grasp must hold x, y, z"),
        ({"script": "blind_grasp", "grasp": TABLE | {"lft": 1}}, "dims.grasp must hold x, y, z"),
        ({"script": "blind_grasp", "grasp": TABLE | {"x": "0"}}, "dims.grasp.x is '0', not a length in m within 10"),
        ({"script": "blind_grasp", "grasp": TABLE | {"z": True}}, "dims.grasp.z is True"),
        ({"script": "blind_grasp", "grasp": TABLE | {"y": float("nan")}}, "dims.grasp.y is nan"),
        ({"script": "blind_grasp", "grasp": TABLE | {"z": 800}}, "dims.grasp.z is 800"),
        ({"script": "blind_grasp", "grasp": TABLE | {"lift": -0.1}}, "dims.grasp.lift is -0.1"),
        ({"script": "blind_grasp", "grasp": TABLE, "action_dim": 4}, "has an action_dim of 7, not 4"),
        ({"script": "random", "action_horizon": 0}, "must be whole numbers from 1 to 1000"),
    ],
)
def test_an_artifact_that_is_none_is_one_line(tmp_path: Path, dims, words: str) -> None:
    with pytest.raises(family.Error) as caught:
        load(made(tmp_path, **dims))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_another_script_is_not_served_under_the_old_digest(tmp_path: Path) -> None:
    path = made(tmp_path, script="nothing") / "manifest.json"
    path.write_text(path.read_text().replace("nothing", "random"))
    with pytest.raises(family.Error, match="its digest does not follow"):
        load(tmp_path)
