"""Remedies at the client, between the condition and the policy: each kind with its parameters, bounds and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from flashtrail.base import documents
from flashtrail.experiment.conditions import Kind, with_kind

_Level = Annotated[float, Field(ge=0, le=1_000_000)]


class NoGuard(Kind):
    """Passes everything."""

    kind: Literal["none"] = "none"


class WristHealth(Kind):
    """An unhealthy wrist frame is replaced by the last healthy one; without one it passes."""

    kind: Literal["wrist_health"] = "wrist_health"
    std_min: _Level = Field(1.0, description="healthy needs a pixel standard deviation of at least this (0-255)")
    range_min: _Level = Field(5.0, description="healthy needs max - min of at least this (0-255)")
    max_age: int = Field(8, ge=0, le=1_000_000, description="oldest usable cached frame, in queries")


class WristMask(WristHealth):
    """As wrist_health, but without a usable cached frame the view is declared missing."""

    kind: Literal["wrist_mask"] = "wrist_mask"  # type: ignore[assignment]


class Oracle(Kind):
    """The undamaged observation: an upper bound that no robot can reach."""

    kind: Literal["oracle"] = "oracle"


_Any = NoGuard | WristHealth | WristMask | Oracle
Guard = Annotated[_Any, Field(discriminator="kind"), BeforeValidator(with_kind)]
_GUARD: TypeAdapter[_Any] = TypeAdapter(Guard)


def read(spec: Any) -> _Any:
    """Return the guard of ``{kind: wrist_health, max_age: 8}``; UserError names what is wrong."""
    return documents.typed(_GUARD, spec, "guard")
