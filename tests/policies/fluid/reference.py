"""The core in numpy and float64, written from the equations and sharing no line with the package.

One sample u (C, V, T, H, W); loops over positions where the package slices.
"""

from __future__ import annotations

import math

import numpy as np

ERF = np.vectorize(math.erf)


def softplus(x):
    return np.log1p(np.exp(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + ERF(x / math.sqrt(2))) / 2


def lap(u, s):
    """Neighbours at distance s, a place beyond the edge is the edge."""
    height, width = u.shape[-2:]
    out = np.empty_like(u)
    for i in range(height):
        for j in range(width):
            up, down = max(i - s, 0), min(i + s, height - 1)
            left, right = max(j - s, 0), min(j + s, width - 1)
            out[..., i, j] = u[..., up, j] + u[..., down, j] + u[..., i, left] + u[..., i, right] - 4 * u[..., i, j]
    return out


def past(u, r):
    return np.stack([u[:, :, max(t - r, 0)] - u[:, :, t] for t in range(u.shape[2])], 2)


def cells(length, size):
    """Adaptive pooling's cells: floor(i n / size) to ceil((i + 1) n / size)."""
    return [slice(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]


def pool(u, size):
    frames, height, width = u.shape[2:]
    made = [
        [[u[:, :, t, i, j].mean((2, 3, 4)) for j in cells(width, size)] for i in cells(height, size)]
        for t in cells(frames, min(frames, 2))
    ]
    return np.moveaxis(np.array(made), (0, 1, 2), (2, 3, 4))


def grow(u, size, axis):
    """Linear interpolation along one axis, pixel centres aligned (align_corners=False), edges held."""
    old = u.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, None)
    low = np.minimum(at.astype(int), old - 1)
    high, part = np.minimum(low + 1, old - 1), at - low
    shape = [1] * u.ndim
    shape[axis] = size
    part = part.reshape(shape)
    return np.take(u, low, axis) * (1 - part) + np.take(u, high, axis) * part


def linear(w, name, x):
    """x (C, ...) -> (C', ...)."""
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    return np.tensordot(weight, x, 1) + bias.reshape(-1, *[1] * (x.ndim - 1))


def wide(x):
    return np.asarray(x)[:, None, None, None, None]


def run(w, u, dilations, lags, steps, document):
    """Return the field after `steps`, and the turbulence of each step (measured as the form measures it)."""
    h, seen, noted = np.zeros(len(u)), pool(u, 8), []
    spread, recall = softplus(w["spread"]), softplus(w["recall"])
    dt = np.full(len(u), np.clip(math.exp(w["log_dt"]), 0.005, 0.35))
    if not document:
        dt = np.minimum(dt, 0.95 / np.maximum(4 * spread.sum(0) + recall.sum(0), 1e-9))
    for step in range(1, steps + 1):
        du = linear(w, "react_out", gelu(linear(w, "react_in", u)))
        for d, s in zip(spread, dilations, strict=True):
            du = du + wide(d) * lap(u, s)
        for e, r in zip(recall, lags, strict=True):
            du = du + wide(e) * past(u, r)
        du = du + softplus(w["of_global"]) * wide(h)
        local = linear(w, "local", pool(u, 4))
        for axis in (2, 3, 4):
            local = grow(local, u.shape[axis], axis)
        candidate = u + wide(dt) * (du + softplus(w["of_local"]) * local)
        u = candidate
        if not document or step % 2 == 0:
            u = candidate / np.sqrt((candidate**2).mean(0) + 1e-6) * wide(w["norm"])
        m = u.mean((1, 2, 3, 4))
        written = sigmoid(linear(w, "gate", m)) * np.tanh(linear(w, "write", m))
        if document:
            h = h + written
        else:
            leak = sigmoid(w["leak"])
            h = leak * h + (1 - leak) * written
        before, seen = seen, pool(candidate if document else u, 8)
        noted.append(np.abs(seen - before).mean() / np.abs(before).mean())
    return u, noted
