"""pi0 in PyTorch layouts: read as openpi's JAX tree, converted, and held to what the real modules save and answer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import torch_layouts as tl
from checkpoints.conftest import G1
from safetensors.torch import load_file, save_file

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, fetch, parity, probe, reference, reference_torch, torch_tree
from flashtrail.policies.pi0 import transforms

LAYOUTS = [tl.OPENPI, tl.LEROBOT, tl.OLD]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return tl.state_dict(tl.golden())


@pytest.fixture(scope="module", params=LAYOUTS)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory, tensors: Tensors, tokenizer_bytes: bytes) -> Path:
    """A folder in one layout, which tests must not write to; the tokenizer beside it."""
    root = tl.write(tmp_path_factory.mktemp(request.param) / "mine", request.param, tensors)
    (root.parent / "tok").write_bytes(tokenizer_bytes)
    return root


def converted(folder: Path, out: Path, dtype: str = "float32", **declared: Any) -> dict[str, Any]:
    """Probe, fetch and convert; the manifest."""
    candidate = probe.select(probe.probe([str(folder)], {**tl.DECLARED, **declared}, "mine"))
    tokenizer = (folder if folder.is_dir() else folder.parent).parent / "tok"
    fetched = fetch.fetch(candidate, out, str(tokenizer), None, lambda line: None)
    return artifact.convert_base(out / "source", out / "base", dtype, fetched)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_small_trees_are_what_the_real_modules_save(tensors: Tensors, layout: str) -> None:
    """Names, dtypes, shapes and bytes of openpi 15a9616, LeRobot 0.4.4 and LeRobot 0.3.3's converter."""
    real = json.loads((tl.G6 / "index.json").read_bytes())[layout]
    found = {
        name: [str(x.dtype), list(x.shape), hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16]]
        for name, x in tl.renamed(tensors, layout).items()
    }
    assert found == real["tensors"]
    assert any("embed_tokens" in name for name in found) == (layout == tl.OLD), "else only as lm_head"


def test_every_leaf_is_the_jax_tree_s(folder: Path) -> None:
    ours, theirs = torch_tree.open_tree(folder, {"vision_heads": tl.HEADS}), tl.golden()
    assert list(ours) == sorted(theirs)
    for path, leaf in ours.items():
        values = leaf.read()
        assert (leaf.shape, leaf.dtype) == (values.shape, values.dtype)
        assert np.array_equal(values, theirs[path]), path
        if leaf.rule.stacked or path.endswith("input_embedding"):
            assert np.array_equal(np.concatenate(list(leaf.row_blocks(2))), values), path


def test_all_layouts_give_the_same_weights_and_pass_the_gate(folder: Path, tmp_path: Path, whole_source: Path) -> None:
    manifest = converted(folder, tmp_path / "out")
    plain = artifact.convert_base(whole_source, tmp_path / "base")
    assert manifest["files"]["model.safetensors"] == plain["files"]["model.safetensors"]
    assert manifest["dims"] == plain["dims"] and manifest["source"]["class"] == probe.TORCH_ONLY
    if folder.parent.name.startswith(tl.OPENPI):
        assert manifest["digest"] == plain["digest"], "statistics are copied, not moved"
    shutil.copy(whole_source / "draft.pt", tmp_path / "out/source")
    artifact.convert_draft(whole_source / "draft.pt", tmp_path / "draft", base=tmp_path / "out/base")
    result = parity.check_parity(tmp_path / "out/source", tmp_path / "out/base", tmp_path / "draft")
    assert result["passed"] and "decisions" in {row["stage"] for row in result["stages"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_weights_pass_the_gate(tmp_path: Path, tensors: Tensors, tokenizer_bytes: bytes, dtype: str) -> None:
    """As openpi's converter saves them by default; LeRobot keeps norms in float32 beside them."""
    mixed = {n: x if "norm" in n else x.bfloat16() for n, x in tensors.items()}
    (tmp_path / "tok").write_bytes(tokenizer_bytes)
    converted(tl.write(tmp_path / "mine", tl.LEROBOT, mixed), tmp_path / "out", dtype)
    assert parity.check_parity(tmp_path / "out/source", tmp_path / "out/base")["passed"]


def test_shards_and_a_lone_file_are_read(tmp_path: Path, tensors: Tensors, tokenizer_bytes: bytes) -> None:
    (tmp_path / "tok").write_bytes(tokenizer_bytes)
    whole = tl.write(tmp_path / "whole", tl.OLD, tensors)
    both = load_file(whole / "model.safetensors")
    parts = Path(shutil.copytree(whole, tmp_path / "parts"))
    (parts / "model.safetensors").unlink()
    for i, start in enumerate(("model.paligemma", ""), 1):
        names = [n for n in both if n.startswith("model.paligemma") == bool(start)]
        save_file({n: both[n] for n in names}, parts / f"model-0000{i}-of-00002.safetensors")
    assert converted(parts, tmp_path / "a")["digest"] == converted(whole, tmp_path / "b")["digest"]
    alone = probe.probe_candidate(str(whole / "model.safetensors"), tl.DECLARED, "mine")
    assert (alone["usable"], alone["norm_stats"]) == (True, ["model.safetensors"]), (
        "its statistics are among the weights"
    )


# --- the source's forward pass, against the real modules' answers ---


def answer(source: reference_torch.Source, n: int) -> np.ndarray:
    obs = np.load(G1 / f"obs{n}.npz")
    pictures = [obs[f"image_{v}"].astype(np.float32) / 255 * 2 - 1 for v in ("base_0_rgb", "left_wrist_0_rgb")]
    views = [reference_torch.encode_view(source, picture) for picture in pictures]
    pre = reference_torch.prefill(source, views, obs["token_ids"][obs["token_mask"]])
    _, steps = reference.denoise(source, pre, obs["state_normalized"], obs["noise"], reference_torch.velocity)
    return np.asarray(steps[-1])


def test_the_reference_answers_as_the_real_modules(folder: Path, tmp_path: Path) -> None:
    """LeRobot takes each step's time as ours do; openpi adds them up in float32, which is 8e-5 of an action of 4.7."""
    real = np.load(tl.G6 / "actions.npz")
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    tl.facts(own)
    source = reference_torch.load_source(own)
    for n in (0, 2):
        found = answer(source, n)
        np.testing.assert_allclose(found[:, :7], real[f"lerobot/obs{n}/actions"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(found, real[f"openpi/obs{n}/actions"], rtol=0, atol=1.5e-4)


WRONG = {  # fault: a leaf of a stack, what is done to it, the first stage that it breaks
    "gate and up swapped": ("/gating_einsum", lambda x: x[::-1], "prefix/layer_0"),
    "keys and values swapped": ("kv_einsum/w", lambda x: x[::-1], "prefix_k/layer_0"),
    "heads reversed": ("q_einsum_1/w", lambda x: x[::-1], "expert/layer_0"),
    "a projection not turned": ("action_time_mlp_out/kernel", lambda x: x.T, "suffix"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_reader_that_is_wrong_does_not_pass_the_gate(
    tmp_path: Path, tensors: Tensors, tokenizer_bytes: bytes, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    end, wrong, stage = WRONG[fault]
    (tmp_path / "tok").write_bytes(tokenizer_bytes)
    right = torch_tree._Rule.arrange
    monkeypatch.setattr(
        torch_tree._Rule,
        "arrange",
        lambda rule, *x: wrong(right(rule, *x)) if rule.leaf.endswith(end) else right(rule, *x),
    )
    converted(tl.write(tmp_path / "mine", tl.OPENPI, tensors), tmp_path / "out")
    with pytest.raises(UserError, match=f"first stage that diverges is {stage}"):
        parity.check_parity(tmp_path / "out/source", tmp_path / "out/base")


# --- statistics ---


@pytest.mark.parametrize("place", ["processors", "buffers", "meta/stats.json", "stats.json"])
def test_statistics_do_what_lerobot_s_do(tmp_path: Path, tensors: Tensors, tokenizer_bytes: bytes, place: str) -> None:
    """Against LeRobot 0.4.4's own normaliser and unnormaliser, whose formulas differ from openpi's in the eps."""
    (tmp_path / "tok").write_bytes(tokenizer_bytes)
    root = tl.write(tmp_path / "mine", tl.OLD if place == "buffers" else tl.LEROBOT, tensors)
    if place.endswith("json"):
        for path in root.glob("policy_*"):
            path.unlink()
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text(json.dumps({"observation.state": tl.STATS["state"], "action": tl.STATS["actions"]}))
    manifest = converted(root, tmp_path / "out", delta_actions=False)
    assert manifest["transforms"] == {"delta_actions": False}
    state, actions = transforms.read_norm_stats(tmp_path / "out/base/norm_stats.json", 8, 7, 32)
    real = np.load(tl.G6 / "actions.npz")
    for n in range(3):
        raw = np.load(G1 / f"obs{n}.npz")["state_raw"]
        np.testing.assert_allclose(state.normalize(raw), real[f"lerobot/obs{n}/state"], rtol=0, atol=1e-6)
        chunk = actions.unnormalize(real[f"lerobot/obs{n}/actions"])
        np.testing.assert_allclose(chunk, real[f"lerobot/obs{n}/actions_env"], rtol=0, atol=5e-7)
    parity.check_parity(tmp_path / "out/source", tmp_path / "out/base")
    stats = tmp_path / "out/source" / place
    if place.endswith("json"):
        stats.write_text(stats.read_text().replace("0.316917", "0.316918"))
        with pytest.raises(UserError, match="diverges is norm_stats"):
            parity.check_parity(tmp_path / "out/source", tmp_path / "out/base")


# --- what does not fit ---

Q = "paligemma_with_expert.paligemma.model.language_model.layers.1.self_attn.q_proj.weight"
DOWN = "paligemma_with_expert.gemma_expert.model.layers.{}.mlp.down_proj.weight"


def without(name: str) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        del t[name]

    return change


def cut(*names: str, axis: int = 0, to: int = 24) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        for name in names:
            t[name] = t[name].narrow(axis, 0, to).contiguous()

    return change


NAMED = "missing paligemma.model.language_model.layers.1.self_attn.q_proj.weight$"
LEAF = r"gating_einsum \(of .*gate_proj.weight\) has shape \(3, 2, 32, 64\), .* imply \(3, 32, 24\)"
FAULTS: dict[str, tuple[Callable[[Tensors], Any], dict[str, Any], str]] = {
    "a tensor is missing": (without(Q), {}, NAMED),
    "the embeddings are missing": (
        without("paligemma_with_expert.paligemma.lm_head.weight"), {}, "missing paligemma.lm_head.weight$"
    ),
    "a projection is missing": (without("state_proj.bias"), {}, "missing state_proj.bias$"),
    "a tensor too many": (lambda t: t.update({"q.lora_A": torch.zeros(2, 2)}), {}, "unexpected q.lora_A$"),
    "a layer of another size": (cut(Q, to=48), {}, rf"{Q} has shape \(48, 64\): expected \(64, 64\)"),
    "a flat weight": (lambda t: t.update({"state_proj.weight": torch.zeros(8)}), {}, r"not the axes, .*weight \(8,\)"),
    "no whole heads": (cut(*(Q.replace(".1.", f".{i}.") for i in range(3)), to=40), {}, r"q_proj.weight \(40, 64\)"),
    "all layers of another size": (cut(*(DOWN.format(i) for i in range(3)), axis=1), {}, LEAF),
    "another state_dim": (cut("state_proj.weight", axis=1), {}, r"state_proj/kernel \(of .*\) has shape \(24, 32\)"),
    "heads not stated": (lambda t: None, {"vision_heads": None}, "must say vision_heads, .* 48 wide"),
    "heads that do not divide": (lambda t: None, {"vision_heads": 5}, "it says 5"),
    "doubles": (lambda t: t.update({"state_proj.bias": torch.zeros(32).double()}), {}, "state_proj.bias holds F64"),
    "a name twice": (lambda t: t.update({"model.state_proj.bias": torch.zeros(32)}), {}, "and, as model.state_proj"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_one_line(tmp_path: Path, tensors: Tensors, fault: str) -> None:
    change, facts, message = FAULTS[fault]
    own = dict(tensors)
    change(own)
    root = tl.write(tmp_path / "mine", tl.OPENPI, own)
    tl.facts(root, **facts)
    with pytest.raises(UserError, match=message) as caught:
        artifact.convert_base(root, tmp_path / "base")
    assert "\n" not in str(caught.value) and not (tmp_path / "base").exists()


def test_a_file_that_is_cut_off_or_lies_is_one_line(tmp_path: Path, tensors: Tensors) -> None:
    root = tl.write(tmp_path / "mine", tl.OPENPI, tensors)
    tl.facts(root)
    file, whole = root / "model.safetensors", (root / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    changed = [whole[8:end].replace(old, new) for old, new in ((b'"F32"', b'"F16"'), (b":[", b":{"))]
    for damaged in (whole[:-5], whole[:100], *(whole[:8] + header + whole[end:] for header in changed)):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|cut off|does not lie in the file") as caught:
            artifact.convert_base(root, tmp_path / "base")
        assert "\n" not in str(caught.value)
