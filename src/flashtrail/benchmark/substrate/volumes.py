"""Synthetic volumes: diffusion off, too strong and weak at the start, a small U-Net; and what a seed alone changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flashtrail.benchmark.substrate import data, networks
from flashtrail.benchmark.substrate.figures import ratio
from flashtrail.statistics import resampling
from flashtrail.statistics.intervals import Interval
from flashtrail.tables.measurements import Figure, figure

TITLE = "Synthetic volumes: Dice by diffusion, and by seed"
NAMES = {
    "off": "the document's core without diffusion",
    "uncalibrated": "the document's core, D 0.744 at the start",
    "calibrated": "the document's core, D 0.018 at the start",
    "unet": "a small U-Net",
}
PAIRS = [("calibrated", "off"), ("uncalibrated", "off"), ("calibrated", "unet")]
PRINTED, FOUR = 0.0048, 4  # the document's gain by diffusion, and its number of validation volumes

FULL: dict[str, Any] = {
    "shape": networks.Shape((16, 16, 16), (2, 2, 2), updates=150, batch=2, width=16, layers=1, rate=1e-2),
    **{"seeds": 6, "train": 24, "held": 24},
}
QUICK = {
    "shape": replace(FULL["shape"], grid=(8, 8, 8), updates=2, batch=1, steps=3),
    "seeds": 2,
    "train": 2,
    "held": 4,
}


def measure(shape: networks.Shape, seeds: int, train: int, held: int, seed: int) -> tuple[str, list[Figure]]:
    """Return the method in words and the figures. Of two seeds only start weights and order of the batches differ."""
    side = shape.grid[0] * shape.patch[0]
    material = data.volumes(np.random.default_rng([seed, 0]), train, side)
    pictures, truth = data.volumes(np.random.default_rng([seed, 1]), held, side)
    scores, about = {name: np.empty((seeds, held)) for name in NAMES}, {}
    for own in range(seeds):
        for name, rows in scores.items():
            network = _trained(name, *material, shape, seed + own)
            about[name] = networks.size(network)
            with torch.inference_mode():
                said = [network(one)[0] for one in torch.from_numpy(pictures).split(1)]
            rows[own] = dice(torch.cat(said).numpy() > 0, truth > 0)
        print(f"seed {own + 1} of {seeds}", flush=True)
    found = [_crossed(f"dice_{name}", f"Dice of {NAMES[name]} ({about[name]})", rows) for name, rows in scores.items()]
    for a, b in PAIRS:
        found.append(_crossed(f"{a}_less_{b}", f"Dice, {NAMES[a]} less {NAMES[b]}", scores[a] - scores[b]))
    for name in ("off", "calibrated"):
        found += noise(name, scores[name])
    method = (
        f"Ellipsoids under noise and a smooth factor in {side}^3 voxels, {train} volumes to train on, "
        f"{held} held out; {shape.width} channels, {shape.layers} layer of {shape.steps} steps, {shape.updates} "
        f"updates of {shape.batch} volumes, {seeds} seeds a model. Intervals of Dice resample seeds and volumes "
        "both; those of two seeds of one model resample groups of four volumes."
    )
    return method, found


class UNet(nn.Module):
    """Two scales with a skip between them; takes and answers what `Network` does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.coarse = _convolutions(1, width), _convolutions(width, 2 * width)
        self.merge, self.head = _convolutions(3 * width, width), nn.Conv3d(width, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(B, D, H, W) -> a value a voxel, no steps."""
        fine = self.fine(x[:, None])
        coarse = F.interpolate(self.coarse(F.max_pool3d(fine, 2)), scale_factor=2, mode="trilinear")
        return self.head(self.merge(torch.cat([fine, coarse], 1)))[:, 0], None


def _convolutions(before: int, after: int) -> nn.Sequential:
    twice = [(before, after), (after, after)]
    return nn.Sequential(
        *(part for a, b in twice for part in (nn.Conv3d(a, b, 3, padding=1), nn.GroupNorm(4, b), nn.ReLU()))
    )


def _trained(name: str, pictures: NDArray[Any], truth: NDArray[Any], shape: networks.Shape, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network: nn.Module = UNet(shape.width // 2)
    if name != "unet":
        network = networks.Network(shape, lambda: networks.VolumeLayer(shape.width, name), places=False)
    x, y = torch.from_numpy(pictures), torch.from_numpy(truth)

    def loss(rng: np.random.Generator) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(x), size=shape.batch))
        said, wanted = network(x[rows])[0], y[rows]
        inside = said.sigmoid()
        overlap = 2 * (inside * wanted).sum() / (inside.sum() + wanted.sum()).clamp(min=1.0)
        return F.binary_cross_entropy_with_logits(said, wanted) + 1 - overlap

    networks.fit(network, shape, seed, loss)
    return network


def dice(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[Any]:
    """Twice the overlap over the sum of both, of each volume (n, ...) -> (n,); 1 where both are empty."""
    axes = tuple(range(1, truth.ndim))
    both, sizes = (said & truth).sum(axes), said.sum(axes) + truth.sum(axes)
    return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)


def crossed_interval(values: NDArray[Any]) -> Interval | None:
    """The interval of a mean over seeds and volumes (S, V), both of them resampled; None with fewer than 5 of either.

    Owen's pigeonhole bootstrap (Ann. Appl. Stat. 1:386, 2007).
    """
    if min(values.shape) < resampling.MIN_CLUSTERS:
        return None
    seeds, volumes = (resampling.draws(count, seed=axis) for axis, count in enumerate(values.shape))
    return resampling.percentile_interval(np.einsum("bs,sv,bv->b", seeds, values, volumes) / values.size)


def _crossed(name: str, title: str, values: NDArray[Any]) -> Figure:
    of = f"seeds, each on the same {values.shape[1]} held-out volumes"
    return figure(name, title, values.mean(), crossed_interval(values), len(values), of)


def noise(name: str, scores: NDArray[Any]) -> list[Figure]:
    """Between two seeds of one model (S, V): the difference of the mean Dice of four volumes, over all pairs of seeds.

    Its root mean square, and how often it is at least what the document prints as its gain.
    """
    groups = scores[:, : scores.shape[1] // FOUR * FOUR].reshape(len(scores), -1, FOUR).mean(2)
    gaps = np.array([groups[a] - groups[b] for a, b in combinations(range(len(groups)), 2)])  # (pairs, groups)
    words = f"between two seeds of {NAMES[name]}, mean Dice of four volumes"
    of = f"groups of four volumes, {len(gaps)} pairs of seeds each"
    square = ratio("square", "square", (gaps**2).mean(0), 1.0, of)
    ends = {key: None if end is None else end**0.5 for key, end in (("low", square.low), ("high", square.high))}
    root = {"name": f"{name}_two_seeds", "title": f"root mean square difference {words}", "value": square.value**0.5}
    often = f"share of differences of at least {PRINTED} {words}"
    beyond = ratio(f"{name}_two_seeds_beyond", often, (np.abs(gaps) >= PRINTED).mean(0), 1.0, of)
    return [square.model_copy(update=root | ends), beyond]
