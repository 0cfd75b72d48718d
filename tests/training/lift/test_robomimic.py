"""robomimic's own loader opens what we write; runs where robomimic is (its source on PYTHONPATH is enough)."""

import h5py
import numpy as np
import pytest

from flashtrail.training.lift import files

obs_utils = pytest.importorskip("robomimic.utils.obs_utils")


@pytest.mark.parametrize("mask", ["train", "valid"])
def test_its_loader_reads_windows_of_our_file(dataset, mask):
    from robomimic.utils.dataset import SequenceDataset

    keys = {"rgb": list(files.PICTURES), "low_dim": list(files.LOW_DIM)}
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": keys})
    with h5py.File(dataset) as file:
        names = [name.decode() for name in file[f"mask/{mask}"][:]]
        steps = sum(file["data"][name].attrs["num_samples"] for name in names)
        first = file["data"][names[0]]
        actions = first["actions"][:3]
        pictures = {name: first["obs"][name][:3] for name in files.PICTURES}
    read = SequenceDataset(
        str(dataset),
        obs_keys=[*files.PICTURES, *files.LOW_DIM],
        dataset_keys=["actions", "rewards", "dones"],
        seq_length=3,
        hdf5_cache_mode=None,
        hdf5_use_swmr=True,
        filter_by_attribute=mask,
        load_next_obs=False,
    )
    assert (read.n_demos, len(read)) == (len(names), steps)
    window = read[0]
    np.testing.assert_array_equal(window["actions"], actions)
    for name in files.PICTURES:
        np.testing.assert_array_equal(window["obs"][name], pictures[name])
