"""The checkup as the config has it: one task at all its init states, an arm that reports/final.html does not know.

Pure; knows the config's text only, no result. What is concluded of it: claims/checkup.py.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from flashtrail.experiment.sections import Section

NAME = "checkup"
_OF_ARM = ("policy", "episodes", "first_init_state", "repeats", "flash", "video")


class Checkup(Section):
    """One task at all its init states against the policy's published success (`make checkup`)."""

    policy: str
    task: int = Field(0, ge=0)
    episodes: int = Field(50, ge=1, description="init states first_init_state, +1, ...")
    first_init_state: int = Field(0, ge=0)
    repeats: int = Field(
        1, ge=1, le=1000, description="of each init state: for more episodes than a task has init states"
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="none: the experiment's; another than the published evaluation's plays no start twice",
    )
    published: str | None = Field(None, description="source/method to compare with; none: the policy's own")
    flash: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the top-level flash:")
    video: Literal["none", "failures", "examples", "all"] = "examples"

    def arm(self) -> dict[str, Any]:
        """Return it as an entry of `arms`; task and seed are not an arm's own."""
        return self.model_dump(include=set(_OF_ARM))

    def check(self, tasks: int, init_states: int) -> None:
        """Raise ValueError unless the suite has the task, and the task the init states."""
        if self.task >= tasks:
            raise ValueError(f"checkup.task: task {self.task} is out of range 0-{tasks - 1}")
        last = self.first_init_state + self.episodes - 1
        if last >= init_states:
            raise ValueError(f"checkup.episodes: init state {last} is out of range 0-{init_states - 1}")
