"""What is done to the observation before the policy sees it: each kind with its parameters, bounds and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from flashtrail.base import documents

INSTRUCTION = "{instruction}"
VIEWS = {"wrist": ("wrist",), "agent": ("agent",), "both": ("agent", "wrist")}
View = Literal["wrist", "agent", "both"]
_MOST = 1_000_000  # of a parameter without a bound of its own: queries, grey levels
_Queries = Annotated[int, Field(ge=1, le=_MOST)]
_Index = Annotated[int, Field(ge=0, le=_MOST)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Place = Annotated[float, Field(ge=0, le=1)]


class Kind(documents.Section):
    """A condition or a guard of any kind, or limits; its values are of exactly the type that they have here."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    name: str | None = Field(None, exclude_if=lambda name: name is None, description="filled in from the config's key")

    def called(self, name: str) -> dict[str, Any]:
        """Return it as plain data with every default written down, under its name in the config."""
        return {**self.model_dump(mode="json"), "name": name}

    @property
    def title(self) -> str:
        """Its name in the config, or its kind."""
        return self.name or str(self.kind)  # type: ignore[attr-defined]


class Timed(Kind):
    """A fault that hits some queries of an episode: from `start` on, `length` of every `every`, from `phase` on."""

    every: _Queries = Field(1, description="period in queries")
    phase: _Index = Field(0, description="first query of the episode's first period that is hit")
    length: _Queries = Field(1, description="queries in a row that are hit in each period")
    start: _Index = Field(0, description="queries before this one are spared")

    def hits(self, query: int) -> bool:
        """Return whether query 0, 1, ... of the episode is hit."""
        return query >= max(self.start, self.phase) and (query - self.phase) % self.every < self.length

    @model_validator(mode="after")
    def _period(self) -> Self:
        if self.phase >= self.every:
            raise ValueError(f"phase {self.phase} is never reached with every {self.every}: use 0-{self.every - 1}")
        if self.length > self.every:
            raise ValueError(f"length {self.length} is longer than the period, every {self.every}")
        return self


class Viewed(Timed):
    """A fault of one camera, or of both."""

    view: View = Field("wrist", description="which camera")


class Clean(Kind):
    """Nothing happens."""

    kind: Literal["none"] = "none"


class Zero(Viewed):
    """The view is black."""

    kind: Literal["zero"] = "zero"


class Freeze(Viewed):
    """The view repeats its last frame from before the hit; without one, the episode's first."""

    kind: Literal["freeze"] = "freeze"


class Stale(Viewed):
    """The view is that of `queries` queries ago; of the episode's first query until there is one."""

    kind: Literal["stale"] = "stale"
    queries: _Queries = Field(description="how old the frame is, in queries")


class Swap(Timed):
    """Each camera delivers the other one's picture."""

    kind: Literal["swap"] = "swap"


class UpsideDown(Viewed):
    """The view is as the simulator renders it, not rotated by 180 degrees."""

    kind: Literal["upside_down"] = "upside_down"
    view: View = Field("both", description="which camera")


class Prompt(Kind):
    """The instruction is wrapped in a template, at every query."""

    kind: Literal["prompt"] = "prompt"
    template: str = Field(description="the prompt, with {instruction} where the task's words go")

    @model_validator(mode="after")
    def _holds_the_instruction(self) -> Self:
        if INSTRUCTION not in self.template:
            raise ValueError(f"template must hold {INSTRUCTION}, where the task's words go, not {self.template!r}")
        return self


class Instruction(Kind):
    """The policy is told something else than the task, at every query; the task is judged as it was."""

    kind: Literal["instruction"] = "instruction"
    text: str = Field(min_length=1, max_length=4096, description="the instruction that the policy is given instead")


class Antipode(Timed):
    """The hand's quaternion has the other sign, before it is turned into axis-angle: the same pose, other numbers."""

    kind: Literal["antipode"] = "antipode"
    canonical: bool = Field(False, description="only where w < 0 (an angle above pi), as clients that want w >= 0 do")


class Occlusion(Viewed):
    """A square patch covers part of the view, at one place for the whole episode."""

    kind: Literal["occlusion"] = "occlusion"
    size: _Share = Field(description="side of the patch, share of the picture's")
    row: _Place | None = Field(None, description="centre of the patch, 0 (top) to 1; none: drawn once per episode")
    column: _Place | None = Field(None, description="centre of the patch, 0 (left) to 1; none: drawn once per episode")
    value: int = Field(0, ge=0, le=255, description="grey level of the patch")

    @model_validator(mode="after")
    def _place(self) -> Self:
        if (self.row is None) != (self.column is None):
            raise ValueError("give both row and column, or neither to have the place drawn")
        return self


class Noise(Viewed):
    """Independent normal noise on every pixel and channel, new at every query, cut to 0-255."""

    kind: Literal["noise"] = "noise"
    sigma: float = Field(gt=0, le=_MOST, description="standard deviation in grey levels (0-255)")


class Bursts(Kind):
    """Another fault, at random times: at each query a burst begins with `probability` and lasts `length` queries."""

    kind: Literal["bursts"] = "bursts"
    probability: _Share = Field(description="chance that a burst begins at a query")
    length: _Queries = Field(1, description="queries that a burst lasts; bursts that overlap merge")
    fault: Condition = Field(Zero(), description="what happens in a burst")


class AllOf(Kind):
    """Several faults at once, in this order: each is given what the one before it left."""

    kind: Literal["all_of"] = "all_of"
    parts: list[Condition] = Field(min_length=1, description="the faults")


def with_kind(spec: Any) -> Any:
    """Return a spec with its kind: without one it is ``none``; a list of faults is an `all_of`."""
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return {"kind": "all_of", "parts": list(spec)}
    if not isinstance(spec, Mapping | Kind):
        raise ValueError(f"expected a mapping, e.g. {{kind: none}}, not {spec!r}")
    return {"kind": "none", **spec} if isinstance(spec, Mapping) else spec


_Any = (
    Clean
    | Zero
    | Freeze
    | Stale
    | Swap
    | UpsideDown
    | Prompt
    | Instruction
    | Antipode
    | Occlusion
    | Noise
    | Bursts
    | AllOf
)
_OfKind = Annotated[_Any, Field(discriminator="kind")]
Condition = Annotated[_OfKind, BeforeValidator(with_kind, json_schema_input_type=_OfKind | list[_OfKind])]
KINDS: list[str] = [kind.model_fields["kind"].default for kind in get_args(_Any)]
for _kind in (Bursts, AllOf):
    _kind.model_rebuild()
_CONDITION: TypeAdapter[_Any] = TypeAdapter(Condition)


def read(spec: Any) -> _Any:
    """Return the condition of ``{kind: zero, every: 4}`` or of a list of such; UserError names what is wrong."""
    return documents.typed(_CONDITION, spec, "condition")
