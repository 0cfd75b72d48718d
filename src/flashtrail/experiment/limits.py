"""Limits at the client, between the action that is due and the simulator: each with its unit, bounds and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, TypeAdapter, model_validator

from flashtrail.base import documents
from flashtrail.experiment.conditions import Kind

_Point = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
_Above = Annotated[float, Field(gt=0, le=1_000_000)]


class Box(documents.Section):
    """Where every part of the gripper has to be; metres, world frame."""

    low: _Point
    high: _Point

    @model_validator(mode="after")
    def _outside_in(self) -> Self:
        for axis, low, high in zip("xyz", self.low, self.high, strict=True):
            if low >= high:
                raise ValueError(f"the box is inside out in {axis}: low {low:g} is not below high {high:g}")
        return self


class Limits(Kind):
    """What may be sent to the robot, and what is measured of it; a limit that is left out does not act."""

    act: bool = Field(True, description="false: the box and the force are measured and nothing is limited, a control")
    box: Box | None = Field(None, description="of all corners of the gripper, fingers included")
    max_step_m: float | None = Field(None, gt=0, le=1, description="commanded motion of the hand in a control step, m")
    max_turn_rad: float | None = Field(
        None, gt=0, le=7, description="commanded turn of the hand in a control step, rad"
    )
    max_jerk_m_s3: _Above | None = Field(None, description="of the commanded motion, along each axis, m/s^3")
    min_gripper_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="control steps from one change of the sign of the gripper's command to the next",
    )
    max_force_n: _Above | None = Field(None, description="at the wrist's sensor, weight of the hand included, N")
    on_force: Literal["hold", "retreat", "stop"] = Field(
        "retreat", description="above max_force_n: hold still; go back the way it came; hold to the episode's end"
    )

    @property
    def title(self) -> str:
        """Its name in the config."""
        return self.name or "limits"


_LIMITS: TypeAdapter[Limits] = TypeAdapter(Limits)


def read(spec: Any) -> Limits:
    """Return the limits of ``{max_force_n: 40}``; UserError names what is wrong."""
    return documents.typed(_LIMITS, spec, "limits")
