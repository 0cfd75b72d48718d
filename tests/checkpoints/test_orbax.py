"""The leaf reader: both leaf conventions, missing metadata, and a second opinion from Orbax itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tensorstore
from checkpoints.conftest import G1

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import orbax, reference

ROOT = Path(__file__).resolve().parents[2]
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
    ours = orbax.read_tree(G1 / convention / "params")
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


@pytest.mark.parametrize("cut", ["leaf", "layer", "shards"])
@pytest.mark.parametrize("suffix", ["", ".value"])
def test_the_benchmark_s_tree_is_one_that_orbax_restores(tmp_path: Path, cut: str, suffix: str) -> None:
    """So that the synthetic checkpoint can be converted and compared with its artifact, as a fetched one is."""
    spec = importlib.util.spec_from_file_location("bench_convert", ROOT / "benchmarks/convert.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    shapes = {f"PaliGemma/img/{x}": s for x, s in (("a/kernel", (3, 4, 16)), ("value/bias", (16,)), ("b/w", (9, 8)))}
    (tmp_path / "params").mkdir()
    assert bench.write_tree(tmp_path / "params", shapes, cut, suffix) == 3 * 4 * 16 + 16 + 72
    ours, theirs = orbax.read_tree(tmp_path / "params"), reference._restore(tmp_path / "params")
    for leaf, shape in shapes.items():
        node: Any = theirs
        for key in leaf.split("/"):
            node = node[key]
        assert ours[leaf].shape == shape and np.array_equal(ours[leaf], node)


def stored(directory: Path, values: np.ndarray, chunks: list[int], **metadata: Any) -> orbax.Leaf:
    """Write one array as Orbax does, with the given chunks, and open it."""
    store = {"driver": "ocdbt", "base": f"file://{directory}/", "path": "params.a/"}
    meta = {"chunks": chunks, "compressor": {"id": "zstd"}, **metadata}
    spec = {"driver": "zarr", "kvstore": store, "metadata": meta}
    array = tensorstore.open(spec, create=True, dtype=values.dtype, shape=values.shape).result()
    array.write(values).result()
    return orbax.open_tree(directory)["a"]


LAYOUTS = {
    "one chunk": ([40, 6, 8], {}),
    "bands": ([7, 6, 8], {}),
    "cut across": ([7, 3, 8], {}),
    "cut across, padded": ([7, 4, 5], {}),
    "small chunks": ([20, 3, 4], {}),
    "slashes": ([7, 3, 8], {"dimension_separator": "/"}),
    "column order": ([40, 6, 8], {"order": "F"}),
    "not compressed": ([40, 6, 8], {"compressor": None}),
    "blosc": ([40, 6, 8], {"compressor": {"id": "blosc"}}),
}


@pytest.mark.parametrize("step", [1, 6, 7, 40, 100])
@pytest.mark.parametrize("decoder", ["streamed", "cached"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_row_blocks_follow_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, decoder: str, step: int
) -> None:
    chunks, metadata = LAYOUTS[layout]
    values = np.random.default_rng(0).standard_normal((40, 6, 8)).astype(np.float32)
    leaf = stored(tmp_path, values, chunks, **metadata)
    if decoder == "cached":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    else:
        pytest.importorskip("pyarrow", exc_type=ImportError)
        assert (leaf._grid() is None) == (layout in ("column order", "not compressed", "blosc"))
    blocks = list(leaf.row_blocks(step))
    assert max(len(block) for block in blocks) <= step
    assert np.array_equal(np.concatenate(blocks), values)


@pytest.mark.parametrize("chunks", [(40, 6, 8), (7, 4, 5)])
@pytest.mark.parametrize("codecs", [["bytes", "zstd"], ["bytes"], ["transpose", "bytes", "zstd"]])
def test_zarr_3_leaves_read_the_same(tmp_path: Path, chunks: tuple[int, ...], codecs: list[str]) -> None:
    values = np.random.default_rng(0).standard_normal((40, 6, 8)).astype(np.float32)
    details = {"bytes": {"endian": "little"}, "zstd": {"level": 1}, "transpose": {"order": [2, 1, 0]}}
    meta = {
        "shape": [40, 6, 8],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "codecs": [{"name": name, "configuration": details[name]} for name in codecs],
    }
    store = {"driver": "ocdbt", "base": f"file://{tmp_path}/", "path": "params.a/"}
    array = tensorstore.open({"driver": "zarr3", "kvstore": store, "metadata": meta}, create=True).result()
    array.write(values).result()
    leaf = orbax.open_tree(tmp_path)["a"]
    assert (leaf._grid() is not None) == (codecs == ["bytes", "zstd"])
    assert np.array_equal(np.concatenate(list(leaf.row_blocks(6))), values)


def test_left_out_chunks_are_zeros(tmp_path: Path) -> None:
    values = np.zeros((4, 3), np.float32)
    leaf = stored(tmp_path, values, [2, 3], dtype="<f4", fill_value=0.0)
    assert np.array_equal(np.concatenate(list(leaf.row_blocks(1))), values)


def test_a_stream_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large chunk is never fetched whole: that is what keeps the memory of a conversion small."""
    pytest.importorskip("pyarrow", exc_type=ImportError)
    values = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32)
    leaf = stored(tmp_path, values, [64, 4096])
    monkeypatch.setattr(orbax, "_BUFFER_BYTES", 100_000)
    reads: list[int] = []
    real = orbax._StoredBytes.readinto
    monkeypatch.setattr(orbax._StoredBytes, "readinto", lambda self, b: reads.append(len(b)) or real(self, b))
    assert np.array_equal(np.concatenate(list(leaf.row_blocks(4))), values)
    assert max(reads) <= 100_000 and len(reads) >= 8


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
