"""What the core is tried on: scikit-learn's handwritten digits, still or moving, and synthetic volumes.

Nothing is fetched: the digits (1,797 of 8 x 8 pixels) ship with scikit-learn, all else is drawn from a seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Array = NDArray[Any]


def digits(side: int) -> tuple[Array, Array]:
    """The digits enlarged to `side` pixels (bilinear), (1797, side, side) in 0..1, and their labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images / 16).float()[:, None]
    large = F.interpolate(small, (side, side), mode="bilinear", align_corners=False)
    return large[:, 0].numpy(), bunch.target.astype(np.int64)


def folds(count: int, parts: int) -> list[tuple[Array, Array]]:
    """Rows to train on and rows held out, `parts` times; each row is held out once, in a block of neighbours.

    Blocks, because consecutive digits are by one writer. ValueError where a part would be empty.
    """
    if not 2 <= parts <= count:
        raise ValueError(f"{count} rows cannot be held out in {parts} parts")
    blocks = np.array_split(np.arange(count), parts)
    return [(np.concatenate(blocks[:i] + blocks[i + 1 :]), block) for i, block in enumerate(blocks)]


def bounced(start: Array, velocity: Array, times: int, room: float) -> Array:
    """Positions (times, d) of a point that moves straight and is reflected at 0 and at `room`."""
    straight = start + velocity * np.arange(times)[:, None]
    return room - np.abs(straight % (2 * room) - room)


def moving(sprites: Array, rng: np.random.Generator, still: Array, frames: int, side: int) -> Array:
    """A sequence of two sprites for each entry of `still`, (n, frames, side, side); where it is true none moves.

    `sprites` (N, s, s). A moving one goes 2 to 5 pixels a frame.
    """
    room = side - sprites.shape[1]
    sequences = np.zeros((len(still), frames, side, side), np.float32)
    for sequence, stays in zip(sequences, still, strict=True):
        for sprite in sprites[rng.integers(len(sprites), size=2)]:
            angle, pace, start = rng.uniform(0, 2 * np.pi), rng.uniform(2, 5), rng.uniform(0, room, 2)
            velocity = np.array([np.sin(angle), np.cos(angle)]) * (0.0 if stays else pace)
            for frame, (y, x) in zip(sequence, bounced(start, velocity, frames, room).round().astype(int), strict=True):
                place = frame[y : y + len(sprite), x : x + len(sprite)]
                np.maximum(place, sprite, out=place)
    return sequences


def volumes(rng: np.random.Generator, count: int, side: int) -> tuple[Array, Array]:
    """Volumes (n, side, side, side) of one to three ellipsoids, and where those are (the same shape, 0 or 1).

    An ellipsoid is 1 above its surroundings; a smooth factor (0.6 to 1.6) lies over both, and noise of SD 0.7.
    """
    axis = np.linspace(-1, 1, side)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    truth = np.zeros((count, side, side, side), bool)
    pictures = np.empty(truth.shape, np.float32)
    for picture, mask in zip(pictures, truth, strict=True):
        for _ in range(rng.integers(1, 4)):
            centre, radii = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.2, 0.5, 3)
            turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            mask |= (((grid - centre) @ turn / radii) ** 2).sum(-1) < 1
        direction = rng.normal(size=3)
        bias = np.exp(0.5 * np.sin(1.5 * grid @ direction / np.linalg.norm(direction) + rng.uniform(0, 2 * np.pi)))
        picture[:] = bias * (0.5 + mask) + rng.normal(scale=0.7, size=mask.shape)
    return pictures, truth.astype(np.float32)
