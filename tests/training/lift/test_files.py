"""What is written is what was recorded, joined parts keep it, and who may train on it is decided once."""

import h5py
import numpy as np
import pytest
from training.lift.recordings import demonstration

from flashtrail.base.errors import UserError
from flashtrail.training.lift import files


def test_parts_are_joined_with_all_that_they_hold(dataset):
    with h5py.File(dataset) as file:
        assert file["data"].attrs["total"] == sum(4 + number % 3 for number in range(14))
        for number in (0, 6, 7, 13):
            made, stored = demonstration(number, steps=4 + number % 3), file[f"data/demo_{number}"]
            assert stored.attrs["init_state"] == number
            np.testing.assert_array_equal(stored["actions"], np.array([s["actions"] for s in made.steps], np.float32))
            for name in (*files.PICTURES, *files.LOW_DIM):
                np.testing.assert_array_equal(stored["obs"][name], np.stack([s["obs"][name] for s in made.steps]))


def test_only_verified_ones_are_trained_on_and_some_are_held_out(dataset):
    with h5py.File(dataset) as file:
        train, valid = ({int(name[5:]) for name in file[f"mask/{mask}"][:]} for mask in ("train", "valid"))
    assert valid == {5}
    assert train == set(range(14)) - {3, 5}


def test_a_later_part_moves_nobody(parts, dataset, tmp_path):
    with h5py.File(dataset) as file:
        before = set(file["mask/valid"][:])
    files.write(tmp_path / "task0_0014.hdf5", [demonstration(14), demonstration(16)], "{}")
    files.join([*parts, tmp_path / "task0_0014.hdf5"], tmp_path / "more.hdf5")
    with h5py.File(tmp_path / "more.hdf5") as file:
        assert set(file["mask/valid"][:]) == before | {b"demo_15"}  # its number within the task is 16


def test_no_place_of_the_recording_machine_is_written(dataset):
    with h5py.File(dataset) as file:
        model = file["data/demo_0"].attrs["model_file"]
    assert model == '<mujoco><mesh file="robosuite/models/hand.stl"/><mesh file="other.stl"/></mujoco>'


def test_nothing_recorded(tmp_path):
    with pytest.raises(UserError, match="record some first"):
        files.join([], tmp_path / "demos.hdf5")
    assert not list(tmp_path.iterdir())
