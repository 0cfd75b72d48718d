"""Proprioception and actions: against scipy's rotations, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from flashtrail.policies.lift_vla.statistics import Stats, rotation
from flashtrail.policies.parts.pictures import shrink

RNG = np.random.default_rng(0)
STATS = Stats(RNG.normal(size=8), RNG.uniform(0.1, 1, 8), RNG.normal(size=7), RNG.uniform(0.1, 1, 7))


def test_rotations_are_scipys_also_beyond_half_a_turn_and_at_none() -> None:
    turns = np.concatenate((RNG.normal(0, 3, (50, 3)), np.zeros((1, 3)), [[np.pi, 0, 0]]))
    np.testing.assert_allclose(rotation(turns), Rotation.from_rotvec(turns).as_matrix(), atol=1e-12)


def test_one_attitude_is_one_input_however_its_angle_is_written() -> None:
    axis = np.array([1.0, 2.0, -0.5]) / np.linalg.norm([1.0, 2.0, -0.5])
    state = RNG.normal(size=8)
    first, second = (np.concatenate((state[:3], axis * angle, state[6:])) for angle in (3.0, 3.0 - 2 * np.pi))
    np.testing.assert_allclose(STATS.proprioception(first), STATS.proprioception(second), atol=1e-6)
    assert STATS.proprioception(np.stack((first, second))).shape == (2, 10)


def test_actions_come_back_and_the_gripper_keeps_its_sign() -> None:
    actions = RNG.normal(size=(10, 7))
    actions[:, 6] = np.where(RNG.random(10) < 0.5, 1.0, -1.0)
    target = STATS.targets(actions)
    assert set(target[:, 6]) == {0.0, 1.0}
    target[:, 6] = np.where(target[:, 6] > 0, 8.0, -8.0)  # a sure logit
    np.testing.assert_allclose(STATS.actions(target), actions, atol=2e-3)


def test_a_picture_is_shrunk_by_the_mean_of_two_by_two() -> None:
    picture = RNG.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    means = picture.reshape(112, 2, 112, 2, 3).astype(float).mean((1, 3))
    assert np.abs(shrink(picture) - means).max() <= 1.0  # Pillow rounds rows, then columns
    assert shrink(shrink(picture)).shape == (112, 112, 3) and shrink(picture, 56).shape == (56, 56, 3)


def test_a_drills_file_holds_statistics_of_actions_alone(tmp_path):
    """The one that ships for `bad_unnorm` says nothing of states."""
    shipped = Path(__file__).parents[3] / "resources"
    own = Stats.read(shipped / "lift_nano/norm_stats.json", 8, 7)
    other = own.with_actions_of(shipped / "drills/bridge_like.json")
    assert other.action_std[0] == 1.6 != own.action_std[0] and np.array_equal(other.state_std, own.state_std)
