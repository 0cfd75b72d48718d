"""LoRA deltas: merged as openpi's forward pass applies them, streamed or whole, and refused where they do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.conftest import FACTS, save_tree
from safetensors.numpy import load_file

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, convert, facts, lora, orbax, parity

RANK = 3
SCALING = {"prefix": 2.0, "expert": 0.5}  # alpha / rank of each stack
LAYERS = "PaliGemma/llm/layers/"
Tree = dict[str, np.ndarray]


def with_lora(tree: Tree, suffixes: tuple[str, ...] = ("", "_1")) -> Tree:
    """The tree with factors for every weight that openpi's LoRA configs touch, large enough to matter."""
    rng, out = np.random.default_rng(3), dict(tree)
    for suffix in suffixes:
        for leaf in (
            f"{LAYERS}attn/q_einsum{suffix}/w",
            f"{LAYERS}attn/kv_einsum{suffix}/w",
            f"{LAYERS}attn/attn_vec_einsum{suffix}/w",
            f"{LAYERS}mlp{suffix}/gating_einsum",
            f"{LAYERS}mlp{suffix}/linear",
        ):
            shape = tree[leaf].shape
            stem = leaf[:-1] if leaf.endswith("/w") else leaf + "_"
            out[stem + "lora_a"] = rng.normal(0, 0.1, (*shape[:-1], RANK)).astype(np.float32)
            out[stem + "lora_b"] = rng.normal(0, 0.1, (*shape[:-2], RANK, shape[-1])).astype(np.float32)
    return out


@pytest.fixture
def lora_source(source: Path) -> Path:
    save_tree(source, with_lora(orbax.read_tree(source / "params")))
    (source / facts.FACTS).write_text(json.dumps({**FACTS, "lora_scaling": SCALING}))
    return source


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_merged_model_is_the_source_with_its_deltas(lora_source: Path, tmp_path: Path, dtype: str) -> None:
    """The reference applies the two factors one after the other, as openpi does, and never merges in float32."""
    artifact.convert_base(lora_source, tmp_path / "base", dtype)
    assert parity.check_parity(lora_source, tmp_path / "base")["passed"]


def test_deltas_are_not_a_detail(lora_source: Path, whole_source: Path, tmp_path: Path) -> None:
    artifact.convert_base(whole_source, tmp_path / "base")
    with pytest.raises(UserError, match="stage that diverges is prefix_k/layer_0"):
        parity.check_parity(lora_source, tmp_path / "base")


def test_streamed_and_whole_trees_merge_alike(
    lora_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "_BLOCK_BYTES", 1)  # a layer at a time
    artifact.convert_base(lora_source, tmp_path / "base")
    extra = json.loads((lora_source / facts.FACTS).read_text())
    expected, _ = convert.base_tensors(orbax.read_tree(lora_source / "params"), extra)
    found = load_file(tmp_path / "base" / artifact.MODEL)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_delta_is_what_the_two_contractions_give() -> None:
    """Independent of any forward pass: one head's output goes through every head's second factor."""
    rng = np.random.default_rng(0)
    w, a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 4, 5, 6), (1, 4, 5, 2), (1, 4, 2, 6)))
    x = rng.standard_normal((4, 5)).astype(np.float32)  # one row: heads, head_dim
    heads = lora.Lora("a", "b", 0.5, over_heads=True).merge(w, a, b)
    rank = sum(x[n] @ a[0, n] for n in range(4))
    expected = sum(x[n] @ w[0, n] for n in range(4)) + 0.5 * sum(rank @ b[0, m] for m in range(4))
    assert np.allclose(np.einsum("nh,nhd->d", x, heads[0]), expected, atol=1e-5)


# module -> openpi's equation in its forward pass
EINSUMS = {
    "q_einsum": "BTD,NDH->BTNH",
    "kv_einsum": "BSD,2KDH->2BSKH",
    "attn_vec_einsum": "BTNH,NHD->BTD",
}
SIZES = {"B": 2, "T": 3, "S": 3, "N": 4, "K": 1, "D": 6, "H": 5, "2": 2, "L": RANK}


def openpi_einsum(equation: str, x: np.ndarray, w: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float) -> Any:
    """openpi's LoRA einsum: the last two axes of the weight are its input and output, the rank is named L."""
    given, weight, out = equation.replace(",", "->").split("->")
    first, last = weight[-2:]
    middle = out.replace(last, "L")
    inner = np.einsum(f"{given},{weight.replace(last, 'L')}->{middle}".replace("2", "z"), x, a)
    delta = np.einsum(f"{middle},{weight.replace(first, 'L')}->{out}".replace("2", "z"), inner, b)
    return np.einsum(equation.replace("2", "z"), x, w) + scale * delta


@pytest.mark.parametrize("suffix", ["", "_1"])
@pytest.mark.parametrize("module", EINSUMS)
def test_each_einsum_is_merged_as_openpi_applies_it(module: str, suffix: str) -> None:
    """With the equations that openpi derives from its own, for both stacks, each with its alpha / rank."""
    rng, equation = np.random.default_rng(1), EINSUMS[module]
    given, weight = equation.split("->")[0].split(",")
    shape = tuple(SIZES[c] for c in weight)
    w, a, b = (rng.standard_normal(s) for s in (shape, (*shape[:-1], RANK), (*shape[:-2], RANK, shape[-1])))
    x = rng.standard_normal([SIZES[c] for c in given])
    leaf = f"{LAYERS}attn/{module}{suffix}/"
    found = lora.find(dict(zip((leaf + "w", leaf + "lora_a", leaf + "lora_b"), (w, a, b), strict=True)), SCALING)
    merged = found[leaf + "w"].merge(w[None], a[None], b[None])[0]
    expected = openpi_einsum(equation, x, w, a, b, SCALING["expert" if suffix else "prefix"])
    assert np.allclose(np.einsum(equation.replace("2", "z"), x, merged), expected, atol=1e-4)


@pytest.mark.parametrize("suffix", ["", "_1"])
@pytest.mark.parametrize("name", ["gating_einsum", "linear"])
def test_each_product_of_the_mlp_is_merged_without_a_scale(name: str, suffix: str) -> None:
    rng, shape = np.random.default_rng(2), (2, 6, 8) if name == "gating_einsum" else (8, 6)
    w, a, b = (rng.standard_normal(s) for s in (shape, (*shape[:-1], RANK), (*shape[:-2], RANK, shape[-1])))
    x, leaf = rng.standard_normal((3, shape[-2])), f"{LAYERS}mlp{suffix}/{name}"
    found = lora.find({leaf: w, leaf + "_lora_a": a, leaf + "_lora_b": b}, SCALING)
    merged = found[leaf].merge(w[None], a[None], b[None])[0]
    assert np.allclose(x @ merged, x @ w + (x @ a) @ b, atol=1e-4)


def refused(tree: Tree) -> str:
    with pytest.raises(UserError) as caught:
        convert.plan_base(tree, FACTS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_factors_that_do_not_fit_are_named(whole_source: Path) -> None:
    tree = with_lora(orbax.read_tree(whole_source / "params"), ("_1",))
    first, second = f"{LAYERS}attn/q_einsum_1/lora_a", f"{LAYERS}mlp_1/linear_lora_b"
    assert f"{first.replace('lora_a', 'lora_b')} has no partner {first}" in refused(
        {name: x for name, x in tree.items() if name != first}
    )
    assert second.replace("_b", "_a") in refused({name: x for name, x in tree.items() if name != second})
    assert "not a LoRA delta of" in refused({**tree, first: tree[first][..., :2]})
    assert re.search("unexpected .*img/head/lora_a", refused({**tree, "PaliGemma/img/head/lora_a": tree[first]}))


@pytest.mark.parametrize("scaling", [{"prefix": 1.0}, 2.0, {"prefix": 1.0, "vision": 1.0}])
def test_a_scaling_that_says_too_little_is_refused(scaling: object) -> None:
    with pytest.raises(UserError, match="lora_scaling needs a number"):
        convert.read_facts({**FACTS, "lora_scaling": scaling})
