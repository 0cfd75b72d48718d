"""Artifacts: format, determinism, streaming, and every way in which one is refused or left unwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from checkpoints.conftest import FACTS, G1, ORIGIN
from safetensors import safe_open
from safetensors.numpy import load_file

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, convert, layouts, orbax
from flashtrail.policies.pi0 import weights

MODEL = artifact.MODEL
STATS = "assets/physical-intelligence/libero/norm_stats.json"


def test_the_engine_reads_what_the_converter_writes(artifacts: Path) -> None:
    base, dims, manifest = weights.load_base(artifacts / "base")
    draft, ddims, _ = weights.load_draft(artifacts / "draft")
    ddims.check_fits(dims)
    expected, _ = convert.base_tensors(orbax.read_tree(G1 / "checkpoint/params"), FACTS)
    number = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[manifest["dtype"]]
    assert base.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(base[name].numpy(), values.astype(number).astype(np.float32)), name
    assert draft["action_queries"].shape == (50, 64)


def test_the_manifest_describes_the_directory(artifacts: Path) -> None:
    manifest = artifact.verify_artifact(artifacts / "base")
    assert sorted(p.name for p in (artifacts / "base").iterdir()) == [
        "manifest.json", "model.safetensors", "norm_stats.json", "tokenizer.model",
    ]  # fmt: skip
    assert manifest["source"] == ORIGIN
    assert manifest["transforms"] == {"delta_actions": True}
    assert manifest["dims"]["prefix"]["width"] == 64
    draft = artifact.verify_artifact(artifacts / "draft")
    assert (draft["kind"], sorted(draft["files"])) == ("draft", ["model.safetensors"])
    with safe_open(artifacts / "base" / MODEL, framework="np") as file:
        assert set(file.keys()) == layouts.base_shapes(manifest["dims"]).keys()


def test_a_second_conversion_gives_the_same_bytes(artifacts: Path, whole_source: Path, tmp_path: Path) -> None:
    dtype = artifact.read_manifest(artifacts / "base")["dtype"]
    artifact.convert_base(whole_source, tmp_path / "base", dtype, ORIGIN)
    for path in (artifacts / "base").iterdir():
        assert path.read_bytes() == (tmp_path / "base" / path.name).read_bytes(), path.name


def test_small_blocks_give_the_same_bytes(
    artifacts: Path, whole_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = artifact.read_manifest(artifacts / "base")["dtype"]
    monkeypatch.setattr(artifact, "_BLOCK_BYTES", 1000)
    artifact.convert_base(whole_source, tmp_path / "base", dtype)
    assert (tmp_path / "base" / MODEL).read_bytes() == (artifacts / "base" / MODEL).read_bytes()


@pytest.fixture
def base(artifacts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts / "base", tmp_path / "base"))


@pytest.mark.parametrize("lost", [1, 100_000, "header", "all"])
def test_a_truncated_artifact_is_one_line(base: Path, lost: Any) -> None:
    path = base / MODEL
    data = path.read_bytes()
    path.write_bytes(data[:40] if lost == "header" else b"" if lost == "all" else data[:-lost])
    with pytest.raises(UserError, match=r"model\.safetensors has \d+ bytes") as caught:
        artifact.verify_artifact(base)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"truncated|cut off"):
        artifact.read_header(path)


@pytest.mark.parametrize("position", [3, 200, -1])
def test_one_changed_byte_is_found(base: Path, position: int) -> None:
    data = bytearray((base / MODEL).read_bytes())
    data[position] ^= 1
    (base / MODEL).write_bytes(data)
    with pytest.raises(UserError, match="corrupted"):
        artifact.verify_artifact(base)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "manifest.json"])
def test_a_missing_file_is_named(base: Path, name: str) -> None:
    (base / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        artifact.verify_artifact(base)


def test_an_edited_manifest_is_found(base: Path) -> None:
    manifest = json.loads((base / "manifest.json").read_text())
    manifest["dims"]["num_steps"] = 5
    (base / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="was edited"):
        artifact.verify_artifact(base)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (("dims", "vision"), None, "dims.vision must be a mapping, not NoneType"),
        (("dims", "prefix"), 3, "dims.prefix must be a mapping, not int"),
        (("dims", "action_dim"), "x", "dims.action_dim must be a positive integer, not 'x'"),
        (("dims", "vision", "patch"), "x", "dims.vision.patch must be a positive integer, not 'x'"),
        (("dims", "vision", "stem"), {"layers": 3}, "dims.vision.stem.layers must be a list of layers"),
        (("dtype",), None, "dtype must be one of float32, bfloat16"),
        (("dtype",), ["float32"], "dtype must be one of float32, bfloat16"),
    ],
)
def test_dims_that_cannot_be_are_one_line(base: Path, tmp_path: Path, key: Any, value: Any, said: str) -> None:
    manifest = json.loads((base / "manifest.json").read_text())
    *outer, last = key
    part = manifest
    for name in outer:
        part = part[name]
    part[last] = value
    manifest["digest"] = artifact.artifact_digest(manifest["files"], manifest["dims"])  # as a stranger writes it
    (base / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as caught:
        artifact.take_artifact(base, tmp_path / "out")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": None}, "files: expected a mapping, not nothing"),
        ({"files": ["a"]}, "files: expected a mapping, not a list"),
        ({"files": {"a": {}}}, "files.a.sha256: is missing"),
        ({"files": {"a": 3}}, "files.a: expected a mapping, not a number"),
        ({"files": {"a": {"sha256": "", "bytes": -1}}}, "files.a.bytes: must be at least 0, not -1"),
        ({"files": {"../a": {"sha256": "", "bytes": 0}}}, "'../a', a file outside its directory"),
        ({"files": {"..": {"sha256": "", "bytes": 0}}}, "is missing"),
        ({"files": {"": {"sha256": "", "bytes": 0}}}, "is missing"),
        ({"dims": 3}, "dims: expected a mapping, not a number"),
        ({"digest": None}, "digest: must be text, not None"),
        ({"kind": "draft"}, "is a draft artifact where a base artifact is needed"),
        ({"kind": []}, "kind: unknown value []"),
        ({"family": "pi0"}, "does not list model.safetensors"),
        ({"family": "nothin"}, "did you mean 'nothing'?"),
        ({"version": 2}, "is not a flashtrail-artifact manifest of version 1"),
    ],
)
def test_an_artifact_of_a_stranger_is_taken_or_refused_in_one_line(tmp_path: Path, changes: Any, said: str) -> None:
    shipped = Path(__file__).parents[2] / "resources/still"
    manifest = artifact.take_artifact(shipped, tmp_path / "whole")
    assert artifact.read_manifest(tmp_path / "whole") == manifest
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(UserError) as caught:
        artifact.take_artifact(tmp_path, tmp_path / "out")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_padded_statistics_are_accepted(source: Path, tmp_path: Path) -> None:
    shutil.copy(G1 / "norm_stats_padded32" / STATS, source / STATS)
    artifact.convert_base(source, tmp_path / "base")
    assert (tmp_path / "base/norm_stats.json").read_bytes() == (source / STATS).read_bytes()


def broken_stats(key: str, field: str, values: Any) -> Any:
    def change(root: dict[str, Any]) -> None:
        root["norm_stats"][key][field] = values(root["norm_stats"][key][field])

    return change


STATS_FAULTS = [
    (broken_stats("state", "mean", lambda v: v[:7]), "state.mean has 7 entries, not 8 or 32"),
    (broken_stats("actions", "std", lambda v: [*v, 1.0]), "actions.std has 8 entries, not 7 or 32"),
    (broken_stats("state", "mean", lambda v: v + [0.0] * 24), "32 means for 8"),
    (broken_stats("actions", "mean", lambda v: [*v[:6], float("nan")]), "not finite"),
    (broken_stats("actions", "std", lambda v: [*v[:6], -1.0]), "negative"),
    (broken_stats("actions", "std", lambda v: "seven"), "must be a list"),
    (lambda root: root["norm_stats"].pop("actions"), "lacks 'actions'"),
    (lambda root: root.pop("norm_stats"), "no norm_stats object"),
]


@pytest.mark.parametrize(("change", "said"), STATS_FAULTS)
def test_statistics_that_do_not_fit_leave_nothing(source: Path, tmp_path: Path, change: Any, said: str) -> None:
    root = json.loads((source / STATS).read_text())
    change(root)
    (source / STATS).write_text(json.dumps(root))
    refused(source, tmp_path, said)


def test_missing_or_doubled_statistics_leave_nothing(source: Path, tmp_path: Path) -> None:
    (source / "assets/other").mkdir()
    shutil.copy(source / STATS, source / "assets/other/norm_stats.json")
    refused(source, tmp_path, "exactly one norm_stats.json below assets/; found: assets/other")
    shutil.rmtree(source / "assets")
    refused(source, tmp_path, "found: none")


def test_a_tokenizer_that_does_not_fit_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.model").write_bytes(b"<html>not a model</html>")
    refused(source, tmp_path, "not a SentencePiece model")
    (source / "tokenizer.model").unlink()
    refused(source, tmp_path, "tokenizer.model is missing")


def test_a_tokenizer_with_more_pieces_than_embeddings_is_refused(whole_source: Path) -> None:
    with pytest.raises(UserError, match="60 pieces, the checkpoint embeds 59"):
        artifact.check_tokenizer(whole_source / "tokenizer.model", 59)


def refused(source: Path, tmp_path: Path, said: str) -> None:
    with pytest.raises(UserError) as caught:
        artifact.convert_base(source, tmp_path / "out/base")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("x")])
def test_a_failure_in_the_middle_leaves_nothing_half_written(
    whole_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    real = orbax.Leaf.row_blocks

    def row_blocks(self: orbax.Leaf, step: int) -> Iterator[np.ndarray]:
        if self.path.endswith("attn_vec_einsum/w"):
            partial = list(tmp_path.glob("out/.base*/model.safetensors"))
            assert partial, "the failure must come after writing began"
            raise failure
        return real(self, step)

    monkeypatch.setattr(orbax.Leaf, "row_blocks", row_blocks)
    with pytest.raises((UserError, KeyboardInterrupt, RuntimeError)):
        artifact.convert_base(whole_source, tmp_path / "out/base")
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))


def test_a_failure_keeps_the_artifact_that_was_there(base: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = artifact.verify_artifact(base)
    monkeypatch.setattr(artifact, "write_safetensors", lambda *args: (_ for _ in ()).throw(RuntimeError("x")))
    with pytest.raises(RuntimeError):
        artifact.convert_base(source, base)
    assert artifact.verify_artifact(base) == before


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    def blocks() -> Iterator[np.ndarray]:
        yield np.array([1.0, np.inf], np.float32)

    with pytest.raises(UserError, match=r"tensor expert\.norm\.scale has values that are not finite"):
        artifact.write_safetensors(tmp_path / "x", {"expert.norm.scale": artifact.Stream((2,), blocks)}, "float32")


def test_bfloat16_rounds_as_torch_does(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    values[:2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)  # ties: down to even, up to even
    artifact.write_safetensors(tmp_path / "x", {"a": artifact.Stream((4096,), lambda: iter([values]))}, "bfloat16")
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), torch.from_numpy(values).bfloat16())


def test_float32_files_are_plain_safetensors(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(1, np.float32)}
    streams = {name: artifact.Stream(x.shape, artifact._whole(x)) for name, x in arrays.items()}
    artifact.write_safetensors(tmp_path / "x.safetensors", streams, "float32")
    loaded = load_file(tmp_path / "x.safetensors")
    assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)
    assert int.from_bytes((tmp_path / "x.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_a_draft_for_other_dims_is_refused(artifacts: Path, whole_source: Path, tmp_path: Path) -> None:
    saved = torch.load(whole_source / "draft.pt", weights_only=True)
    saved["draft_head"]["_action_queries.weight"] = torch.zeros(40, 64)
    torch.save(saved, tmp_path / "draft.pt")
    with pytest.raises(UserError, match="trained for another model: its chunk is 40, the base artifact's is 50"):
        artifact.convert_draft(tmp_path / "draft.pt", tmp_path / "draft", base=artifacts / "base")
    assert not (tmp_path / "draft").exists()


def test_an_unknown_dtype_offers_the_nearest(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        artifact.convert_base(source, tmp_path / "base", "bfloat")
