"""Hand-overs: by which signal of a round the policy is judged to be in doubt, and who acts then."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, FiniteFloat, TypeAdapter, model_validator

from flashtrail.base import documents
from flashtrail.experiment import doubt
from flashtrail.experiment.conditions import Kind

# Columns of a round as it comes, and two controls: a number drawn for each round, and what only the simulator knows.
RANDOM, ORACLE = "random", "oracle"
CAREFUL, HOLD, RETRY, EXPERT, STOP = "careful", "hold", "retry", "expert", "stop"
Signal = Literal["overlap", "sample_spread", "head_spread", "novelty", "accepted_prefix", "radius", "random", "oracle"]
To = Literal["careful", "hold", "retry", "expert", "stop"]
LEVELS = (HOLD, RETRY, EXPERT, STOP)  # in the order of escalation
_Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Handoff(Kind):
    """When the policy hands over, to whom, and for how long."""

    signal: Signal = Field(
        description="a round's column; random: uniform in [0, 1); oracle: control steps without a lift, as verified"
    )
    alarm: FiniteFloat = Field(description="a round alarms above it (accepted_prefix: below it)")
    patience: _Count = Field(1, description="alarmed rounds in a row before the policy hands over")
    to: To = Field(
        description="careful: the policy, replan_steps actions a round; hold: no motion; retry: the hand opens and "
        "rises; expert: the suite's own expert; stop: the episode ends"
    )
    steps: _Count = Field(20, description="control steps of a hand-over, or to success; then the policy is reset")
    budget: _Count = Field(60, description="control steps of all hand-overs of an episode")
    escalate: _Count | None = Field(
        None, description="hand-overs of an episode before the next level: hold, retry, expert, stop; none: never"
    )
    replan_steps: _Count = Field(1, description="actions executed a round while careful")

    @model_validator(mode="after")
    def _a_level(self) -> Self:
        if self.to == CAREFUL and self.escalate is not None:
            raise ValueError("escalate: a careful policy hands nothing over: leave it out")
        return self

    @property
    def title(self) -> str:
        """Its name in the config."""
        return self.name or "handoff"

    @property
    def sign(self) -> int:
        """1 where a larger number means more doubt, else -1."""
        return doubt.SIGNALS[self.signal][0] if self.signal in doubt.SIGNALS else 1

    def level(self, count: int) -> To:
        """Who acts in an episode's hand-over number `count` (0, 1, ...)."""
        if self.escalate is None or self.to == CAREFUL:
            return self.to
        place = LEVELS.index(self.to) + count // self.escalate
        level: To = LEVELS[min(place, len(LEVELS) - 1)]  # type: ignore[assignment]
        return level

    @property
    def asks_expert(self) -> bool:
        """Whether the expert may have to act."""
        return self.to == EXPERT or (self.escalate is not None and self.to in (HOLD, RETRY))


_HANDOFF: TypeAdapter[Handoff] = TypeAdapter(Handoff)


def read(spec: Any) -> Handoff:
    """Return the hand-over of ``{signal: overlap, alarm: 0.3, to: expert}``; UserError names what is wrong."""
    return documents.typed(_HANDOFF, spec, "handoff")
