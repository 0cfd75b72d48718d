"""The settings of a served policy of this family; each is a flag of `flashtrail serve` and a key of an arm."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flashtrail.policies.parts import formats
from flashtrail.policies.parts.errors import OptionError

MOST_STEPS = 64


@dataclass(frozen=True)
class Settings:
    """`epsilon`: a field whose turbulence stays below it for `patience` steps stops, after `min_steps` at the least.

    0 never stops: every step is taken. `max_steps`: steps of a layer, 0 as many as the artifact says. `max_exec_steps`:
    how many actions of a chunk may be executed before the next round. `precision`: the network's number format, see
    `parts.precision.lowered`.
    """

    max_exec_steps: int = 12
    epsilon: float = 0.0
    min_steps: int = 3
    patience: int = 2
    max_steps: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not math.isfinite(self.epsilon) or self.epsilon < 0:
            raise OptionError(f"epsilon {self.epsilon} must be a finite number >= 0; 0 takes every step")
        for name in ("max_exec_steps", "min_steps", "patience"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.max_steps <= MOST_STEPS:
            raise OptionError(f"max_steps {self.max_steps} must be 1 to {MOST_STEPS}, or 0: as trained")
        formats.check(self.precision)
