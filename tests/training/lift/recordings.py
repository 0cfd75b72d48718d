"""Demonstrations as a recording makes them, without a simulator."""

import json

import numpy as np

from flashtrail.training.lift import files

ENV_ARGS = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}})


def step(rng: np.random.Generator, dones: bool) -> dict:
    low = {name: rng.normal(size=dims or 2).astype(np.float32) for name, dims in files.LOW_DIM.items()}
    pictures = {name: rng.integers(0, 256, (112, 112, 3), dtype=np.uint8) for name in files.PICTURES}
    clean = np.clip(rng.normal(size=7), -1, 1)
    return {
        "obs": pictures | low,
        "states": rng.normal(size=32),
        "actions": clean,
        "executed_actions": np.clip(clean + 0.1, -1, 1),
        "rewards": float(dones),
        "dones": dones,
    }


def demonstration(number: int, *, verified: bool = True, steps: int = 4) -> files.Demonstration:
    rng = np.random.default_rng(number)
    return files.Demonstration(
        steps=[step(rng, dones=index == steps - 1) for index in range(steps)],
        instruction="Lift the red cube",
        success=True,
        verified=verified,
        model='<mujoco><mesh file="/home/somebody/lib/robosuite/models/hand.stl"/><mesh file="other.stl"/></mujoco>',
        facts={"task": 0, "init_state": number},
    )
