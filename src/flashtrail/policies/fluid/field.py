"""The reaction-diffusion core: one step as the equation has it, and steps until a field is calm.

A field u is (B, V, T, H, W, C): sample, view, frame, row, column, channel. A layer takes the same step many times:

    du = sum_s D_s lap_s(u) + sum_r E_r (u[t-r] - u[t]) + W2 gelu(W1 u) + a_g h + a_l up(W3 pool(u))
    u  = norm(u + dt du)
    h  = l h + (1 - l) sigmoid(Wg m) tanh(Wv m),    m = mean of u over all positions

`document`: h only grows (no l), u is normalised at every second step, dt is learned freely, and turbulence is measured
before the norm, over the whole batch. Ours differs in these alone: memory leaks, so that a fixed point can exist (one
step maps a ball of bounded u and h into itself, continuously); dt is bounded so that diffusion never amplifies; the
norm is taken at every step; turbulence is that of the state that is kept, sample by sample. There h is forced for ever,
and what the norm takes away counts as change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DT_START, DT_LEAST, DT_MOST = 0.1, 0.005, 0.35
BOUND = 0.95  # of dt (4 sum D + sum E); at 1 a step is still a mean of a patch's neighbours, beyond it overshoots
# Parameters before softplus. The document's 0.1 is D = 0.744: six steps of one layer leave an eighth of what differs
# between scenes. Ours starts at D = 0.018.
DOCUMENT_D, DOCUMENT_E, OUR_D = 0.1, 0.05, -4.0
POOL, PROBE, EPSILON = 4, 8, 1e-6


def laplacian(u: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """sum_s D_s lap_s(u), the 5-point stencil at each dilation, edges replicated: (B, V, T, H, W, C) -> the same shape.

    `weights` D (S, C). Of a stencil the eigenvalues are -8 to 0.
    """
    stencil, most = u.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]), max(dilations)
    planes = F.pad(u.flatten(0, 2).movedim(-1, 1), (most,) * 4, mode="replicate")  # channels stay last in memory
    out = u.new_zeros(())
    for d, s in zip(weights, dilations, strict=True):
        near = _middle(planes, most - s)
        out = out + F.conv2d(near, d[:, None, None, None] * stencil, dilation=s, groups=len(d))
    return out.movedim(1, -1).reshape(u.shape)


def _middle(x: Tensor, cut: int) -> Tensor:
    return x[..., cut : x.shape[-2] - cut, cut : x.shape[-1] - cut]


def lagged(u: Tensor, lag: int) -> Tensor:
    """u[t - lag] - u[t] along the frames (dim -4), the first one repeated: the past flows into the present only."""
    earlier = torch.arange(u.shape[-4], device=u.device).sub(lag).clamp(min=0)
    return u.index_select(-4, earlier) - u


def stable_dt(dt: Tensor, spread: Tensor, recall: Tensor) -> Tensor:
    """Bound dt, for each channel, so that a step of diffusion alone never leaves the range of the field.

    `spread` (S, C), `recall` (R, C), none negative. Explicit Euler with dt (4 sum D + sum E) <= 1 gives each patch a
    weighted mean of its neighbours, itself and its past (weights from 0 to 1): the maximum principle.
    """
    rate = 4 * spread.sum(0) + recall.sum(0)
    return torch.minimum(dt, BOUND / rate.clamp(min=1e-9))


def rms_norm(u: Tensor, weight: Tensor) -> Tensor:
    """Divide by the root mean square over channels (the last dim); `weight` (C,)."""
    return F.rms_norm(u, weight.shape, weight, EPSILON)


def pooled(u: Tensor, size: int) -> Tensor:
    """Means over min(T, 2) x size x size cells: (B, V, T, H, W, C) -> (B, V, T', size, size, C)."""
    for dim, cells in ((4, size), (3, size), (2, min(u.shape[2], 2))):
        u = _along(u, _pooling(u.shape[dim], cells), dim)
    return u


def grown(u: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear in between along frames, rows and columns: (B, V, T', H', W', C) -> (B, V, *shape, C)."""
    for dim, cells in zip((2, 3, 4), shape, strict=True):
        u = _along(u, _growing(u.shape[dim], cells), dim)
    return u


def _along(u: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """Apply a matrix (new, old) along one dim; what lies behind it is taken together."""
    if matrix.shape == (1, 1):
        return u
    matrix = matrix.to(u)
    out: Tensor = matrix @ u.flatten(dim + 1)
    return out.reshape(*out.shape[:-1], *u.shape[dim + 1 :])


@cache  # outside inference mode: training may use what a served policy asked for first
@torch.inference_mode(False)
def _pooling(old: int, new: int) -> Tensor:
    return F.adaptive_avg_pool1d(torch.eye(old, dtype=torch.float64), new).T.contiguous()


@cache
@torch.inference_mode(False)
def _growing(old: int, new: int) -> Tensor:
    grown = F.interpolate(torch.eye(old, dtype=torch.float64)[None], new, mode="linear", align_corners=False)
    return grown[0].T.contiguous()


def turbulence(now: Tensor, before: Tensor, together: bool) -> Tensor:
    """mean |now - before| / mean |before| of each sample's pooled field, or of all `together`: (B,)."""
    change, size = (x.abs().flatten(1).mean(1) for x in (now - before, before))
    if together:
        change, size = change.mean().expand_as(change), size.mean().expand_as(size)
    return change / size.clamp(min=EPSILON)


def _each(x: Tensor) -> Tensor:
    """One row a sample, (B, C) -> a shape that broadcasts over a field."""
    return x[:, None, None, None, None]


@dataclass(frozen=True)
class Coefficients:
    """What a layer's parameters say of a step: D (S, C), E (R, C), dt (C,), a_g, a_l, l."""

    spread: Tensor
    recall: Tensor
    dt: Tensor
    of_global: Tensor
    of_local: Tensor
    leak: Tensor | None


@dataclass(frozen=True)
class Stop:
    """When a field is calm: turbulence below epsilon for `patience` steps, not before `min_steps`."""

    epsilon: float
    min_steps: int = 3
    patience: int = 2


@dataclass(frozen=True)
class Evolved:
    """A field after its steps, how many each sample took (B,), and its turbulence (steps, B), NaN once it stopped."""

    u: Tensor
    steps: Tensor
    turbulence: Tensor


class Layer(nn.Module):
    """The parameters of one layer; all its steps share them. `document`: the source's form."""

    def __init__(self, width: int, dilations: Sequence[int], lags: Sequence[int], document: bool) -> None:
        super().__init__()
        self.dilations, self.lags, self.document = tuple(dilations), tuple(lags), document
        start_d, start_e = (DOCUMENT_D, DOCUMENT_E) if document else (OUR_D, OUR_D)
        self.spread = nn.Parameter(torch.full((len(self.dilations), width), start_d))
        self.recall = nn.Parameter(torch.full((len(self.lags), width), start_e))
        self.log_dt = nn.Parameter(torch.tensor(DT_START).log())
        self.of_global, self.of_local = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.05))
        self.leak = None if document else nn.Parameter(torch.tensor(0.0))
        self.react_in, self.react_out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.write, self.gate, self.local = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.Parameter(torch.ones(width))

    def coefficients(self) -> Coefficients:
        """Bring parameters into their ranges, once for all steps."""
        spread, recall = F.softplus(self.spread), F.softplus(self.recall)
        dt = self.log_dt.exp().clamp(DT_LEAST, DT_MOST).expand(self.norm.shape)
        leak = None if self.leak is None else torch.sigmoid(self.leak)
        dt = dt if self.document else stable_dt(dt, spread, recall)
        return Coefficients(spread, recall, dt, F.softplus(self.of_global), F.softplus(self.of_local), leak)

    def diffusion(self, u: Tensor, c: Coefficients) -> Tensor:
        """sum_s D_s lap_s(u) + sum_r E_r (u[t-r] - u[t])."""
        terms = [e * lagged(u, r) for e, r in zip(c.recall, self.lags, strict=True)]
        if self.dilations:
            terms.append(laplacian(u, c.spread, self.dilations))
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0] if terms else torch.zeros_like(u)

    def reaction(self, u: Tensor) -> Tensor:
        """W2 gelu(W1 u), at each position."""
        out: Tensor = self.react_out(F.gelu(self.react_in(u)))
        return out

    def local_memory(self, u: Tensor) -> Tensor:
        """up(W3 pool(u)): what a coarse picture of the field says, linear in between."""
        return grown(self.local(pooled(u, POOL)), u.shape[2:5])

    def step(self, u: Tensor, h: Tensor, number: int, c: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
        """Take step `number` (1, 2, ...): (u, h) -> the candidate before the norm, u, h."""
        du = self.reaction(u) + c.of_local * self.local_memory(u) + _each(c.of_global * h)
        if self.dilations or self.lags:
            du = du + self.diffusion(u, c)
        candidate = torch.addcmul(u, c.dt, du)
        u = candidate if self.document and number % 2 else rms_norm(candidate, self.norm)
        m = u.flatten(1, 4).mean(1)
        written = torch.sigmoid(self.gate(m)) * torch.tanh(self.write(m))
        h = h + written if c.leak is None else c.leak * h + (1 - c.leak) * written
        return candidate, u, h


def evolve(layer: Layer, u: Tensor, steps: int, stop: Stop | None = None) -> Evolved:
    """Take `steps` steps, or fewer where a sample is calm: it keeps the state it stopped at, the others go on.

    Without `stop`, or with epsilon 0, every step is taken; without one turbulence is not measured.
    """
    c, count, h = layer.coefficients(), len(u), u.new_zeros(len(u), u.shape[-1])
    used = torch.full((count,), steps, device=u.device)
    if stop is None:
        for number in range(1, steps + 1):
            _, u, h = layer.step(u, h, number, c)
        return Evolved(u, used, u.new_full((steps, count), torch.nan))
    seen, history, rows = pooled(u, PROBE), u.new_full((steps, count), torch.nan), torch.arange(count, device=u.device)
    kept, calm = torch.empty_like(u), torch.zeros_like(used)
    for number in range(1, steps + 1):
        candidate, u, h = layer.step(u, h, number, c)
        before, seen = seen, pooled(candidate if layer.document else u, PROBE)
        history[number - 1, rows] = turbulence(seen, before, layer.document)
        if not stop.epsilon:  # nothing to decide, and no device to wait for
            continue
        calm = torch.where(history[number - 1, rows] < stop.epsilon, calm + 1, 0)
        ended = (calm >= stop.patience) & (number >= stop.min_steps)
        if bool(ended.any()):
            kept[rows[ended]], used[rows[ended]] = u[ended], number
            u, h, seen, calm, rows = (x[~ended] for x in (u, h, seen, calm, rows))
            if not len(rows):
                break
    kept[rows] = u
    return Evolved(kept, used, history)
