"""The official runtime's pickles: their import serves the same model."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from checkpoints.conftest import G4
from safetensors.numpy import load_file

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, official, orbax, parity, pickle_command

BF16 = ml_dtypes.bfloat16
FILES = ("base/base_weights.pkl", "draft/draft_triton.pkl")


@pytest.fixture
def exported(whole_source: Path, tmp_path: Path) -> Path:
    """The official converter's directories: the source's tensors in its layout, pickled by torch."""
    (tmp_path / "official/base").mkdir(parents=True)
    (tmp_path / "official/draft").mkdir()
    weights = {key: bfloat16(x) for key, x in official_construction(orbax.read_tree(whole_source / "params")).items()}
    put(tmp_path / "official" / FILES[0], weights | fused(weights))
    head = torch.load(G4 / "draft.pt", weights_only=True)
    put(tmp_path / "official" / FILES[1], official_draft(head["draft_head"]) | {"meta": head["meta"]})
    shutil.copytree(whole_source / "assets", tmp_path / "official/base/assets")
    shutil.copy(whole_source / "tokenizer.model", tmp_path / "official/base")
    return tmp_path / "official"


@pytest.fixture
def described(artifacts: Path, exported: Path) -> Path:
    manifest = artifact.read_manifest(artifacts / "base")
    sidecar = exported / "base" / pickle_command.SIDECAR
    sidecar.write_text(json.dumps({key: manifest[key] for key in ("dims", "transforms")}))
    return exported


def bfloat16(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).bfloat16()


def put(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content))


def unpickled(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return pickle.load(file)


def official_construction(tree: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of `base_weights.pkl`, float32, made of the source tree as docs/reference/FLASH.md E has it."""
    img, llm = "PaliGemma/img/", "PaliGemma/llm/"
    block = img + "Transformer/encoderblock/"
    attn = block + "MultiHeadDotProductAttention_0/"
    depth, width = tree[block + "LayerNorm_0/scale"].shape
    qkv = [tree[f"{attn}{name}/kernel"].reshape(depth, width, -1) for name in ("query", "key", "value")]
    biases = [tree[f"{attn}{name}/bias"].reshape(depth, -1) for name in ("query", "key", "value")]
    out = {
        "vision_patch_embedding_w": tree[img + "embedding/kernel"],
        "vision_patch_embedding_b": tree[img + "embedding/bias"],
        "vision_position_embedding": tree[img + "pos_embedding"][0],
        "vision_attn_qkv_w": np.concatenate(qkv, axis=2),
        "vision_attn_qkv_b": np.concatenate(biases, axis=1),
        "vision_attn_o_w": tree[attn + "out/kernel"].reshape(depth, -1, width),
        "vision_attn_o_b": tree[attn + "out/bias"],
        "vision_ffn_up_w": tree[block + "MlpBlock_0/Dense_0/kernel"],
        "vision_ffn_up_b": tree[block + "MlpBlock_0/Dense_0/bias"],
        "vision_ffn_down_w": tree[block + "MlpBlock_0/Dense_1/kernel"],
        "vision_ffn_down_b": tree[block + "MlpBlock_0/Dense_1/bias"],
        "vision_pre_attn_norm_w": tree[block + "LayerNorm_0/scale"],
        "vision_pre_attn_norm_b": tree[block + "LayerNorm_0/bias"],
        "vision_pre_ffn_norm_w": tree[block + "LayerNorm_1/scale"],
        "vision_pre_ffn_norm_b": tree[block + "LayerNorm_1/bias"],
        "vision_final_norm_w": tree[img + "Transformer/encoder_norm/scale"],
        "vision_final_norm_b": tree[img + "Transformer/encoder_norm/bias"],
        "encoder_multi_modal_projector_w": tree[img + "head/kernel"],
        "encoder_multi_modal_projector_b": tree[img + "head/bias"],
        "language_embedding_weight": tree[llm + "embedder/input_embedding"],
        "decoder_state_in_proj_w": tree["state_proj/kernel"],
        "decoder_state_in_proj_b": tree["state_proj/bias"],
        "decoder_action_in_proj_w": tree["action_in_proj/kernel"],
        "decoder_action_in_proj_b": tree["action_in_proj/bias"],
        "decoder_action_time_mlp_in_w": tree["action_time_mlp_in/kernel"],
        "decoder_action_time_mlp_in_b": tree["action_time_mlp_in/bias"],
        "decoder_action_mlp_w": tree["action_time_mlp_out/kernel"],
        "decoder_action_mlp_b": tree["action_time_mlp_out/bias"],
        "decoder_action_fused_out_proj_w": tree["action_out_proj/kernel"]
        * (1 + tree[llm + "final_norm_1/scale"][:, None])
        * np.float32(-0.1),
        "decoder_action_fused_out_proj_b": tree["action_out_proj/bias"] * np.float32(-0.1),
    }
    for name, suffix in (("encoder", ""), ("decoder", "_1")):
        out |= official_stack(tree, name, suffix)
    return out


def official_stack(tree: dict[str, np.ndarray], name: str, suffix: str) -> dict[str, np.ndarray]:
    """One Gemma stack: norms folded into rows, rotary halves of q and k in turns, value as it is."""
    llm = "PaliGemma/llm/layers/"
    q = tree[f"{llm}attn/q_einsum{suffix}/w"]  # (L, heads, W, head_dim)
    depth, heads, width, size = q.shape
    scale = 1 + tree[f"{llm}pre_attention_norm{suffix}/scale"][:, :, None]
    k, v = tree[f"{llm}attn/kv_einsum{suffix}/w"][:, :, 0].swapaxes(0, 1)
    q = q.transpose(0, 2, 1, 3).reshape(depth, width, heads * size)
    q = (q * scale).reshape(depth, width, heads, 2, size // 2).transpose(0, 1, 2, 4, 3).reshape(depth, width, -1)
    k = (k * scale).reshape(depth, width, 2, size // 2).transpose(0, 1, 3, 2).reshape(depth, width, size)
    after = 1 + tree[f"{llm}pre_ffw_norm{suffix}/scale"][:, :, None]
    return {
        f"{name}_attn_qkv_w": np.concatenate([q, k, v * scale], axis=2),
        f"{name}_attn_o_w": tree[f"{llm}attn/attn_vec_einsum{suffix}/w"].reshape(depth, heads * size, width),
        f"{name}_ffn_gate_w": tree[f"{llm}mlp{suffix}/gating_einsum"][:, 0] * after,
        f"{name}_ffn_up_w": tree[f"{llm}mlp{suffix}/gating_einsum"][:, 1] * after,
        f"{name}_ffn_down_w": tree[f"{llm}mlp{suffix}/linear"],
    }


def fused(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The two products that the official converter makes in bfloat16 of the rounded tensors."""
    kernel, bias = (weights[f"decoder_action_time_mlp_in_{n}"].double() for n in "wb")
    in_w, in_b = (weights[f"decoder_action_in_proj_{n}"].double() for n in "wb")
    width = len(in_b)
    angle = 2 * np.pi * (1 - torch.arange(10.0)[:, None] / 10) / (4e-3 * 1000 ** torch.linspace(0, 1, width // 2))
    times = torch.cat([angle.sin(), angle.cos()], dim=1).double()
    return {
        "decoder_action_fused_in_proj_w": (in_w @ kernel[:width]).bfloat16(),
        "decoder_action_fused_time_biases": (in_b @ kernel[:width] + times @ kernel[width:] + bias).bfloat16(),
    }


def official_draft(head: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`draft_triton.pkl` is a renaming of the trainer's tensors; query, key and value in one."""
    renamed = {
        "draft_state_in_proj_w": "_state_token.weight",
        "draft_state_in_proj_b": "_state_token.bias",
        "draft_action_queries": "_action_queries.weight",
        "draft_attn_o_w": "_gemma_block.self_attn.o_proj.weight",
        "draft_ffn_gate_w": "_gemma_block.mlp.gate_proj.weight",
        "draft_ffn_up_w": "_gemma_block.mlp.up_proj.weight",
        "draft_ffn_down_w": "_gemma_block.mlp.down_proj.weight",
        "draft_input_layernorm_w": "_gemma_block.input_layernorm.weight",
        "draft_post_attention_layernorm_w": "_gemma_block.post_attention_layernorm.weight",
        "draft_action_head_w": "_action_head.weight",
        "draft_action_head_b": "_action_head.bias",
    }
    qkv = torch.cat([head[f"_gemma_block.self_attn.{n}_proj.weight"] for n in "qkv"])
    return {key: head[name] for key, name in renamed.items()} | {"draft_qkv_w": qkv}


def test_an_import_serves_the_same_model(described: Path, whole_source: Path, tmp_path: Path) -> None:
    pickle_command.import_base(described / "base", tmp_path / "back", "float32")
    draft = pickle_command.import_draft(described / FILES[1], tmp_path / "draft", "float32", tmp_path / "back")
    assert draft["kind"] == "draft"
    inputs = parity.fixed_inputs(artifact.verify_artifact(tmp_path / "back")["dims"])
    rows = parity.compare(
        parity.source_values(whole_source, inputs),
        parity.artifact_values(tmp_path / "back", tmp_path / "draft", inputs),
        parity.ROUNDING,
    )
    assert [row for row in rows if not row["passed"]] == []


def test_an_import_keeps_the_draft_and_all_that_is_not_folded(artifacts: Path, described: Path, tmp_path: Path) -> None:
    dtype = artifact.read_manifest(artifacts / "base")["dtype"]
    pickle_command.import_draft(described / "draft", tmp_path / "draft", dtype)
    assert (tmp_path / "draft" / artifact.MODEL).read_bytes() == (artifacts / "draft" / artifact.MODEL).read_bytes()
    if dtype == "float32":  # the base pickle is bfloat16
        return
    pickle_command.import_base(described / "base", tmp_path / "base", dtype)
    ours, back = (load_file(place / "base" / artifact.MODEL) for place in (artifacts, tmp_path))
    folded = ("q.weight", "k.weight", "v.weight", "gate.weight", "up.weight", "norm.scale", "out_proj")
    for name in ours:
        if name.startswith("vision.") or not any(part in name for part in folded):
            assert np.array_equal(ours[name].view(np.uint16), back[name].view(np.uint16)), name


def test_the_output_projection_unfolds_to_what_was_folded(artifacts: Path, described: Path, tmp_path: Path) -> None:
    dtype = artifact.read_manifest(artifacts / "base")["dtype"]
    pickle_command.import_base(described / "base", tmp_path / "base", dtype)
    back = {name: x.astype(np.float32) for name, x in load_file(tmp_path / "base" / artifact.MODEL).items()}
    content = unpickled(described / FILES[0])
    folded = back["action_out_proj.weight"] * (1 + back["expert.norm.scale"])[:, None] * np.float32(-0.1)
    assert torch.equal(bfloat16(folded), content["decoder_action_fused_out_proj_w"])
    ours = bfloat16(back["action_out_proj.bias"] * np.float32(-0.1)).view(torch.int16).int()
    theirs = content["decoder_action_fused_out_proj_b"].view(torch.int16).int()
    assert (ours - theirs).abs().max() <= (0 if dtype == "float32" else 1)  # in the last place


@pytest.mark.parametrize("steps", [1, 5, 7, 10, 16, 100])
def test_the_euler_step_unfolds_without_rounding(steps: int) -> None:
    scale, factor = official.euler_fold(steps)
    assert np.float32(BF16(scale)) == scale and np.float32(BF16(factor)) == factor
    x = np.random.default_rng(0).standard_normal(10_000).astype(BF16).astype(np.float32)
    w = (x * factor).astype(BF16).astype(np.float32)
    assert np.array_equal((w * (1 + scale) * np.float32(-1 / steps)).astype(BF16), x.astype(BF16))


def changed(described: Path, change: Any) -> Path:
    content = unpickled(described / FILES[0])
    change(content)
    put(described / FILES[0], content)
    return described / "base"


def test_what_does_not_fit_is_named(described: Path, tmp_path: Path) -> None:
    whole = (described / FILES[0]).read_bytes()
    for change, words in (
        (lambda c: c.pop("encoder_ffn_up_w"), "missing encoder_ffn_up_w"),
        (lambda c: c.update(decoder_norm_w=torch.ones(2)), "unexpected decoder_norm_w"),
        (lambda c: c.update(language_embeds=torch.ones(2, 2)), "converted for one prompt"),
        (lambda c: c.update(vision_attn_o_b=torch.ones(2, 2)), r"vision_attn_o_b is float32 \(2, 2\)"),
        (lambda c: c.update(vision_attn_o_b=7), "vision_attn_o_b is int"),
        (lambda c: c["decoder_action_in_proj_w"].mul_(2), "fused_in_proj_w does not follow"),
        (lambda c: c["decoder_action_fused_time_biases"].copy_(c["decoder_action_fused_time_biases"].flip(0)),
         "time_biases does not follow"),
    ):  # fmt: skip
        (described / FILES[0]).write_bytes(whole)
        with pytest.raises(UserError, match=words) as caught:
            pickle_command.import_base(changed(described, change), tmp_path / "back")
        assert "\n" not in str(caught.value) and not (tmp_path / "back").exists()


def test_without_a_description_the_dims_are_those_of_pi0_libero(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"60 pieces|give the dims that it was made for"):
        pickle_command.import_base(exported / "base", tmp_path / "back")


def test_a_stem_has_no_place_in_the_official_layout(artifacts: Path) -> None:
    dims = artifact.read_manifest(artifacts / "base")["dims"]
    with pytest.raises(UserError, match="no stem"):
        official.base_keys({**dims, "vision": {**dims["vision"], "stem": {"layers": [], "pool": 1}}})


@pytest.mark.parametrize("key", ["draft_qkv_w", "draft_action_queries", "meta"])
def test_a_draft_that_lacks_something_is_refused(exported: Path, tmp_path: Path, key: str) -> None:
    content = unpickled(exported / FILES[1])
    del content[key]
    path = tmp_path / "draft_triton.pkl"
    put(path, content)
    if key == "meta":  # upstream's loader has defaults too, for its own widths
        head, meta = official.draft_source(path)
        assert meta == {} and len(head) == 14
        return
    with pytest.raises(UserError, match=f"missing {key}"):
        pickle_command.import_draft(path, tmp_path / "draft")


def test_the_command(described: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(described / "base" / artifact.TOKENIZER, tmp_path / "words.model")
    words = ["import-pickle", "--base", str(described / "base"), "--draft", str(described / "draft")]
    words += ["--output", str(tmp_path / "back")]
    assert cli.main(words) == 2
    assert "tokenizer.model is missing" in capsys.readouterr().err
    assert cli.main([*words, "--tokenizer", str(tmp_path / "words.model")]) == 0
    assert artifact.verify_artifact(tmp_path / "back/draft")["kind"] == "draft"
    put(described / FILES[0], {"x": Path("a")})
    assert cli.main([*words, "--tokenizer", str(tmp_path / "words.model")]) == 2
    assert "holds pathlib." in capsys.readouterr().err
