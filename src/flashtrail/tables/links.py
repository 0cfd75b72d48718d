"""Names and places of the episodes' pages, as reports and the pages themselves link to them.

    episodes/index.html                     every episode by arm, and every start with its end in every arm; its
                                            fragment says what is chosen: #arm=clean&task=0, #a=clean&b=noisy
    episodes/ARM/index.html                 an arm's episodes; anchors: its tasks, and the ways to end
    episodes/ARM/SUITE_task_0_init_003_repeat_0.html
    episodes/ARM/videos/                    films, where they were kept

All links are relative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from flashtrail.base import names

DIRECTORY, INDEX = "episodes", "index.html"
ARMS = "arms"  # anchor, in a report, of the table with a row per arm


def directory(arm: str) -> str:
    """Return the name of an arm's directory; an imported arm may be called anything."""
    return names.file_name(arm)


def file_name(row: Mapping[str, Any]) -> str:
    """Return the name of an episode's page within its arm's directory."""
    return f"{stem(row)}.html"


def stem(row: Mapping[str, Any]) -> str:
    """Return what an episode's page and film are called, without suffix."""
    suite = names.file_name(str(row["suite"]))
    return f"{suite}_task_{row['task_id']}_init_{row['init_state']:03d}_repeat_{row['repeat']}"


def task_anchor(task: int) -> str:
    """Return the anchor of a task in an arm's list."""
    return f"task-{task}"


def start_anchor(row: Mapping[str, Any]) -> str:
    """Return the anchor of a start (suite, task, initial state, repeat) in the index of all arms."""
    return stem(row)


def chosen(**state: str | int) -> str:
    """Return the fragment with which the page of all episodes opens filtered (arm, task, end, q) or paired (a, b)."""
    return urlencode(state)


def index(files: Sequence[Path]) -> str | None:
    """Return where the index of all arms lies, seen from the reports' directory, or None."""
    return "/".join(files[0].parts[-2:]) if files else None


def pair(name: str) -> dict[str, Any]:
    """Return the key of an episode but for its arm, from ``libero_goal/0/3/0`` as verdicts name it."""
    suite, task, state, repeat = name.rsplit("/", 3)
    return {"suite": suite, "task_id": int(task), "init_state": int(state), "repeat": int(repeat)}


def episode(list_of_arm: str, row: Mapping[str, Any]) -> str:
    """Return where an episode's page lies, seen from where its arm's list is."""
    return f"{list_of_arm.rpartition('/')[0]}/{file_name(row)}"
