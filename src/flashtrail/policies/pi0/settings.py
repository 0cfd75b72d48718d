"""The flags of the FLASH algorithm, with the official server's defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashtrail.policies.pi0.errors import SettingsError

MOST_SAMPLES = 64


@dataclass(frozen=True)
class FlashSettings:
    """Verification and scheduling flags. All distances and thresholds are in normalised action space.

    `official_time_bias` conditions every verification time below 0.10 on the embedding of 0.10, as the official
    Triton verifier does (it clamps an index); mixing and reconstruction keep the true time. `samples` above 1, which no
    official server has, answers each full round under so many noises; the first one's answer is given.
    """

    tau_radius: float = 0.3
    t_list: tuple[float, ...] = (0.10, 0.05)
    max_exec_steps: int = 12
    dist_dims: int = 7
    gripper_switch_threshold: float = 0.0
    enable_gripper_verify: bool = True
    enable_gripper_post_verify: bool = True
    gripper_full_window: int = 1
    full_fallback: bool = True
    force_full_each_round: bool = False
    periodic_full_every_n_draft_rounds: int = 0
    official_time_bias: bool = False
    samples: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "t_list", tuple(float(t) for t in self.t_list))
        if not self.t_list or not all(0.0 < t <= 1.0 for t in self.t_list):
            raise SettingsError(f"t_list {list(self.t_list)} must be one or more times in (0, 1], as 0.10 0.05")
        if not math.isfinite(self.tau_radius) or self.tau_radius < 0:
            raise SettingsError(f"tau_radius {self.tau_radius} must be a finite number >= 0")
        if not math.isfinite(self.gripper_switch_threshold):
            raise SettingsError(f"gripper_switch_threshold {self.gripper_switch_threshold} must be finite")
        for name in ("max_exec_steps", "dist_dims", "samples"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} {getattr(self, name)} must be at least 1")
        if self.samples > MOST_SAMPLES:
            raise SettingsError(f"samples {self.samples} must be at most {MOST_SAMPLES}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FlashSettings:
        """From a mapping of flag names; an unknown name is a SettingsError."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SettingsError(f"unknown FLASH settings {unknown}; known: {sorted(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return dataclasses.asdict(self) | {"t_list": list(self.t_list)}
