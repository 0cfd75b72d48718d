"""One task's observations recorded in the simulator: the whole work of a process of its own.

A simulator that is built after another one in the same process was seen to render other pictures (docs/rollouts.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashtrail.rollouts.recordings import Recorded, record_task
from flashtrail.serving.client import PolicyClient
from flashtrail.simulators import registry


def of_task(arm: Mapping[str, Any], task: int, url: str) -> tuple[list[Recorded], list[str]]:
    """Run the arm's init states of a task against the server at `url`; return what was seen, and a line an episode."""
    settings = {key: arm[key] for key in ("seed", "scene_seed")} | {"hard_reset": arm["rollout"]["hard_reset"]}
    lines: list[str] = []
    simulator = registry.make(arm["suite"], task, **settings)
    with PolicyClient(url) as client:
        recorded = record_task(arm, task, simulator, client, lines.append)
    simulator.close()
    return recorded, lines
