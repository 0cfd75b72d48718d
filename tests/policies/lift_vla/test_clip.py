"""CLIP's text tower on a tiny checkpoint of the original's names, against PyTorch's own encoder layer; its BPE."""

from __future__ import annotations

import json

import pytest
import torch
from policies.lift_vla import clip_files
from torch import nn

from flashtrail.policies.lift_vla import clip
from flashtrail.policies.lift_vla.errors import ArtifactError


def pieces(tokenizer: clip.Tokenizer, text: str) -> list[str]:
    names = {number: piece for piece, number in clip_files.vocabulary().items()}
    return [names[number] for number in tokenizer(text)]


@pytest.fixture
def tokenizer(tmp_path) -> clip.Tokenizer:
    return clip.Tokenizer.read(clip_files.write(tmp_path, clip_files.dims()), clip_files.dims())


def test_words_are_merged_in_the_order_of_the_merges(tokenizer) -> None:
    assert pieces(tokenizer, "Lift  low\nRED") == [clip.START, "lift</w>", "low</w>", "red</w>", clip.END]
    assert pieces(tokenizer, "lor") == [clip.START, "lo", "r</w>", clip.END]  # one merge applies, the other does not
    assert pieces(tokenizer, "it's 12_!") == [
        *(clip.START, "i", "t</w>", "'", "s</w>", "1</w>", "2</w>", "_", "!</w>", clip.END)
    ]
    assert pieces(tokenizer, "é")[1:-1] == ["Ã", "©</w>"]  # its two bytes


def test_a_long_text_is_cut_and_still_ends(tokenizer) -> None:
    ids = tokenizer("low " * 200)
    assert len(ids) == 77 and ids[-1] == clip_files.vocabulary()[clip.END]


def test_the_tower_computes_what_pytorchs_encoder_computes(tokenizer) -> None:
    dims = clip_files.dims()
    tower, t = clip.TextTower(dims), clip_files.tensors(dims)
    clip.load_openai(tower, t, "clip")
    ids = torch.tensor([tokenizer("lift the red cube")])

    def layer(n: int) -> nn.Module:
        out = nn.TransformerEncoderLayer(
            dims.hidden,
            dims.heads,
            dims.feedforward,
            dropout=0.0,
            activation=lambda x: x * torch.sigmoid(1.702 * x),
            batch_first=True,
            norm_first=True,
        )
        own = {k.split(f"layers.{n}.", 1)[1]: v for k, v in t.items() if f".layers.{n}." in k}
        joined = {
            f"self_attn.in_proj_{kind}": torch.cat([own[f"self_attn.{x}_proj.{kind}"] for x in "qkv"])
            for kind in ("weight", "bias")
        }
        names = {"self_attn.out_proj": "self_attn.out_proj", "linear1": "mlp.fc1", "linear2": "mlp.fc2"}
        names |= {"norm1": "layer_norm1", "norm2": "layer_norm2"}
        rest = {
            f"{mine}.{kind}": own[f"{theirs}.{kind}"] for mine, theirs in names.items() for kind in ("weight", "bias")
        }
        out.load_state_dict(joined | rest)
        return out

    e = "text_model.embeddings"
    x = t[f"{e}.token_embedding.weight"][ids] + t[f"{e}.position_embedding.weight"][: ids.shape[1]]
    mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
    for n in range(dims.layers):
        x = layer(n)(x, src_mask=mask)
    norm = "text_model.final_layer_norm"
    x = nn.functional.layer_norm(x[:, -1], (dims.hidden,), t[f"{norm}.weight"], t[f"{norm}.bias"])
    torch.testing.assert_close(tower(ids)[:, 0], x @ t["text_projection.weight"].T, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in tower.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("text_projection.weight"), r"lacks text_projection\.weight \(1 missing\)"),
        (lambda t: t.update({"text_model.encoder.layers.9.mlp.fc1.bias": torch.zeros(1)}), "beyond this text tower"),
        (
            lambda t: t.update({"text_projection.weight": torch.zeros(1, 1)}),
            r"text_projection\.weight is \(1, 1\), not",
        ),
    ],
)
def test_another_checkpoint_is_one_line(change, message) -> None:
    dims = clip_files.dims()
    tensors = clip_files.tensors(dims)
    change(tensors)
    with pytest.raises(ArtifactError, match=message):
        clip.load_openai(clip.TextTower(dims), tensors, "clip")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", "{", "no CLIP tokenizer"),
        ("vocab.json", json.dumps({"a": 1}), r"lacks <\|startoftext\|>"),
        ("vocab.json", json.dumps({clip.START: 0, clip.END: 10**6}), "ids outside the"),
        ("merges.txt", "a b c\n", "a line that is not two symbols"),
    ],
)
def test_another_tokenizer_is_one_line(tmp_path, name, text, message) -> None:
    clip_files.write(tmp_path, clip_files.dims())
    (tmp_path / name).write_text(text)
    with pytest.raises(ArtifactError, match=message):
        clip.Tokenizer.read(tmp_path, clip_files.dims())
