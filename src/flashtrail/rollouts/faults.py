"""What a condition or a guard may be told: kinds, parameters, bounds and defaults, and what is wrong with a spec.

Plain dataclasses and the standard library, so that a plan is checked where no simulator is installed. Knows no
picture: what a kind does is in `conditions` and `guards`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flashtrail.base.errors import UserError, nearest

INSTRUCTION = "{instruction}"
VIEWS = {"wrist": ("wrist",), "agent": ("agent",), "both": ("agent", "wrist")}
Spec = dict[str, Any]
_MOST = 1_000_000  # of a parameter without a bound of its own: queries, grey levels


def _parameter(default: Any, doc: str, low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A field with its bounds; `...` as default means that it must be given, `above` that it must exceed it."""
    metadata = {"doc": doc, "low": low, "high": high, **more}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Of any kind."""

    def problem(self) -> str | None:
        """Return what is wrong with the parameters together, or None."""
        return None


@dataclass(frozen=True, kw_only=True)
class Timed(Parameters):
    """A fault that hits some queries of an episode: from `start` on, `length` of every `every`, from `phase` on."""

    every: int = _parameter(1, "period in queries", 1)
    phase: int = _parameter(0, "first query of the episode's first period that is hit", 0)
    length: int = _parameter(1, "queries in a row that are hit in each period", 1)
    start: int = _parameter(0, "queries before this one are spared", 0)

    def hits(self, query: int) -> bool:
        """Return whether query 0, 1, ... of the episode is hit."""
        return query >= max(self.start, self.phase) and (query - self.phase) % self.every < self.length

    def problem(self) -> str | None:
        """Return what is wrong, or None."""
        if self.phase >= self.every:
            return f"phase {self.phase} is never reached with every {self.every}: use 0-{self.every - 1}"
        if self.length > self.every:
            return f"length {self.length} is longer than the period, every {self.every}"
        return None


@dataclass(frozen=True, kw_only=True)
class _Viewed(Timed):
    view: str = _parameter("wrist", "which camera", choices=tuple(VIEWS))


@dataclass(frozen=True, kw_only=True)
class Clean(Parameters):
    """Nothing happens."""


@dataclass(frozen=True, kw_only=True)
class Zero(_Viewed):
    """The view is black."""


@dataclass(frozen=True, kw_only=True)
class Freeze(_Viewed):
    """The view repeats its last frame from before the hit; without one, the episode's first."""


@dataclass(frozen=True, kw_only=True)
class Stale(_Viewed):
    """The view is that of `queries` queries ago; of the episode's first query until there is one."""

    queries: int = _parameter(..., "how old the frame is, in queries", 1)


@dataclass(frozen=True, kw_only=True)
class Swap(Timed):
    """Each camera delivers the other one's picture."""


@dataclass(frozen=True, kw_only=True)
class UpsideDown(_Viewed):
    """The view is as the simulator renders it, not rotated by 180 degrees."""

    view: str = _parameter("both", "which camera", choices=tuple(VIEWS))


@dataclass(frozen=True, kw_only=True)
class Prompt(Parameters):
    """The instruction is wrapped in a template, at every query."""

    template: str = _parameter(..., "the prompt, with {instruction} where the task's words go")

    def problem(self) -> str | None:
        """Return what is wrong, or None."""
        if INSTRUCTION not in self.template:
            return f"template must hold {INSTRUCTION}, where the task's words go, not {self.template!r}"
        return None


@dataclass(frozen=True, kw_only=True)
class Antipode(Timed):
    """The hand's quaternion has the other sign, before it is turned into axis-angle: the same pose, other numbers."""

    canonical: bool = _parameter(False, "only where w < 0 (an angle above pi), as a client that wants w >= 0 does")


@dataclass(frozen=True, kw_only=True)
class Occlusion(_Viewed):
    """A square patch covers part of the view, at one place for the whole episode."""

    size: float = _parameter(..., "side of the patch, share of the picture's", 0, 1, above=True)
    row: float | None = _parameter(None, "centre of the patch, 0 (top) to 1; none: drawn once per episode", 0, 1)
    column: float | None = _parameter(None, "centre of the patch, 0 (left) to 1; none: drawn once per episode", 0, 1)
    value: int = _parameter(0, "grey level of the patch", 0, 255)

    def problem(self) -> str | None:
        """Return what is wrong, or None."""
        if (self.row is None) != (self.column is None):
            return "give both row and column, or neither to have the place drawn"
        return super().problem()


@dataclass(frozen=True, kw_only=True)
class Noise(_Viewed):
    """Independent normal noise on every pixel and channel, new at every query, cut to 0-255."""

    sigma: float = _parameter(..., "standard deviation in grey levels (0-255)", 0, above=True)


@dataclass(frozen=True, kw_only=True)
class Bursts(Parameters):
    """Another fault, at random times: at each query a burst begins with `probability` and lasts `length` queries."""

    probability: float = _parameter(..., "chance that a burst begins at a query", 0, 1, above=True)
    length: int = _parameter(1, "queries that a burst lasts; bursts that overlap merge", 1)
    fault: Parameters = field(default=Zero(), metadata={"doc": "what happens in a burst", "nested": "one"})


@dataclass(frozen=True, kw_only=True)
class AllOf(Parameters):
    """Several faults at once, in this order: each is given what the one before it left."""

    parts: tuple[Parameters, ...] = _parameter(..., "the faults", nested="many")


@dataclass(frozen=True, kw_only=True)
class NoGuard(Parameters):
    """Passes everything."""


@dataclass(frozen=True, kw_only=True)
class WristHealth(Parameters):
    """An unhealthy wrist frame is replaced by the last healthy one; without one it passes."""

    std_min: float = _parameter(1.0, "healthy needs a pixel standard deviation of at least this (0-255)", 0)
    range_min: float = _parameter(5.0, "healthy needs max - min of at least this (0-255)", 0)
    max_age: int = _parameter(8, "oldest usable cached frame, in queries", 0)


@dataclass(frozen=True, kw_only=True)
class WristMask(WristHealth):
    """As wrist_health, but without a usable cached frame the view is declared missing."""


@dataclass(frozen=True, kw_only=True)
class Oracle(Parameters):
    """The undamaged observation: an upper bound, which no robot has."""


CONDITIONS: dict[str, type[Parameters]] = {
    "none": Clean,
    "zero": Zero,
    "freeze": Freeze,
    "stale": Stale,
    "swap": Swap,
    "upside_down": UpsideDown,
    "prompt": Prompt,
    "antipode": Antipode,
    "occlusion": Occlusion,
    "noise": Noise,
    "bursts": Bursts,
    "all_of": AllOf,
}
GUARDS: dict[str, type[Parameters]] = {
    "none": NoGuard,
    "wrist_health": WristHealth,
    "wrist_mask": WristMask,
    "oracle": Oracle,
}


def condition(spec: Mapping[str, Any] | Sequence[Any]) -> Parameters:
    """Return the parameters of ``{kind: zero, every: 4}``; a list is an `all_of`. UserError names what is wrong."""
    return _read("condition", CONDITIONS, spec)


def guard(spec: Mapping[str, Any]) -> Parameters:
    """Return the parameters of ``{kind: wrist_health, max_age: 8}``; UserError names what is wrong."""
    return _read("guard", GUARDS, spec)


def spelled_out(parameters: Parameters) -> Spec:
    """Return the spec of parameters with every default written down; reading it gives equal parameters."""
    kinds = {cls: kind for registry in (CONDITIONS, GUARDS) for kind, cls in registry.items()}
    out: Spec = {"kind": kinds[type(parameters)]}
    for item in dataclasses.fields(parameters):
        value = getattr(parameters, item.name)
        if isinstance(value, Parameters):
            value = spelled_out(value)
        elif isinstance(value, tuple):
            value = [spelled_out(part) for part in value]
        out[item.name] = value
    return out


def _read(what: str, kinds: Mapping[str, type[Parameters]], spec: Any) -> Parameters:
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        spec = {"kind": "all_of", "parts": list(spec)}
    if not isinstance(spec, Mapping):
        raise UserError(f"{what}: {spec!r} is no mapping such as {{kind: none}}")
    kind = spec.get("kind", "none")
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"{what}: unknown kind {kind!r}{nearest(str(kind), kinds)}")
    where, cls = f"{what} {kind}", kinds[kind]
    own = {item.name: item for item in dataclasses.fields(cls)}
    for key in spec:
        if key not in own and key not in ("kind", "name"):
            raise UserError(f"{where}: unknown parameter {key!r}{nearest(str(key), (*own, 'kind'))}")
    for name, item in own.items():
        if name not in spec and item.default is dataclasses.MISSING:
            raise UserError(f"{where}: {name} is missing ({item.metadata['doc']})")
    values = {name: _value(where, own[name], spec[name]) for name in own if name in spec}
    made = cls(**values)
    problem = made.problem()
    if problem:
        raise UserError(f"{where}: {problem}")
    return made


_PLAIN: dict[str, tuple[type, str]] = {"str": (str, "text"), "bool": (bool, "true or false")}


def _value(where: str, item: dataclasses.Field[Any], value: Any) -> Any:
    """Return one parameter's value, held to its type and bounds."""
    rule, name = item.metadata, item.name
    if rule.get("nested") == "one":
        return condition(value)
    if rule.get("nested") == "many":
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise UserError(f"{where}: {name} must be a list of at least one fault, not {value!r}")
        return tuple(condition(part) for part in value)
    if rule.get("choices"):
        if value not in rule["choices"]:
            raise UserError(f"{where}: unknown {name} {value!r}{nearest(str(value), rule['choices'])}")
        return value
    if value is None and "None" in str(item.type):
        return None
    if str(item.type) in _PLAIN:
        if not isinstance(value, _PLAIN[str(item.type)][0]):
            raise UserError(f"{where}: {name} must be {_PLAIN[str(item.type)][1]}, not {value!r}")
        return value
    whole = str(item.type) == "int"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise UserError(f"{where}: {name} must be a {'whole ' if whole else ''}number, not {value!r}")
    low, high = rule["low"], _MOST if rule["high"] is None else rule["high"]
    if not low <= value <= high or (rule.get("above") and value == low):
        bound = f"above {low:g}" if rule.get("above") else f"at least {low:g}"
        most = f" and at most {high:g}" if rule["high"] or value > high else ""
        raise UserError(f"{where}: {name} must be {bound}{most}, not {value!r}")
    return value if whole else float(value)


def schema(kinds: Mapping[str, type[Parameters]]) -> Spec:
    """Return the JSON schema of one spec of these kinds."""
    options = []
    for kind, cls in kinds.items():
        properties: Spec = {"kind": {"const": kind}}
        properties |= {item.name: {"description": item.metadata["doc"]} for item in dataclasses.fields(cls)}
        options.append({"properties": properties, "additionalProperties": False, "description": cls.__doc__})
    return {"type": "object", "oneOf": options}
