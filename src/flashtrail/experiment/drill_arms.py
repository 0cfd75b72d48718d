"""Drills: the silent failures of a loop on demand, each one toggle from the clean run, written out as arms.

What each one switches is said here and nowhere else; docs/rollouts.md has the reasons. Pure; knows the config's text
only: no simulator, no result, and nothing of what a predicate makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "drill_"
REFERENCE, CLEAN = f"{PREFIX}reference", f"{PREFIX}clean"
CHUNK = 50  # actions of a round, of which a clean run executes 12


@dataclass(frozen=True)
class Drill:
    """One toggle: where it acts, what is wrong, and the settings that differ from the clean arm's."""

    stage: str  # picture | state | prompt | actions | loop
    mistake: str
    condition: dict[str, Any] | None = None
    flash: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)


DRILLS: dict[str, Drill] = {
    "no_flip": Drill("picture", "both views as the simulator renders them, upside down", {"kind": "upside_down"}),
    "bad_prompt": Drill(
        "prompt",
        "the instruction in OpenVLA's template",
        {"kind": "prompt", "template": "In: What action should the robot take to {instruction}?\nOut:"},
    ),
    "bad_unnorm": Drill(
        "actions",
        "actions unnormalised by another robot's statistics, larger in translation",
        execution={"action_stats": "resources/drills/bridge_like.json"},
    ),
    "state_antipode": Drill(
        "state",
        "the quaternion's sign flips at every other query, so the axis-angle jumps by 2 pi",
        {"kind": "antipode", "every": 2},
    ),
    "swapped_cameras": Drill("picture", "each camera's picture in the other one's place", {"kind": "swap"}),
    "stale_frame": Drill(
        "picture", "both views are those of the query before", {"kind": "stale", "queries": 1, "view": "both"}
    ),
    "long_chunk": Drill(
        "loop",
        "all 50 actions of a round executed before the next query",
        flash={"max_exec_steps": CHUNK},
        execution={"replan_steps": CHUNK},
    ),
    "short_horizon": Drill(
        "loop", "episodes cut at another benchmark's limit of 60 control steps", execution={"horizon": 60}
    ),
}


def arms(drills: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the section's arms by name: the reference, the clean run, and each drill on the clean run's episodes."""
    common = {key: drills[key] for key in ("policy", "video")}
    own = {key: drills[key] for key in ("episodes", "first_init_state", "flash")}
    made = {REFERENCE: common | {"flash": drills["flash"]} | drills["reference"], CLEAN: common | own}
    for name in drills["names"]:
        drill, arm = DRILLS[name], PREFIX + name
        changed = {"flash": drills["flash"] | drill.flash, "execution": drill.execution}
        made[arm] = made[CLEAN] | changed | ({"condition": arm} if drill.condition else {})
    return made


def conditions(drills: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the conditions that the section's arms name, each called as its arm."""
    return {PREFIX + name: spec for name in drills["names"] if (spec := DRILLS[name].condition) is not None}
