"""The running clock: what the robot does while a round is under way, and which actions of the answer are too late.

Time is counted in control steps. A round asked at step t and answered `waited` steps later has actions for t, t + 1,
...; the first `waited` of them are for moments that are past and are dropped, so that every action is executed at its
own moment or not at all. Pure, standard library only: knows settings and whole numbers, no simulator, no policy, no
latency (`latency` draws one). docs/rollouts.md states the rules in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from flashtrail.base.errors import UserError, nearest

PAUSED = "paused"
WHILE_WAITING = ("chunk", "hold", "repeat")
TIMES = ("roundtrip_ms", "serve_ms", "policy_ms")  # columns of `rounds` that a replay may take
AUTO = "auto"
MAX_HZ = 1000
MAX_MS = 3_600_000.0
_SOURCES = ("measured", "constant_ms", "published", "replay")
_EXAMPLE = "{kind: running, source: measured}"
_KEYS = ("kind", "hz", "while_waiting", "ask_ahead", "source")
# ceil() of a product of decimal fractions must not gain a step from the last bit.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Source:
    """Where a round's latency comes from; `kind` is one of measured, constant_ms, published, replay.

    constant_ms and published: `full_ms` and `draft_ms` by route (None: that route has no figure). replay: a table of
    rounds, its column `time` and, once the table has been looked at, its digest.
    """

    kind: str
    full_ms: float | None = None
    draft_ms: float | None = None
    published: str | None = None
    replay: str | None = None
    time: str = "roundtrip_ms"
    digest: str | None = None


@dataclass(frozen=True)
class Clock:
    """A running clock: `hz` control steps a second; `ask_ahead` in control steps, or ``auto``."""

    source: Source
    hz: float = 20.0
    while_waiting: str = "chunk"
    ask_ahead: int | str = 0


# --- the rules of time ---


def control_steps(latency_ms: float, hz: float) -> int:
    """Return how many control steps pass while a round of `latency_ms` is under way: ceil(latency * hz / 1000)."""
    return max(0, math.ceil(latency_ms * hz / 1000 - _ROUNDING))


@dataclass(frozen=True)
class Chunk:
    """A round's actions: action i is for control step `asked_at` + i, and `usable` of them may be executed."""

    round: int
    asked_at: int
    usable: int

    def offset(self, step: int) -> int | None:
        """Return which action is for this control step; None where the chunk has none that may be executed."""
        offset = step - self.asked_at
        return offset if 0 <= offset < self.usable else None


@dataclass(frozen=True)
class Move:
    """What one control step executes: action `offset` of `round`'s chunk; None: the robot holds.

    `stale`: a newer round was under way.
    """

    round: int
    offset: int | None
    stale: bool


def usable(route: str, accepted: int, length: int) -> int:
    """Return how many leading actions of a chunk a round vouches for.

    A full round computed all `length` of them. Of a draft round those after the accepted prefix were rejected or never
    verified. A round that accepted nothing vouches for nothing.
    """
    return length if route == "full" and accepted > 0 else accepted


def moves(
    clock: Clock | None, now: int, waited: int, prefix: int, new: Chunk, in_hand: Chunk | None
) -> tuple[list[Move], list[Move]]:
    """Return what is executed from step `now`, where `new` was asked for, to the next query: waiting, then fresh.

    `waited` steps pass until the answer; `prefix` actions of it may be executed before the next query at the latest.
    With ask_ahead the query comes that many actions earlier, but at least one fresh action is executed where there is
    one, so that a round never costs nothing. Under the paused clock (None) `waited` is 0 and nothing is stale.
    """
    waiting = []
    for step in range(now, now + waited):
        offset = in_hand.offset(step) if in_hand and clock and clock.while_waiting == "chunk" else None
        source = in_hand.round if in_hand and offset is not None else new.round
        waiting.append(Move(source, offset, True))
    ahead = 0 if clock is None else waited if clock.ask_ahead == AUTO else int(clock.ask_ahead)
    end = max(prefix - ahead, min(prefix, waited + 1))
    return waiting, [Move(new.round, offset, False) for offset in range(waited, end)]


def next_in_hand(new: Chunk, in_hand: Chunk | None, step: int) -> Chunk | None:
    """Return the chunk that goes on while the next round is under way.

    The newest one of which anything could still be executed when it came, at control step `step`; never an older one
    again after that.
    """
    return new if new.offset(step) is not None else in_hand


def stale_dropped(waited: int, prefix: int) -> int:
    """Return how many actions that the round would have had executed came too late."""
    return min(waited, prefix)


# --- settings ---


def read(spec: Any) -> Clock | None:
    """Return the clock of ``paused`` (None) or ``{kind: running, hz: 20, source: {constant_ms: 58}}``.

    UserError names the first thing wrong and the nearest valid name.
    """
    if spec == PAUSED or spec == {"kind": PAUSED}:
        return None
    if not isinstance(spec, Mapping):
        raise UserError(f"clock: unknown value {spec!r}{nearest(str(spec), (PAUSED, _EXAMPLE))}")
    for key in spec:
        if key not in _KEYS:
            raise UserError(f"clock: unknown key {key!r}{nearest(str(key), _KEYS)}")
    if spec.get("kind") != "running":
        raise UserError(
            f"clock: unknown kind {spec.get('kind')!r}{nearest(str(spec.get('kind')), (PAUSED, 'running'))}"
        )
    if "source" not in spec:
        raise UserError("clock: source is missing: measured, {constant_ms: 58}, {published: ...} or {replay: ...}")
    waiting = spec.get("while_waiting", "chunk")
    if waiting not in WHILE_WAITING:
        raise UserError(f"clock: unknown while_waiting {waiting!r}{nearest(str(waiting), WHILE_WAITING)}")
    hz = _number("clock: hz", spec.get("hz", 20.0))
    if not 0 < hz <= MAX_HZ:
        raise UserError(f"clock: hz must be above 0 and at most {MAX_HZ}, not {hz:g}")
    return Clock(_source(spec["source"]), hz, waiting, _ask_ahead(spec.get("ask_ahead", 0)))


def spelled_out(clock: Clock | None) -> Any:
    """Return the spec with every default written down; reading it gives an equal clock."""
    if clock is None:
        return PAUSED
    source = clock.source
    plain: Any
    if source.kind == "measured":
        plain = "measured"
    elif source.kind == "replay":
        plain = {"replay": source.replay, "time": source.time}
        plain |= {"digest": source.digest} if source.digest else {}
    else:
        by_route = {"full": source.full_ms, "draft": source.draft_ms}
        known = {} if source.full_ms is None else {"constant_ms": by_route}
        plain = known | ({"published": source.published} if source.published else {})
    return {"kind": "running", **asdict(clock), "source": plain}


def schema() -> dict[str, Any]:
    """Return the JSON schema of a clock."""
    by_route = {"type": "object", "properties": {"full": {"type": "number"}, "draft": {"type": ["number", "null"]}}}
    source = {
        "constant_ms": {"anyOf": [{"type": "number"}, by_route], "description": "ms of every round, or by route"},
        "published": {"type": "string", "description": "source/method of resources/published, by route"},
        "replay": {"type": "string", "description": "a table of rounds; drawn from those of the same route"},
        "time": {"enum": list(TIMES), "description": "the column of it that is replayed"},
        "digest": {"type": "string", "description": "of the table (filled in by the workflow)"},
    }
    measured = {"const": "measured", "description": "each round's own time on this machine"}
    running = {
        "kind": {"const": "running"},
        "hz": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_HZ, "description": "control steps a second"},
        "while_waiting": {"enum": list(WHILE_WAITING), "description": "what is executed while a round is under way"},
        "ask_ahead": {"description": "accepted actions left when the next round is asked for, or auto"},
        "source": {"anyOf": [measured, {"type": "object", "properties": source, "additionalProperties": False}]},
    }
    option = {"type": "object", "properties": running, "required": ["kind", "source"], "additionalProperties": False}
    return {"anyOf": [{"const": PAUSED}, option]}


def resolved(clock: Clock | None, published: Mapping[str, Any]) -> Clock | None:
    """Return the clock with the per-route figures of its published source looked up (resources/published).

    The mean or median of a full and of a draft round of ``source/method``; a method without a draft round has none.
    """
    if clock is None or clock.source.published is None:
        return clock
    found: dict[str, dict[str, float]] = {}
    for row in published.get("latency", []):
        if row["route"] in ("full", "draft") and row["statistic"] in ("mean", "p50"):
            found.setdefault(f"{row['source']}/{row['method']}", {})[row["route"]] = float(row["ms"])
    name, usable_names = clock.source.published, [key for key, by_route in found.items() if "full" in by_route]
    if name not in usable_names:
        raise UserError(f"clock: no published time of a full round under {name!r}{nearest(name, usable_names)}")
    source = replace(clock.source, full_ms=found[name]["full"], draft_ms=found[name].get("draft"))
    return replace(clock, source=source)


def _source(spec: Any) -> Source:
    if spec == "measured":
        return Source("measured")
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(f"clock: unknown source {spec!r}{nearest(str(spec), _SOURCES)}")
    own = (*_SOURCES[1:], "time", "digest")
    for key in spec:
        if key not in own:
            raise UserError(f"clock source: unknown key {key!r}{nearest(str(key), own)}")
    if "replay" in spec:
        time = spec.get("time", "roundtrip_ms")
        if time not in TIMES:
            raise UserError(f"clock source: unknown time {time!r}{nearest(str(time), TIMES)}")
        if set(spec) & {"constant_ms", "published"}:
            raise UserError("clock source: give one of constant_ms, published and replay")
        return Source("replay", replay=str(spec["replay"]), time=time, digest=spec.get("digest"))
    if set(spec) & {"time", "digest"}:
        raise UserError("clock source: time and digest belong to a replay")
    published = spec.get("published")
    if "constant_ms" not in spec:
        return Source("published", published=str(published))
    full, draft = _by_route(spec["constant_ms"])
    return Source(
        "published" if published else "constant_ms", full, draft, None if published is None else str(published)
    )


def _by_route(value: Any) -> tuple[float, float | None]:
    """Return the constant latency of a full and of a draft round (ms): one number, or one for each."""
    where = "clock source: constant_ms"
    if not isinstance(value, Mapping):
        return (_latency(where, value),) * 2
    for key in value:
        if key not in ("full", "draft"):
            raise UserError(f"{where}: unknown route {key!r}{nearest(str(key), ('full', 'draft'))}")
    if value.get("full") is None:
        raise UserError(f"{where}: the first round is full, so give full")
    draft = value.get("draft")
    return _latency(f"{where}.full", value["full"]), None if draft is None else _latency(f"{where}.draft", draft)


def _latency(where: str, value: Any) -> float:
    number = _number(where, value)
    if not 0 <= number <= MAX_MS:
        raise UserError(f"{where} must be at least 0 ms and at most an hour, not {number:g}")
    return number


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _ask_ahead(value: Any) -> int | str:
    if value == AUTO:
        return AUTO
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"clock: ask_ahead must be a whole number of control steps or {AUTO}, not {value!r}")
    return value
