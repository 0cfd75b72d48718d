"""A few synthetic demonstrations, small dims and the tokenizer that they need."""

import dataclasses

import numpy as np
import pytest

from flashtrail.policies.pi0.dims import Stem, StemLayer, nano_dims
from flashtrail.training import dataset


def episode(length: int, seed: int) -> dict[str, np.ndarray]:
    """One recorded episode of `length` steps with an image every 4th."""
    rng = np.random.default_rng(seed)
    at = np.arange(0, length, 4)
    steps = np.arange(length, dtype=np.float32)[:, None]
    return {
        "state": np.concatenate([0.01 * steps * np.ones(6), 0.04 * np.ones((length, 2))], 1).astype(np.float32)
        + rng.normal(0, 0.01, (length, 8)).astype(np.float32),
        "label": np.sin(steps / 7 + np.arange(7)).astype(np.float32),
        "executed": np.zeros((length, 7), np.float32),
        "agent": rng.integers(0, 256, (len(at), 112, 112, 3), dtype=np.uint8),
        "wrist": rng.integers(0, 256, (len(at), 112, 112, 3), dtype=np.uint8),
        "at": at,
        "objects": rng.normal(0, 0.1, (len(at), 7, 3)).astype(np.float32),
        "done_at": np.array(length - 3),
        "init": np.array(10),
    }


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("demos")
    for task in (0, 1):
        (root / f"task{task}").mkdir()
        for k in range(18):
            np.savez(root / f"task{task}" / f"ep{k:04d}.npz", **episode(24 + k, 100 * task + k))
    return root


@pytest.fixture(scope="session")
def demos(demo_dir):
    return dataset.load(demo_dir)


@pytest.fixture(scope="session")
def dims():
    """pi0_nano's structure with hardly any width, and one depth less."""
    d = nano_dims(64)
    layers = (StemLayer(5, 4, 4), StemLayer(3, 4, 8), StemLayer(3, 2, 16))
    small = {"width": 16, "mlp_dim": 24, "num_heads": 2, "head_dim": 8}
    return dataclasses.replace(
        d,
        vision=dataclasses.replace(d.vision, depth=1, stem=Stem(layers, pool=2), **small),
        prefix=dataclasses.replace(d.prefix, depth=2, num_kv_heads=1, **small),
        expert=dataclasses.replace(d.expert, depth=2, num_kv_heads=1, **small),
    )
