"""A tiny CLIP checkpoint with the names of openai/clip-vit-base-patch32, and its tokenizer's files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from flashtrail.policies.lift_vla.clip import END, START, _symbols
from flashtrail.policies.lift_vla.dims import Clip

MERGES = ["l o", "lo w</w>", "r e", "re d</w>", "i f", "if t</w>", "l ift</w>"]


def vocabulary() -> dict[str, int]:
    symbols = _symbols()
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in MERGES), START, END]
    return {piece: number for number, piece in enumerate(pieces)}


def dims(**changes: int) -> Clip:
    return Clip(
        **({"vocabulary": len(vocabulary()), "hidden": 32, "layers": 2, "heads": 4, "feedforward": 64} | changes)
    )


def tensors(d: Clip) -> dict[str, torch.Tensor]:
    """Random values under the names of the original's file, parts that are not read included."""
    e, layer = "text_model.embeddings", "text_model.encoder.layers"
    shapes: dict[str, tuple[int, ...]] = {
        f"{e}.token_embedding.weight": (d.vocabulary, d.hidden),
        f"{e}.position_embedding.weight": (d.context, d.hidden),
        f"{e}.position_ids": (1, d.context),
        "text_model.final_layer_norm.weight": (d.hidden,),
        "text_model.final_layer_norm.bias": (d.hidden,),
        "text_projection.weight": (d.width, d.hidden),
        "visual_projection.weight": (d.width, 8),
        "vision_model.embeddings.class_embedding": (8,),
        "logit_scale": (),
    }
    for n in range(d.layers):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.{n}.self_attn.{name}.weight"] = (d.hidden, d.hidden)
            shapes[f"{layer}.{n}.self_attn.{name}.bias"] = (d.hidden,)
        for name in ("layer_norm1", "layer_norm2"):
            shapes[f"{layer}.{n}.{name}.weight"] = shapes[f"{layer}.{n}.{name}.bias"] = (d.hidden,)
        shapes |= {
            f"{layer}.{n}.mlp.fc1.weight": (d.feedforward, d.hidden),
            f"{layer}.{n}.mlp.fc1.bias": (d.feedforward,),
        }
        shapes |= {f"{layer}.{n}.mlp.fc2.weight": (d.hidden, d.feedforward), f"{layer}.{n}.mlp.fc2.bias": (d.hidden,)}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def write(directory: Path, d: Clip) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors(d), directory / "model.safetensors")
    (directory / "vocab.json").write_text(json.dumps(vocabulary()), encoding="utf-8")
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
    return directory
