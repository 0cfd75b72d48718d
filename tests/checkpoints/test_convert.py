"""The mapping from source leaves to artifact tensors, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.conftest import FACTS, G1, G4

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import convert, layouts, orbax
from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.dims import PI0_LIBERO, DraftDims, Pi0Dims, nano_dims

STEM = {"pool": 2, "layers": [{"kernel": 7, "stride": 4, "channels": 24}, {"kernel": 3, "stride": 4, "channels": 48}]}


@pytest.fixture(scope="module")
def tree() -> dict[str, np.ndarray]:
    return orbax.read_tree(G1 / "checkpoint/params")


def test_dims_are_those_of_the_model(tree: dict[str, np.ndarray]) -> None:
    _, dims = convert.base_tensors(tree, FACTS)
    assert dims["vision"] == {
        "width": 48, "depth": 2, "mlp_dim": 80, "num_heads": 2, "head_dim": 24, "patch": 14,
        "image_size": 224, "stem": None,
    }  # fmt: skip
    assert dims["prefix"] == {
        "width": 64, "depth": 3, "mlp_dim": 128, "num_heads": 4, "num_kv_heads": 1, "head_dim": 16
    }  # fmt: skip
    assert (dims["expert"]["width"], dims["expert"]["mlp_dim"], dims["vocab_size"]) == (32, 64, 512)
    assert (dims["num_views"], dims["num_steps"], dims["max_token_len"]) == (2, 10, 48)


@pytest.mark.parametrize("model", [PI0_LIBERO, nano_dims(64), nano_dims(64, stem=False)])
def test_the_layout_has_the_shapes_that_the_engine_reads(model: Pi0Dims) -> None:
    assert layouts.base_shapes(model.to_dict()) == weights.base_shapes(model)
    draft = DraftDims.like(model)
    assert layouts.draft_shapes(draft.to_dict()) == weights.draft_shapes(draft)


def test_both_leaf_conventions_give_identical_tensors(tree: dict[str, np.ndarray]) -> None:
    suffixed = orbax.read_tree(G1 / "checkpoint_value_suffix/params")
    (ours, dims), (theirs, other) = convert.base_tensors(tree, FACTS), convert.base_tensors(suffixed, FACTS)
    assert dims == other
    assert ours.keys() == theirs.keys() == layouts.base_shapes(dims).keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_einsum_leaves_become_in_by_out_matrices(tree: dict[str, np.ndarray]) -> None:
    tensors, _ = convert.base_tensors(tree, FACTS)
    llm, x = "PaliGemma/llm/layers/", np.random.default_rng(0).standard_normal(64).astype(np.float32)
    heads = np.einsum("d,ndh->nh", x, tree[llm + "attn/q_einsum/w"][1]).reshape(-1)
    assert np.allclose(x @ tensors["prefix.layers.q.weight"][1], heads, atol=1e-5)
    values = np.einsum("d,kdh->kh", x, tree[llm + "attn/kv_einsum/w"][2, 1]).reshape(-1)
    assert np.allclose(x @ tensors["prefix.layers.v.weight"][2], values, atol=1e-5)
    attn = "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/"
    y = x[:48]
    out = np.einsum("he,hed->d", y.reshape(2, 24), tree[attn + "out/kernel"][0])
    assert np.allclose(y @ tensors["vision.layers.o.weight"][0], out, atol=1e-5)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "rank"])
def test_a_tree_that_does_not_fit_is_named(tree: dict[str, np.ndarray], change: str) -> None:
    broken: dict[str, Any] = dict(tree)
    leaf = "PaliGemma/llm/layers/attn/attn_vec_einsum_1/w"
    if change == "missing":
        del broken[leaf]
    elif change == "unexpected":
        leaf = "PaliGemma/llm/layers/attn/lora_a"
        broken[leaf] = np.zeros((3, 4))
    elif change == "shape":
        broken[leaf] = broken[leaf][..., :-1]
    else:
        broken[leaf] = broken[leaf].reshape(3, -1)
    with pytest.raises(UserError, match=leaf) as caught:
        convert.base_tensors(broken, FACTS)
    assert "\n" not in str(caught.value)


def test_a_declared_stem_takes_the_place_of_the_patches(tree: dict[str, np.ndarray]) -> None:
    tensors, dims = convert.base_tensors(_with_stem(tree), {**FACTS, "stem": STEM})
    assert dims["vision"]["stem"]["layers"] == STEM["layers"]
    assert dims["vision"]["patch"] is None
    assert tensors["vision.stem.1.weight"].shape == (3, 3, 24, 48)
    assert tensors["vision.pos_embed"].shape == (49, 48)
    assert "vision.patch_embed.weight" not in tensors


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({}, "declares no stem"),
        ({"stem": {**STEM, "layers": STEM["layers"][:1]}}, "kernels are"),
        ({"stem": {"pool": 2}}, "stem needs"),
        ({"stem": {**STEM, "pool": 1}}, "pos_embed"),
        ({"stems": STEM}, "did you mean 'stem'"),
    ],
)
def test_a_stem_that_does_not_fit_is_refused(tree: dict[str, np.ndarray], declared: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        convert.base_tensors(_with_stem(tree), {**FACTS, **declared})


def _with_stem(tree: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    img = "PaliGemma/img/"
    out = {path: x for path, x in tree.items() if not path.startswith(img + "embedding")}
    channels = 3
    for i, layer in enumerate(STEM["layers"]):
        out[f"{img}stem/conv_{i}/kernel"] = np.zeros((layer["kernel"],) * 2 + (channels, layer["channels"]), np.float32)
        channels = layer["channels"]
        out[f"{img}stem/conv_{i}/bias"] = np.zeros(channels, np.float32)
    out[img + "pos_embedding"] = tree[img + "pos_embedding"][:, :49]
    return out


# --- the draft head ---


def test_draft_matrices_are_transposed_and_norms_are_float32() -> None:
    tensors, dims = convert.draft_tensors(G4 / "draft.pt")
    saved = torch.load(G4 / "draft.pt", weights_only=True)["draft_head"]
    assert dims == {
        "width": 64, "mlp_dim": 128, "num_heads": 4, "num_kv_heads": 1, "head_dim": 16, "chunk": 50,
        "state_dim": 32, "out_dim": 7,
    }  # fmt: skip
    assert np.array_equal(tensors["gate.weight"], saved["_gemma_block.mlp.gate_proj.weight"].numpy().T)
    assert np.array_equal(tensors["action_queries"], saved["_action_queries.weight"].numpy())
    assert saved["_gemma_block.input_layernorm.weight"].dtype == torch.bfloat16
    assert {x.dtype for x in tensors.values()} == {np.dtype(np.float32)}


def test_a_draft_without_meta_gets_upstream_defaults(tmp_path: Path) -> None:
    saved = torch.load(G4 / "draft.pt", weights_only=True)
    torch.save({"draft_head": saved["draft_head"]}, tmp_path / "draft.pt")
    _, dims = convert.draft_tensors(tmp_path / "draft.pt")
    assert (dims["num_heads"], dims["num_kv_heads"], dims["head_dim"]) == (4, 1, 16)


class _Runs:
    """Unpickling this would run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_a_draft_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    torch.save({"draft_head": {"_state_token.weight": _Runs(marker)}}, tmp_path / "draft.pt")
    with pytest.raises(UserError, match="not plain tensors"):
        convert.draft_tensors(tmp_path / "draft.pt")
    assert not marker.exists()


def test_drafts_that_are_broken_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "draft.pt"
    path.write_bytes((G4 / "draft.pt").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        convert.draft_tensors(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="holds no draft_head"):
        convert.draft_tensors(path)
    saved = torch.load(G4 / "draft.pt", weights_only=True)
    saved["draft_head"]["_action_head.weight"] = torch.zeros(7, 32)
    torch.save(saved, path)
    with pytest.raises(UserError, match=r"action_head.weight \(32, 7\)"):
        convert.draft_tensors(path)
    with pytest.raises(UserError, match="does not exist"):
        convert.draft_tensors(tmp_path / "nowhere.pt")
