"""CLIP's text tower (Radford et al. 2021, arXiv:2103.00020) under the names of openai/clip-vit-base-patch32.

Written on torch alone: no package on the registry ships it without its own downloads. Causal transformer with
QuickGELU; the sentence is the last layer's normalised state at the end-of-text token, projected.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashtrail.policies.lift_vla.dims import Clip
from flashtrail.policies.lift_vla.errors import ArtifactError

VOCABULARY, MERGES = "vocab.json", "merges.txt"
START, END = "<|startoftext|>", "<|endoftext|>"
_LAST = "</w>"  # marks the last symbol of a word
# openai's pattern, with letters and digits as Python's `re` has them.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


@functools.cache
def _symbols() -> list[str]:
    """A printable character for each byte, as GPT-2's byte-level BPE has them."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]


class Tokenizer:
    """Byte-pair encoding by a vocabulary and an ordered list of merges."""

    def __init__(self, ids: Mapping[str, int], merges: Sequence[tuple[str, str]], context: int) -> None:
        self._ids, self._context = ids, context
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}

    @classmethod
    def read(cls, directory: Path, dims: Clip) -> Tokenizer:
        """From vocab.json and merges.txt; ArtifactError where one is missing, damaged or larger than the table."""
        names, pairs = directory / VOCABULARY, directory / MERGES
        try:
            ids = json.loads(names.read_text(encoding="utf-8"))
            lines = pairs.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{directory}: no CLIP tokenizer ({type(error).__name__}: {error})") from None
        if not isinstance(ids, dict) or not {START, END} <= set(ids):
            raise ArtifactError(f"{names} lacks {START} or {END}: give CLIP's vocab.json")
        if not all(type(i) is int and 0 <= i < dims.vocabulary for i in ids.values()):
            raise ArtifactError(f"{names} has ids outside the {dims.vocabulary} rows of the text tower")
        merges = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        if not all(len(pair) == 2 for pair in merges):
            raise ArtifactError(f"{pairs} has a line that is not two symbols: give CLIP's merges.txt")
        return cls(ids, [(first, second) for first, second in merges], dims.context)

    def __call__(self, text: str) -> list[int]:
        """Text -> ids from start to end of text, cut at the context's length."""
        symbols = _symbols()
        ids = [self._ids[START]]
        for piece in _PIECES.findall(" ".join(text.lower().split())):
            word = "".join(symbols[byte] for byte in piece.encode("utf-8"))
            # A symbol that the vocabulary lacks reads as the end of text, as in openai's own tokenizer.
            ids += [self._ids.get(part, self._ids[END]) for part in self._merge(word)]
        return [*ids[: self._context - 1], self._ids[END]]

    def _merge(self, word: str) -> list[str]:
        parts = [*word[:-1], word[-1] + _LAST]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return parts


class _Attention(nn.Module):
    def __init__(self, dims: Clip) -> None:
        super().__init__()
        self._heads = dims.heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(dims.hidden, dims.hidden))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.get_submodule(f"{name}_proj")(x).unflatten(-1, (self._heads, -1)).transpose(1, 2) for name in "qkv"
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        out: Tensor = self.get_submodule("out_proj")(seen)
        return out


class _Mlp(nn.Module):
    def __init__(self, dims: Clip) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims.hidden, dims.feedforward)
        self.fc2 = nn.Linear(dims.feedforward, dims.hidden)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))  # QuickGELU
        return out


class _Layer(nn.Module):
    def __init__(self, dims: Clip) -> None:
        super().__init__()
        self.self_attn = _Attention(dims)
        self.layer_norm1 = nn.LayerNorm(dims.hidden)
        self.mlp = _Mlp(dims)
        self.layer_norm2 = nn.LayerNorm(dims.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Embeddings(nn.Module):
    def __init__(self, dims: Clip) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(dims.vocabulary, dims.hidden)
        self.position_embedding = nn.Embedding(dims.context, dims.hidden)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return out


class _Encoder(nn.Module):
    def __init__(self, dims: Clip) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Layer(dims) for _ in range(dims.layers)))


class _TextModel(nn.Module):
    def __init__(self, dims: Clip) -> None:
        super().__init__()
        self.embeddings = _Embeddings(dims)
        self.encoder = _Encoder(dims)
        self.final_layer_norm = nn.LayerNorm(dims.hidden)


class TextTower(nn.Module):
    """Ids of one sentence -> its vector; frozen."""

    def __init__(self, dims: Clip) -> None:
        super().__init__()
        self.text_model = _TextModel(dims)
        self.text_projection = nn.Linear(dims.hidden, dims.width, bias=False)
        self.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L), each row ending with the end of text -> sentences (B, 1, width)."""
        states = self.text_model.encoder.layers(self.text_model.embeddings(ids))
        out: Tensor = self.text_projection(self.text_model.final_layer_norm(states[:, -1:]))
        return out


def load_openai(tower: TextTower, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill the tower from a CLIP checkpoint's tensors; ArtifactError for another network or other sizes.

    The picture tower, its projection, the temperature and the counter of positions are left out.
    """
    own = tower.state_dict()
    if missing := sorted(set(own) - set(tensors)):
        raise ArtifactError(f"{where} lacks {missing[0]} ({len(missing)} missing): give CLIP's model.safetensors")
    extra = {name for name in set(tensors) - set(own) if name.startswith("text_")}
    if extra := extra - {"text_model.embeddings.position_ids"}:
        raise ArtifactError(f"{where} has {min(extra)}, beyond this text tower: its dims are another CLIP's")
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise ArtifactError(f"{where}: {name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
    tower.load_state_dict({name: tensors[name].float() for name in own})
