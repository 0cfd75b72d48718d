"""Whether the simulator waits for the policy (paused) or goes on while a round is under way (running), and how.

The rules of time are in `rollouts.clock`; which latency a round is given is drawn in `rollouts.latency`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, model_validator

from flashtrail.base import documents
from flashtrail.base.errors import SettingError, nearest

PAUSED: Literal["paused"] = "paused"
MEASURED: Literal["measured"] = "measured"
AUTO: Literal["auto"] = "auto"
Waiting = Literal["chunk", "hold", "repeat"]
_Ms = Annotated[float, Field(ge=0, le=3_600_000)]  # at most an hour
_BY_ROUTE = ("full", "draft")


class _Strict(documents.Section):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class ByRoute(_Strict):
    """Latency of a full round, the first one always, and of a draft round; none: that route has no published time."""

    full: _Ms
    draft: _Ms | None = None


def _by_route(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return dict.fromkeys(_BY_ROUTE, value) if number else value


class Fixed(_Strict):
    """The same latency for every round of a route: as given, or as published (`resolved` fills it in)."""

    constant_ms: Annotated[ByRoute, BeforeValidator(_by_route, json_schema_input_type=_Ms | ByRoute)] | None = Field(
        None, exclude_if=lambda value: value is None, description="ms of every round, or by route"
    )
    published: str | None = Field(
        None, exclude_if=lambda value: value is None, description="source/method of resources/published, by route"
    )

    @property
    def draft_ms(self) -> float | None:
        """Latency of a draft round, where it has a figure."""
        return None if self.constant_ms is None else self.constant_ms.draft

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.constant_ms is None and self.published is None:
            raise ValueError("give one of constant_ms, published and replay")
        return self


class Replay(_Strict):
    """Each round's latency is drawn from a table of rounds, among those of the same route."""

    replay: str = Field(description="a table of rounds")
    time: Literal["roundtrip_ms", "serve_ms", "policy_ms"] = Field(
        "roundtrip_ms", description="the column of it that is replayed"
    )
    digest: str | None = Field(
        None, exclude_if=lambda value: value is None, description="of the table (filled in by the workflow)"
    )


def _form(source: Any) -> str:  # in brackets: no key has such a name, so that an error's place can leave it out
    if not isinstance(source, Mapping | documents.Section):
        return "(measured)"
    return "(replay)" if "replay" in source or isinstance(source, Replay) else "(fixed)"


Source = Annotated[
    Annotated[Literal["measured"], Tag("(measured)")]
    | Annotated[Replay, Tag("(replay)")]
    | Annotated[Fixed, Tag("(fixed)")],
    Discriminator(_form),
    Field(
        description="measured (each round's own time on this machine), {constant_ms: 58}, {published: ..}, {replay: ..}"
    ),
]


class Running(_Strict):
    """A running clock."""

    kind: Literal["running"]
    hz: float = Field(20.0, gt=0, le=1000, description="control steps a second")
    while_waiting: Waiting = Field("chunk", description="what is executed while a round is under way")
    ask_ahead: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        0, description="accepted actions left when the next round is asked for, or auto"
    )
    source: Source


def _pace(clock: Any) -> str:
    return "(running)" if isinstance(clock, Mapping | Running) else "(paused)"


def _plain(clock: Any) -> Any:
    return PAUSED if clock == {"kind": PAUSED} else clock


Clock = Annotated[
    Annotated[Literal["paused"], Tag("(paused)")] | Annotated[Running, Tag("(running)")],
    Discriminator(_pace),
    BeforeValidator(_plain),
]
_CLOCK: TypeAdapter[Literal["paused"] | Running] = TypeAdapter(Clock)


def read(spec: Any) -> Running | None:
    """Return the running clock of a spec, None where it is paused; UserError names what is wrong."""
    clock = documents.typed(_CLOCK, spec, "clock")
    return clock if isinstance(clock, Running) else None


def replayed(clock: Any) -> str | None:
    """Return the table of rounds that a clock replays, or None."""
    return clock.source.replay if isinstance(clock, Running) and isinstance(clock.source, Replay) else None


def resolved(clock: Running, published: Callable[[], Mapping[str, Any]]) -> Running:
    """Return the clock with the per-route figures of its published source looked up (resources/published, if need be).

    The mean or median of a full and of a draft round of ``source/method``; a method without a draft round has none.
    SettingError for a method without a published time of a full round.
    """
    source = clock.source
    if not isinstance(source, Fixed) or source.published is None:
        return clock
    found: dict[str, dict[str, float]] = {}
    for row in published().get("latency", []):
        if row["route"] in _BY_ROUTE and row["statistic"] in ("mean", "p50"):
            found.setdefault(f"{row['source']}/{row['method']}", {})[row["route"]] = float(row["ms"])
    usable = {name: by_route for name, by_route in found.items() if "full" in by_route}
    if source.published not in usable:
        hint = nearest(source.published, usable)
        raise SettingError(f"no published time of a full round under {source.published!r}{hint}")
    by_route = ByRoute.model_validate(usable[source.published])
    return clock.model_copy(update={"source": source.model_copy(update={"constant_ms": by_route})})
