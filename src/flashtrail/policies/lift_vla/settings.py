"""The settings of a served policy of this family; each is a flag of `flashtrail serve`."""

from __future__ import annotations

from dataclasses import dataclass

from flashtrail.policies.lift_vla.errors import OptionError
from flashtrail.policies.parts import formats


@dataclass(frozen=True)
class Settings:
    """`max_exec_steps`: how many actions of a chunk may be executed before the next round.

    `doubt`: replies also say ``head_spread`` and ``novelty`` (`doubt`); the artifact needs a doubt.safetensors.
    `precision`: the number format of the network, see `parts.precision.lowered`. `embodiment`: the robot, of an
    artifact of several. `token`: the robot whose token is taken in the place of its own: a control.
    """

    max_exec_steps: int = 5
    doubt: bool = False
    precision: str = "float32"
    embodiment: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        if self.max_exec_steps < 1:
            raise OptionError(f"max_exec_steps {self.max_exec_steps} must be at least 1")
        formats.check(self.precision)
        if self.doubt and self.precision != "float32":
            raise OptionError(f"doubt and precision {self.precision} exclude each other: the heads are float32")
