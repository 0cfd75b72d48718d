"""One small network for all three tasks: patches -> a core -> a linear head; and how it is trained.

The core is the served policy's own (policies/fluid): `evolve` and `Layer`, or a control in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashtrail.policies.fluid.controls import AttentionBlock, ConvBlock
from flashtrail.policies.fluid.field import DOCUMENT_D, OUR_D, POOL, Coefficients, Layer, Stop, evolve, pooled, rms_norm

LEAST_STEPS, HEADS = 3, 4  # of the drawn numbers of steps in training; of the ViT


@dataclass(frozen=True)
class Shape:
    """`grid` (T, H, W) positions of a `patch` (t, h, w) each, and the training: `updates` of a `batch`, peak `rate`.

    `classes`: how many are told apart; 0 answers a value for every voxel.
    """

    grid: tuple[int, int, int]
    patch: tuple[int, int, int]
    updates: int
    batch: int
    width: int = 32
    layers: int = 2
    steps: int = 6
    classes: int = 0
    rate: float = 3e-3


# Of D before softplus. At the document's own, D 0.744 a dilation, a step of dt 0.1 multiplies the highest frequency by
# 1 - 0.1 * 12 * 3 * 0.744 = -1.7: explicit Euler is unstable there.
VOLUMETRIC = {"off": None, "uncalibrated": DOCUMENT_D, "calibrated": OUR_D}


class VolumeLayer(Layer):
    """The document's layer for volumes: a 7-point stencil at dilations 1, 2 and 4, zero beyond the edges."""

    def __init__(self, width: int, kind: str) -> None:
        start = VOLUMETRIC[kind]
        super().__init__(width, () if start is None else (1, 2, 4), (), document=True)
        nn.init.constant_(self.spread, start or 0.0)

    def diffusion(self, u: Tensor, c: Coefficients) -> Tensor:
        """sum_s D_s lap_s(u) over depth, rows and columns."""
        stencil = u.new_zeros(3, 3, 3)
        stencil[[0, 2, 1, 1, 1, 1], [1, 1, 0, 2, 1, 1], [1, 1, 1, 1, 0, 2]], stencil[1, 1, 1] = 1.0, -6.0
        x = u[:, 0].movedim(-1, 1)
        terms = [
            F.conv3d(x, d[:, None, None, None, None] * stencil, padding=s, dilation=s, groups=len(d))
            for d, s in zip(c.spread, self.dilations, strict=True)
        ]
        return torch.stack(terms).sum(0).movedim(1, -1)[:, None]

    def local_memory(self, u: Tensor) -> Tensor:
        """A coarse picture of 4 x 4 x 4 cells, linear in between."""
        cells = self.local(F.adaptive_avg_pool3d(u[:, 0].movedim(-1, 1), POOL).movedim(1, -1)).movedim(-1, 1)
        return F.interpolate(cells, u.shape[2:5], mode="trilinear", align_corners=False).movedim(1, -1)[:, None]


def planar(core: str, shape: Shape) -> Callable[[], nn.Module]:
    """What makes a layer of a core (policies/fluid/dims.py) for pictures and sequences of them."""
    frames, width = shape.grid[0], shape.width
    dilations, lags = {
        "ours": ((1, 2), (1, 2) if frames > 2 else ()),
        "document": ((1, 4), (1, 2) if frames > 2 else ()),  # its 16 lies beyond these grids
    }.get(core, ((), ()))
    if core == "cnn":
        return lambda: ConvBlock(width, frames)
    if core == "vit":
        return lambda: AttentionBlock(width, HEADS, fused=True)
    return lambda: Layer(width, dilations, lags, document=core == "document")


class Network(nn.Module):
    """(B, T t, H h, W w) -> classes (B, classes), or a value a voxel, and steps a layer (B,), None without steps."""

    def __init__(self, shape: Shape, layer: Callable[[], nn.Module], places: bool) -> None:
        super().__init__()
        self.shape, (t, h, w), width = shape, shape.grid, shape.width
        self.patches = nn.Conv3d(1, width, shape.patch, shape.patch)
        self.norm = nn.Parameter(torch.ones(width))
        sizes = ((t, 1, 1, width), (1, h, 1, width), (1, 1, w, width)) if places else ()
        self.places = nn.ParameterList(torch.randn(size) * 0.1 for size in sizes)
        self.layers = nn.ModuleList(layer() for _ in range(shape.layers))
        cells = min(t, 2) * POOL**2 if shape.classes else 1
        self.head = nn.Linear(width * cells, shape.classes or math.prod(shape.patch))

    def embed(self, x: Tensor) -> Tensor:
        """The field before the core, (B, 1, T, H, W, C)."""
        u = rms_norm(self.patches(x[:, None]).movedim(1, -1), self.norm)
        for place in self.places:
            u = u + place
        return u[:, None]

    def forward(self, x: Tensor, steps: int | None = None, stop: Stop | None = None) -> tuple[Tensor, Tensor | None]:
        """`steps` of each layer, fewer where `stop` says so."""
        u, used = self.embed(x), []
        for layer in self.layers:
            if isinstance(layer, Layer):
                done = evolve(layer, u, steps or self.shape.steps, stop)
                u = done.u
                used.append(done.steps.float())
            else:
                u = layer(u)
        taken = torch.stack(used).mean(0) if used else None
        if self.shape.classes:
            return self.head(pooled(u, POOL).flatten(1)), taken
        values = self.head(u[:, 0]).unflatten(-1, self.shape.patch).permute(0, 1, 4, 2, 5, 3, 6)
        return values.reshape(x.shape), taken


def size(network: nn.Module) -> str:
    """How many parameters it has, in words."""
    return f"{sum(p.numel() for p in network.parameters()):,} parameters"


def drawn(core: str, shape: Shape, rng: np.random.Generator) -> int | None:
    """The steps of a training batch: drawn for ours with and without diffusion, all of them for the document's."""
    return int(rng.integers(LEAST_STEPS, shape.steps + 1)) if core in ("ours", "none") else None


def fit(network: nn.Module, shape: Shape, seed: int, loss: Callable[[np.random.Generator], Tensor]) -> None:
    """AdamW under one cycle of rates, gradients clipped at 1; each update draws from (seed, its number)."""
    optimizer = torch.optim.AdamW(network.parameters(), shape.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, shape.rate, shape.updates, pct_start=0.1)
    for update in range(shape.updates):
        optimizer.zero_grad(set_to_none=True)
        loss(np.random.default_rng([seed, update])).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
