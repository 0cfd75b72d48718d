"""The scripted expert of pick2d: `simulators.expert` told where the block and the mark are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flashtrail.simulators.expert import DOWN, PickPlace, PickPlaceExpert, Scene, Vector
from flashtrail.simulators.pick2d.simulator import BLOCK_M

if TYPE_CHECKING:
    from flashtrail.simulators.pick2d.simulator import Pick2dSimulator

JOB = PickPlace(
    item="block", grasp=(0.0, 0.0, 0.01), hover=0.05, carry_z=0.12, goal="mark", goal_offset=(0.0, 0.0, 0.0),
    release=0.02, held_width=0.5 * BLOCK_M,
)  # fmt: skip


def observe(simulator: Pick2dSimulator) -> Scene:
    """The scene as it is; the hand always points down."""
    return Scene(simulator.hand, DOWN, simulator.finger, {JOB.item: simulator.block}, lambda _: simulator.goal)


def playing(simulator: Pick2dSimulator) -> Callable[[], Vector]:
    """Return what gives the next clean action (7,) of one episode for the state that the simulator is in."""
    master = PickPlaceExpert(JOB)
    return lambda: master.act(observe(simulator))
