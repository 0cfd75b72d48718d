"""The simulators by the name that a suite gives (experiment/suites.py): a new one is one folder and one line here.

Classes are named as text and imported when asked for, so that the code digest of one suite's runs does not reach
another's simulator, and only what is simulated has to be installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from flashtrail.experiment.suites import suite_of
from flashtrail.simulators.protocol import Simulator

SIMULATORS = {
    "libero": "flashtrail.simulators.libero.simulator:LiberoSimulator",
    "robosuite_lift": "flashtrail.simulators.robosuite_lift.simulator:LiftSimulator",
    "reach": "flashtrail.simulators.reach.simulator:ReachSimulator",
    "pick2d": "flashtrail.simulators.pick2d.simulator:Pick2dSimulator",
}
EXPERTS = {
    "robosuite_lift": "flashtrail.simulators.robosuite_lift.expert:playing",
    "pick2d": "flashtrail.simulators.pick2d.expert:playing",
}


def source_of(suite: str, known: Mapping[str, str] = SIMULATORS) -> str:
    """Return the module file of a suite's simulator, or of its expert (`known`: EXPERTS), below the package.

    It is what a shard's code digest has to reach.
    """
    return _named(suite, known)[0].removeprefix("flashtrail.").replace(".", "/") + ".py"


def make(
    suite: str, task_id: int, *, seed: int, scene_seed: str, hard_reset: bool, horizon: int | None = None
) -> Simulator:
    """Return the simulator of a suite's task."""
    module, name = _named(suite)
    simulator = getattr(importlib.import_module(module), name)
    settings = {"seed": seed, "scene_seed": scene_seed, "hard_reset": hard_reset, "horizon": horizon}
    return cast(Simulator, simulator(suite, task_id, **settings))


def expert(suite: str, simulator: Simulator) -> Callable[[], Sequence[float]]:
    """Return the suite's own expert for the episode that the simulator was reset to: what gives the next action (7,).

    It knows the true state. Which suites have one is said in experiment/suites.py.
    """
    module, name = _named(suite, EXPERTS)
    return cast(Callable[[], Sequence[float]], getattr(importlib.import_module(module), name)(simulator))


def _named(suite: str, known: Mapping[str, str] = SIMULATORS) -> tuple[str, str]:
    module, _, name = known[suite_of(suite).simulator].partition(":")
    return module, name
