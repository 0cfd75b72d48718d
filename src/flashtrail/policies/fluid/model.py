"""The network: patches -> core -> 4 x 4 means with state and prompt -> a chunk. The core is the field or a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flashtrail.policies.fluid.controls import AttentionBlock, ConvBlock
from flashtrail.policies.fluid.dims import FluidDims
from flashtrail.policies.fluid.field import Layer, Stop, evolve, pooled, rms_norm
from flashtrail.policies.parts.words import WordTable


@dataclass(frozen=True)
class Core:
    """What a core made of a field: u, the steps each sample took over all layers (B,), None where it takes none.

    `turbulence`: (layers, steps, B), where it was measured.
    """

    u: Tensor
    steps: Tensor | None
    turbulence: Tensor | None = None


class FluidVLA(nn.Module):
    """A policy's tensors; random until they are loaded or trained."""

    def __init__(self, dims: FluidDims) -> None:
        super().__init__()
        self.dims = dims
        width, side = dims.width, dims.grid
        self.patches = nn.Conv2d(3, width, dims.patch, dims.patch)
        self.patch_norm = nn.Parameter(torch.ones(width))
        self.text = None if dims.prompt is None else WordTable(dims.prompt.rows, dims.prompt.width)
        said = 0 if dims.prompt is None else dims.prompt.width
        self.places: nn.ParameterList | None = None  # the document's patches do not know where they are
        if dims.core != "document":
            shapes = ((side, side, width), (dims.views, 1, 1, 1, width), (dims.frames, 1, 1, width))
            self.places = nn.ParameterList(torch.randn(shape) * 0.1 for shape in shapes)
        self.text_in = nn.Linear(said, width) if said and dims.core != "document" else None
        self.layers = nn.ModuleList(_layer(dims) for _ in range(dims.layers))
        self.seen = width * dims.views * dims.pool**2 * (2 if dims.skip else 1)
        hidden = dims.head_width
        self.head = nn.Sequential(
            nn.Linear(self.seen + dims.state_dim + said, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden // 2),
            nn.GELU(),
            nn.Linear(hidden // 2, dims.action_horizon * dims.action_dim),
        )

    def say(self, ids: Sequence[int]) -> Tensor:
        """The ids of an instruction's words -> the mean of their rows (1, prompt width)."""
        assert self.text is not None
        rows: Tensor = self.text(torch.tensor([ids], device=self.patch_norm.device))
        return rows.mean(1)

    def embed(self, pictures: Tensor, said: Tensor | None, missing: Tensor | None = None) -> Tensor:
        """Pictures (B, V, T, 3, P, P) in -1..1, the prompt (B, E) -> the field (B, V, T, H, W, C).

        `missing` (B, V): views that are not to be looked at.
        """
        patches: Tensor = self.patches(pictures.flatten(0, 2)).movedim(1, -1)
        u = rms_norm(patches.contiguous().unflatten(0, pictures.shape[:3]), self.patch_norm)
        if missing is not None:
            u = u.masked_fill(missing[:, :, None, None, None, None], 0.0)
        for place in self.places or ():
            u = u + place
        if self.text_in is not None:
            u = u + self.text_in(said)[:, None, None, None, None]
        return u

    def evolve(self, u: Tensor, steps: int | Sequence[int] | None = None, stop: Stop | None = None) -> Core:
        """Run the core: `steps` of each layer (None: the dims'), fewer where a sample is calm."""
        each = [steps or self.dims.steps] * len(self.layers) if steps is None or isinstance(steps, int) else list(steps)
        used, turbulence = [], []
        for layer, count in zip(self.layers, each, strict=True):
            if isinstance(layer, Layer):
                done = evolve(layer, u, count, stop)
                u = done.u
                used.append(done.steps)
                turbulence.append(done.turbulence)
            else:
                u = layer(u)
        measured = torch.stack(turbulence) if used and stop is not None and len(set(each)) == 1 else None
        return Core(u, torch.stack(used).sum(0) if used else None, measured)

    def cells(self, start: Tensor, evolved: Tensor) -> Tensor:
        """What the head sees of the field before and after the core: means over time and pool x pool cells (B, N)."""
        fields = (start, evolved) if self.dims.skip else (evolved,)
        return torch.cat([pooled(u.mean(2, keepdim=True), self.dims.pool).flatten(1) for u in fields], 1)

    def decode(self, cells: Tensor, state: Tensor, said: Tensor | None) -> Tensor:
        """Cells (B, N), state (B, S) and prompt (B, E) -> z-scores (B, horizon, action_dim)."""
        parts = [cells, state] + ([] if said is None else [said])
        out: Tensor = self.head(torch.cat(parts, 1))
        return out.reshape(-1, self.dims.action_horizon, self.dims.action_dim)


def _layer(dims: FluidDims) -> nn.Module:
    if dims.core == "cnn":
        return ConvBlock(dims.width, dims.frames)
    if dims.core == "vit":
        return AttentionBlock(dims.width, dims.heads, dims.attention == "fused")
    return Layer(dims.width, *dims.stencils, document=dims.core == "document")


def normalised(pictures: Tensor, dims: FluidDims) -> Tensor:
    """Shrunk views (B, V, T, P, P, 3) in 0..255 -> what the network takes, (B, V, T, 3, P, P) in -1..1."""
    scaled = pictures.float() / 127.5 - 1.0
    return (torch.zeros_like(scaled) if dims.blind else scaled).movedim(-1, 3)


def parts(model: FluidVLA) -> dict[str, int]:
    """Count a policy's parameters by part, the frozen words apart."""

    def count(*modules: nn.Module | None) -> int:
        return sum(p.numel() for m in modules if m is not None for p in m.parameters())

    frozen = 0 if model.text is None else model.text.rows.numel()
    embedding = count(model.patches, model.places, model.text_in) + model.patch_norm.numel()
    return {"embedding": embedding, "core": count(model.layers), "head": count(model.head), "text_frozen": frozen}
