"""The suites: how many tasks each has, how long an episode may be, and which tasks a text such as 0,2,5-7 names.

Pure; LIBERO's counts are written down here, and a test compares them with the package.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from flashtrail.base.errors import SettingError, nearest

INIT_STATES = 50  # of each of LIBERO's tasks


@dataclass(frozen=True)
class Suite:
    """`tasks`: how many; `horizon`: control steps of an episode after the wait steps (LIBERO's are openpi's limits).

    `simulator`: its name in simulators/registry.py. `evidence`: whether it says anything about a policy, so that
    a config may name it. `init_states`: how many each task has. `expert`: whether its simulator has one of its own.
    """

    tasks: int
    horizon: int
    simulator: str = "libero"
    evidence: bool = True
    init_states: int = INIT_STATES
    expert: bool = False


# In the order of their codes in a seed (`simulators.seeds`): append, never insert.
SUITES = {
    "libero_spatial": Suite(tasks=10, horizon=220),
    "libero_object": Suite(tasks=10, horizon=280),
    "libero_goal": Suite(tasks=10, horizon=300),
    "libero_10": Suite(tasks=10, horizon=520),
    "libero_90": Suite(tasks=90, horizon=400),
    "reach": Suite(tasks=2, horizon=60, simulator="reach", evidence=False),
    "robosuite_lift": Suite(tasks=8, horizon=100, simulator="robosuite_lift", init_states=1000, expert=True),
    "pick2d": Suite(tasks=2, horizon=100, simulator="pick2d", evidence=False, init_states=1000, expert=True),
}


def suite_of(name: str) -> Suite:
    """Return one of the suites; SettingError with the nearest name otherwise."""
    if name not in SUITES:
        raise SettingError(f"unknown suite {name!r}{nearest(name, SUITES)}")
    return SUITES[name]


EVIDENCE = [name for name, suite in SUITES.items() if suite.evidence]


def _evidence(name: str) -> str:
    if not suite_of(name).evidence:
        raise SettingError(f"{name} says nothing about a policy; give one of {', '.join(EVIDENCE)}")
    return name


SuiteName = Annotated[str, AfterValidator(_evidence), Field(json_schema_extra={"enum": EVIDENCE})]


def _as_text(value: Any) -> Any:
    """Return a single task id, a number in YAML, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


TaskSpec = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | int)]


def parse_tasks(spec: str, suite: str) -> list[int]:
    """Return the ascending task ids of a spec such as ``0,2,5-7``; SettingError if malformed or out of range."""
    ids: set[int] = set()
    for part in str(spec).split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        if not match:
            raise SettingError(f"{part.strip()!r} in {spec!r} is neither a task id nor a range such as 5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise SettingError(f"the range {part.strip()!r} runs backwards")
        check_task(suite, last)
        ids.update(range(first, last + 1))
    return sorted(ids)


def check_task(suite: str, task_id: int) -> None:
    """Raise SettingError with the valid range unless the suite has this task."""
    count = suite_of(suite).tasks
    if not 0 <= task_id < count:
        raise SettingError(f"task {task_id} is out of range 0-{count - 1} of {suite}")


def check_init_state(init_state: int, of: str = "", count: int = INIT_STATES) -> None:
    """Raise SettingError with the valid range unless a task has this init state; `of` says which task."""
    if not 0 <= init_state < count:
        raise SettingError(f"init state {init_state} is out of range 0-{count - 1}{of}")
