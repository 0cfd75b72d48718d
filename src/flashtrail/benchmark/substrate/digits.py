"""Handwritten digits, five folds: the core, its controls and a logistic regression on the same held-out images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from flashtrail.benchmark.substrate import data, networks
from flashtrail.benchmark.substrate.figures import difference
from flashtrail.policies.fluid.dims import CORES
from flashtrail.statistics import intervals
from flashtrail.tables.measurements import Figure, figure

TITLE = "Digits: the core as a classifier"
LINEAR, IMAGES = "logistic", "held-out images"
NAMES = {
    **{"ours": "our core", "document": "the document's core", "none": "our core without diffusion"},
    **{"cnn": "convolutions", "vit": "a ViT", LINEAR: "logistic regression"},
}
PAIRS = [("ours", LINEAR), ("document", LINEAR), ("ours", "vit"), ("ours", "cnn"), ("ours", "none")]

FULL: dict[str, Any] = {
    "shape": networks.Shape((1, 8, 8), (1, 4, 4), updates=150, batch=64, classes=10),
    **{"images": 1797, "folds": 5},
}
QUICK = {"shape": replace(FULL["shape"], updates=2, batch=8), "images": 60, "folds": 2}


def measure(shape: networks.Shape, images: int, folds: int, seed: int) -> tuple[str, list[Figure]]:
    """Return the method in words and the figures."""
    (pictures, labels), small = (x[:images] for x in data.digits(32)), data.digits(8)[0].reshape(-1, 64)
    correct = {name: np.zeros(len(labels), bool) for name in NAMES}
    about = {LINEAR: "8 x 8 pixels"}
    for number, (train, held) in enumerate(data.folds(len(labels), folds)):
        correct[LINEAR][held] = _linear(small[train], labels[train], small[held]) == labels[held]
        for core in CORES:
            network = _trained(core, pictures[train], labels[train], shape, seed + number)
            about[core] = networks.size(network)
            with torch.inference_mode():
                guesses = network(torch.from_numpy(pictures[held])[:, None])[0].argmax(1).numpy()
            correct[core][held] = guesses == labels[held]
        print(f"fold {number + 1} of {folds}", flush=True)
    method = (
        f"scikit-learn's {len(labels)} digits at 32 x 32 pixels, {folds} folds of consecutive images; every core "
        f"in one network ({shape.width} channels, {shape.layers} layers, {shape.updates} updates of "
        f"{shape.batch} images). Intervals are over the held-out images of all folds, given the trained networks."
    )
    found = []
    for name, right in correct.items():
        rate = intervals.rate(int(right.sum()), len(right))
        title = f"accuracy of {NAMES[name]} ({about[name]})"
        found.append(figure(f"accuracy_{name}", title, right.mean(), rate.wilson, rate.n, IMAGES))
    for a, b in PAIRS:
        title = f"accuracy, {NAMES[a]} less {NAMES[b]}"
        found.append(difference(f"{a}_less_{b}", title, correct[a], correct[b], IMAGES))
    return method, found


def _linear(train: NDArray[np.float32], labels: NDArray[np.int64], held: NDArray[np.float32]) -> NDArray[np.int64]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    guesses: NDArray[np.int64] = model.fit(train, labels).predict(held)
    return guesses


def _trained(
    core: str, pictures: NDArray[np.float32], labels: NDArray[np.int64], shape: networks.Shape, seed: int
) -> networks.Network:
    torch.manual_seed(seed)
    network = networks.Network(shape, networks.planar(core, shape), places=core != "document")
    x, y = torch.from_numpy(pictures)[:, None], torch.from_numpy(labels)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        rows = torch.from_numpy(rng.integers(len(x), size=shape.batch))
        said, _ = network(x[rows], networks.drawn(core, shape, rng))
        return F.cross_entropy(said, y[rows])

    networks.fit(network, shape, seed, loss)
    return network
