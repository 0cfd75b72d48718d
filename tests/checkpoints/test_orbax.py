"""The leaf reader: both leaf conventions, missing metadata, and a second opinion from Orbax itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoints.conftest import G1

from flashtrail.checkpoints import orbax, reference
from flashtrail.errors import UserError

CONVENTIONS = ["checkpoint", "checkpoint_value_suffix"]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_leaf_paths_and_shapes_are_those_of_the_model(convention: str) -> None:
    expected = json.loads((G1 / "config.json").read_text())["params"]
    leaves = orbax.open_tree(G1 / convention / "params")
    assert {path: list(leaf.shape) for path, leaf in leaves.items()} == expected


def test_a_module_called_value_keeps_its_name() -> None:
    paths = orbax.open_tree(G1 / "checkpoint_value_suffix" / "params")
    assert any(path.endswith("MultiHeadDotProductAttention_0/value/kernel") for path in paths)
    assert orbax.leaf_paths({"params/a/value": 0, "params/b/kernel": 0}) == ["a/value", "b/kernel"]


def test_both_conventions_hold_identical_tensors() -> None:
    plain, suffixed = (orbax.read_tree(G1 / name / "params") for name in CONVENTIONS)
    assert plain.keys() == suffixed.keys()
    assert all(np.array_equal(plain[path], suffixed[path]) for path in plain)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_values_are_those_that_orbax_restores(convention: str) -> None:
    restored = reference._restore(G1 / convention / "params")
    flat = {"/".join(str(k.key) for k in path): x for path, x in jax.tree_util.tree_leaves_with_path(restored)}
    ours = dict(orbax.iter_leaves(G1 / convention / "params"))
    assert flat.keys() == ours.keys()
    assert all(np.array_equal(flat[path], ours[path]) for path in ours)


def test_the_released_layout_without_checkpoint_metadata_reads_the_same(tmp_path: Path) -> None:
    params = tmp_path / "params"
    shutil.copytree(G1 / "checkpoint/params", params)
    for name in ("_CHECKPOINT_METADATA", "array_metadatas"):
        entry = params / name
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    ours, whole = orbax.read_tree(params), orbax.read_tree(G1 / "checkpoint/params")
    assert all(np.array_equal(ours[path], whole[path]) for path in whole)
    source = reference._restore(params)
    assert np.array_equal(source["state_proj"]["kernel"], whole["state_proj/kernel"])


def test_rows_are_slices_of_the_whole() -> None:
    leaf = orbax.open_tree(G1 / "checkpoint/params")["PaliGemma/llm/layers/mlp/gating_einsum"]
    assert np.array_equal(leaf.rows(1, 3), leaf.read()[1:3])


def test_a_directory_that_is_no_tree_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.ocdbt"):
        orbax.open_tree(tmp_path)


def test_a_lost_data_file_is_one_line(tmp_path: Path) -> None:
    params = tmp_path / "params"
    shutil.copytree(G1 / "checkpoint/params", params)
    for data in params.rglob("d/*"):
        data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(UserError, match="fetch") as caught:
        orbax.read_tree(params)
    assert "\n" not in str(caught.value)
