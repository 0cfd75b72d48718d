"""Artifacts of this family with random weights, and observations for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from flashtrail.policies.fluid.artifact import FAMILY
from flashtrail.policies.fluid.dims import FluidDims, nano
from flashtrail.policies.fluid.family import load
from flashtrail.policies.fluid.model import FluidVLA
from flashtrail.policies.fluid.settings import Settings
from flashtrail.policies.parts import words
from flashtrail.training import artifact

KNOWN = words.vocabulary(["open the middle drawer of the cabinet", "put the bowl on the stove"])
STATS = {"state": {"mean": [0.0] * 8, "std": [1.0] * 8}, "actions": {"mean": [0.1] * 7, "std": [0.5] * 7}}
SMALL = {"width": 16, "head_width": 16}


def dims(core="ours", **changes) -> FluidDims:
    return nano(len(KNOWN) + 1, core, **SMALL | changes)


def made(directory: Path, sizes: FluidDims | None = None, seed: int = 0) -> Path:
    """An artifact of random weights."""
    sizes = dims() if sizes is None else sizes
    torch.manual_seed(seed)
    files = {} if sizes.prompt is None else {words.FILE: json.dumps(KNOWN).encode()}
    artifact.write(directory, FAMILY, sizes, FluidVLA(sizes).state_dict(), {"norm_stats": STATS}, files)
    return directory


def served(directory: Path, settings: dict | None = None, **changes):
    flags = {"device": "cpu", "dtype": "float32", "backend": "auto", "action_stats": None}
    flags["settings"] = Settings(**settings or {})
    return load(directory, changes.pop("draft", None), together=None, sessions=1, **(flags | changes))


def observation(seed: int = 0, prompt: str = "put the bowl on the stove", **more):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    state = np.array([0.1, 0.0, 0.9, 3.1, 0.1, 0.0, 0.04, -0.04])
    keys = {"observation/image": views[0], "observation/wrist_image": views[1], "observation/state": state}
    return {**keys, "prompt": prompt, **more}
