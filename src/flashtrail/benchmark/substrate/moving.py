"""Moving digits: the next frame, and the dial (epsilon) by which a core takes fewer steps where a field is calm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flashtrail.benchmark.substrate import data, networks
from flashtrail.benchmark.substrate.figures import ratio, spread
from flashtrail.policies.fluid.field import PROBE, Layer, Stop, evolve, pooled, turbulence
from flashtrail.statistics import intervals
from flashtrail.tables.measurements import Figure, figure

TITLE = "Moving digits: the next frame, and steps by epsilon"
NAMES = {"ours": "our core", "none": "our core without diffusion", "document": "the document's core"}
DIALS = ("ours", "document")
SIDE, SPRITE, FRAMES, STILL_SHARE = 64, 24, 4, 0.25  # pixels of a frame and of a digit, frames seen, share in training
SEQUENCES = "held-out sequences"

FULL: dict[str, Any] = {
    "shape": networks.Shape((FRAMES, 8, 8), (1, 8, 8), updates=300, batch=16, width=48, steps=12),
    **{"held": 100, "epsilons": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5), "fixed": (3, 6)},
}
QUICK = {
    "shape": replace(FULL["shape"], updates=2, batch=2, width=16, steps=4),
    **{"held": 6, "epsilons": (0.1,), "fixed": (3,)},
}


def measure(
    shape: networks.Shape, held: int, epsilons: tuple[float, ...], fixed: tuple[int, ...], seed: int
) -> tuple[str, list[Figure]]:
    """Return the method in words and the figures. Training and held-out sequences have no digit in common.

    `held`: moving sequences, and as many that stand still; `fixed`: numbers of steps beside those by epsilon.
    """
    pictures = data.digits(SPRITE)[0]
    train, other = data.folds(len(pictures), 5)[-1]
    rng = np.random.default_rng([seed, 1])
    asked, still = (
        torch.from_numpy(data.moving(pictures[other], rng, np.full(held, stays), FRAMES + 1, SIDE))
        for stays in (False, True)
    )
    errors = {"copy": _errors(asked[:, -2], asked)}
    found = [_mean("copy_mse", "mean squared error of the last frame, repeated", errors["copy"])]
    for core, name in NAMES.items():
        network = _trained(core, pictures[train], shape, seed)
        errors[core] = predicted(core, network, asked, None)[0]
        found.append(_mean(f"{core}_mse", f"mean squared error of {name} ({networks.size(network)})", errors[core]))
        print(f"{name} is trained", flush=True)
        if core in DIALS:
            found += _dial(core, network, (asked, still), epsilons, fixed) + _calm(core, network, asked)
    for a, b in (("ours", "copy"), ("document", "copy"), ("ours", "none"), ("document", "none")):
        title = f"mean squared error of {NAMES[a]} over that of {NAMES.get(b, 'the last frame, repeated')}"
        found.append(ratio(f"{a}_over_{b}", title, errors[a], errors[b], SEQUENCES))
    method = (
        f"Two of scikit-learn's digits in {SIDE} x {SIDE} pixels, {FRAMES} frames seen, the next one answered as a "
        f"change of the last; {shape.width} channels, {shape.layers} layers of at most {shape.steps} steps, "
        f"{shape.updates} updates of {shape.batch} sequences, a quarter of which stand still, one training a core. "
        "Steps are the mean over layers. Intervals: bootstrap over sequences, given the trained networks."
    )
    return method, found


def _mean(name: str, title: str, values: NDArray[Any]) -> Figure:
    return ratio(name, title, values, 1.0, SEQUENCES)


def _trained(core: str, sprites: NDArray[Any], shape: networks.Shape, seed: int) -> networks.Network:
    torch.manual_seed(seed)
    network = networks.Network(shape, networks.planar(core, shape), places=core != "document")
    nn.init.zeros_(network.head.weight)  # it begins as a copy of the last frame
    nn.init.zeros_(network.head.bias)

    def loss(rng: np.random.Generator) -> Tensor:
        stays = np.arange(shape.batch) < STILL_SHARE * shape.batch
        batch = torch.from_numpy(data.moving(sprites, rng, stays, FRAMES + 1, SIDE))
        return F.mse_loss(_next(network, batch, steps=networks.drawn(core, shape, rng))[0], batch[:, -1])

    networks.fit(network, shape, seed, loss)
    return network


def _next(network: networks.Network, sequences: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """The frame after the last but one of `sequences`, and the steps taken."""
    change, used = network(sequences[:, :-1], **how)
    return sequences[:, -2] + change[:, -1], used


def _errors(said: Tensor, sequences: Tensor) -> NDArray[Any]:
    return (said - sequences[:, -1]).square().mean((1, 2)).double().numpy()


def predicted(
    core: str, network: networks.Network, sequences: Tensor, stop: Stop | None, steps: int | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Squared error and steps a layer of each sequence; asked one by one where the stop is a batch's (the document)."""
    with torch.inference_mode():
        parts = sequences.split(1 if core == "document" and stop is not None else 20)
        answers = [(part, *_next(network, part, stop=stop, steps=steps)) for part in parts]
    errors = np.concatenate([_errors(said, part) for part, said, _ in answers])
    return errors, torch.cat([used for _, _, used in answers]).double().numpy()


def _dial(
    core: str, network: networks.Network, of: tuple[Tensor, Tensor], epsilons: Sequence[float], fixed: Sequence[int]
) -> list[Figure]:
    """Steps, how often they differ and the error at each epsilon; the error at numbers of steps that are fixed."""
    found, name, (asked, still) = [], NAMES[core], of
    for epsilon in epsilons:
        key, stop = f"{core}_eps_{round(100 * epsilon):03d}", Stop(epsilon)
        at, moves = f"{name} at epsilon {epsilon:g}", "digits that move"
        errors, steps = predicted(core, network, asked, stop)
        waits = predicted(core, network, still, stop)[1]
        found += [
            _mean(f"{key}_steps", f"steps a layer of {at}, {moves}", steps),
            _mean(f"{key}_steps_still", f"steps a layer of {at}, digits that stand still", waits),
            differ(f"{key}_differ", f"share of sequences whose steps are not the most common number, {at}", steps),
            _mean(f"{key}_mse", f"mean squared error of {at}, {moves}", errors),
        ]
    for count in fixed:
        errors, _ = predicted(core, network, asked, None, count)
        found.append(_mean(f"{core}_fixed_{count}_mse", f"mean squared error of {name} after {count} steps", errors))
    return found


def differ(name: str, title: str, steps: NDArray[Any]) -> Figure:
    """The share of sequences that take another number of steps than most, with Wilson's interval."""
    counts = np.unique(steps, return_counts=True)[1]
    rate = intervals.rate(len(steps) - int(counts.max()), len(steps))
    return figure(name, title, rate.k / rate.n, rate.wilson, rate.n, SEQUENCES)


def _calm(core: str, network: networks.Network, asked: Tensor) -> list[Figure]:
    """How calm each layer gets, asked one by one: where its stop rule begins to act, and the least that a step adds."""
    found, name = [], NAMES[core]
    with torch.inference_mode():
        u, steps = network.embed(asked[:, :-1]), network.shape.steps
        for number, layer in enumerate(network.layers, 1):
            assert isinstance(layer, Layer)
            alone = [evolve(layer, one, steps, Stop(0.0)) for one in u.split(1)]
            seen = torch.cat([one.turbulence for one in alone], 1).double()
            made, u = changes(layer, u, steps).double(), torch.cat([one.u for one in alone])
            acts, place, words = acts_from(seen), f"{core}_layer_{number}", f"layer {number} of {name}"
            found += [
                _mean(f"{place}_least_turbulence", f"least turbulence over the steps of {words}", seen.amin(0).numpy()),
                _mean(f"{place}_least_change", f"least that a step of {words} adds", made.amin(0).numpy()),
                _mean(f"{place}_acts_from", f"least epsilon at which {words} stops early", acts),
                spread(
                    f"{place}_acts_from_spread", f"SD over sequences of the least epsilon, {words}", acts, SEQUENCES
                ),
            ]
    return found


def acts_from(seen: Tensor) -> NDArray[Any]:
    """The least epsilon at which `Stop` ends steps of this turbulence (steps, B) before the last: (B,).

    Two values in a row must lie below it, the second at the third step or later.
    """
    return torch.maximum(seen[1:-1], seen[2:])[:-1].amin(0).numpy()


def changes(layer: Layer, u: Tensor, steps: int) -> Tensor:
    """What each step adds to the very state that it began with, before any norm, as turbulence: (steps, B)."""
    c, h, rows = layer.coefficients(), u.new_zeros(len(u), u.shape[-1]), []
    for number in range(1, steps + 1):
        before = pooled(u, PROBE)
        candidate, u, h = layer.step(u, h, number, c)
        rows.append(turbulence(pooled(candidate, PROBE), before, together=False))
    return torch.stack(rows)
