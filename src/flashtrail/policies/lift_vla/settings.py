"""The settings of a served policy of this family; each is a flag of `flashtrail serve`."""

from __future__ import annotations

from dataclasses import dataclass

from flashtrail.policies.lift_vla.errors import OptionError


@dataclass(frozen=True)
class Settings:
    """`max_exec_steps`: how many actions of a chunk may be executed before the next round.

    `doubt`: replies also say ``head_spread`` and ``novelty`` (`doubt`); the artifact needs a doubt.safetensors.
    """

    max_exec_steps: int = 5
    doubt: bool = False

    def __post_init__(self) -> None:
        if self.max_exec_steps < 1:
            raise OptionError(f"max_exec_steps {self.max_exec_steps} must be at least 1")
