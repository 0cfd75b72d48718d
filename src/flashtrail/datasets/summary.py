"""What a set of demonstrations holds, in numbers: lengths, each dim's range and motion, grippers, odd episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 20
STILL = 0.002  # of a joint's range (1st to 99th percentile): a joint that moves less in a step stands still
HARDLY = 0.05  # a dim that changes in a smaller share of the steps hardly moves
BOUND = 0.001  # of the range of a dim: so near to its smallest or largest value is at the bound
SATURATES = 0.05  # share of the steps at a bound from which on a dim saturates


@dataclass(frozen=True)
class Part:
    """One episode of T steps. `first`, `last`: a camera -> the picture there, uint8 (height, width, 3)."""

    task: str
    states: NDArray[Any]  # (T, S)
    actions: NDArray[Any]  # (T, A)
    first: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    last: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    name: str = ""
    number: int = 0
    held_out: bool = False  # from training


def span(states: NDArray[Any]) -> NDArray[np.float64]:
    """Return each joint's range over a set's steps: states (N, S) -> (S,), 1st to 99th percentile."""
    low, high = np.quantile(np.asarray(states, np.float64), [0.01, 0.99], axis=0)
    return np.asarray(high - low)


def still(states: NDArray[Any], spans: NDArray[Any], steps: int = 1) -> NDArray[np.bool_]:
    """Return for each step of an episode, (T,), whether no joint moves in it and the `steps` - 1 after it.

    A joint that never moves (span 0) is not asked. The last state has no successor: it is as the one before.
    """
    moves = (np.abs(np.diff(states, axis=0)) > STILL * spans).any(1)
    moves = np.append(moves, moves[-1:] if len(moves) else False)
    ahead = np.minimum(np.arange(len(moves))[:, None] + np.arange(steps), len(moves) - 1)
    return np.asarray(~moves[ahead].any(1))


def switches(column: NDArray[Any], low: float, high: float) -> int:
    """Return how often a gripper's values, (T,), pass from the lowest third of low..high to the highest, or back."""
    sides = np.sign(column - low - (high - low) / 3) + np.sign(column - high + (high - low) / 3)
    ends = sides[np.abs(sides) == 2]
    return int((np.diff(ends) != 0).sum())


def summarise(
    parts: Sequence[Part], fps: float, state_names: Sequence[str], action_names: Sequence[str]
) -> dict[str, Any]:
    """Return a set's summary as plain data.

    `static`: share of steps in which no joint moves. `each`: the episodes in order. `odd`: what is odd about an
    episode, and its place in `each`. `state`, `action`: for each dim its statistics (`_dim`). `limits`: the constants.
    """
    states, actions = (np.concatenate([getattr(part, name) for part in parts]) for name in ("states", "actions"))
    spans = span(states)
    quiet = [int(still(part.states, spans).sum()) for part in parts]
    ends = np.cumsum([len(part.actions) for part in parts])
    dims = {
        kind: [_dim(name, rows[:, place], ends) for place, name in enumerate(names)]
        for kind, rows, names in (("state", states, state_names), ("action", actions, action_names))
    }
    hands = _grippers(dims["action"])
    each = [
        {
            **{"name": part.name, "number": part.number, "task": part.task, "held_out": part.held_out},
            **{"steps": len(part.actions), "static": still_ones / len(part.actions)},
            "switches": sum(switches(part.actions[:, hand], *_ends(dims["action"][hand])) for hand in hands),
        }
        for part, still_ones in zip(parts, quiet, strict=True)
    ]
    return {
        "episodes": len(parts),
        "steps": len(actions),
        "fps": fps,
        "static": sum(quiet) / len(actions),
        "tasks": list(dict.fromkeys(part.task for part in parts)),
        "grippers": [dims["action"][hand]["name"] for hand in hands],
        "each": each,
        "odd": [*_odd(each, bool(hands))],
        "limits": {"still": STILL, "hardly": HARDLY, "bound": BOUND, "saturates": SATURATES},
        **dims,
    }


def _ends(dim: Mapping[str, Any]) -> tuple[float, float]:
    return dim["min"], dim["max"]


def _grippers(actions: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the action dims that are grippers: by name or, where no name says so, those of two values."""
    named = [place for place, dim in enumerate(actions) if "gripper" in dim["name"].lower()]
    return named or [place for place, dim in enumerate(actions) if dim["note"] == "two values"]


def _odd(each: Sequence[Mapping[str, Any]], switched: bool) -> Iterator[tuple[str, int]]:
    """Yield what is odd about an episode and its place; nothing of what all episodes have alike."""
    kinds = {"shortest": ("steps", min), "longest": ("steps", max), "most static": ("static", max)}
    kinds |= {"most gripper switches": ("switches", max)} if switched else {}
    for word, (key, chosen) in kinds.items():
        values = [episode[key] for episode in each]
        if len(set(values)) > 1:
            yield word, values.index(chosen(values))


def _dim(name: str, column: NDArray[Any], ends: NDArray[Any]) -> dict[str, Any]:
    """Return a dim's statistics over all steps, (N,), of episodes that end before the rows `ends`.

    `moves`: share of the steps after which it has changed by more than STILL of its range. `at_min`, `at_max`: share
    of the steps at its smallest and largest value; `saturates`: at which of the two in many. `histogram`: BINS counts
    from min to max. `note`: what else is odd.
    """
    values = column.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99])
    least, most = float(values.min()), float(values.max())
    within = np.delete(np.diff(values), ends[:-1] - 1)
    moves = float((np.abs(within) > STILL * (high - low)).mean()) if len(within) else 0.0
    near = BOUND * (most - least)
    at_min, at_max = float((values <= least + near).mean()), float((values >= most - near).mean())
    two = bool(((values == least) | (values == most)).all())
    note = "constant" if least == most else "two values" if two else "hardly moves" if moves < HARDLY else ""
    full = [] if two else [end for end, share in (("min", at_min), ("max", at_max)) if share >= SATURATES]
    own = {"min": least, "max": most, "mean": values.mean(), "std": values.std(), "q01": low, "q99": high}
    return {
        **{"name": name, "note": note, "histogram": np.histogram(values, BINS)[0].tolist()},
        **{key: float(value) for key, value in own.items()},
        **{"moves": moves, "at_min": at_min, "at_max": at_max, "saturates": full},
    }


def text(summary: Mapping[str, Any]) -> list[str]:
    """Return a summary as lines for a terminal."""
    each, fps = summary["each"], summary["fps"]
    lengths = np.array([episode["steps"] for episode in each])
    counts = {task: sum(episode["task"] == task for episode in each) for task in summary["tasks"]}
    turns = [episode["switches"] for episode in each]
    held = [episode["name"] for episode in each if episode["held_out"]]
    lines = [
        f"{summary['episodes']} episodes, {summary['steps']} steps at {fps:g} a second "
        f"({summary['steps'] / fps:.0f} s); {lengths.min()} to {lengths.max()} each, median {np.median(lengths):g}",
        f"{summary['static']:.1%} of the steps without motion",
        *(f"task {task!r}: {count} episodes" for task, count in counts.items()),
        *(f"{word}: {each[place]['name']} ({each[place]['steps']} steps)" for word, place in summary["odd"]),
        f"held out by training: {', '.join(held) or 'none, there are too few episodes'}",
    ]
    if summary["grippers"]:
        lines.append(f"gripper switches in an episode: {min(turns)} to {max(turns)}, median {np.median(turns):g}")
    for kind in ("state", "action"):
        lines.append(f"{kind:24} {'min':>9} {'max':>9} {'mean':>9} {'std':>9} {'moves':>6} {'at min':>6} {'at max':>6}")
        for dim in summary[kind]:
            numbers = " ".join(f"{dim[key]:9.4g}" for key in ("min", "max", "mean", "std"))
            shares = " ".join(f"{dim[key]:6.1%}" for key in ("moves", "at_min", "at_max"))
            note = "saturates" if dim["saturates"] else dim["note"]
            lines.append(f"  {dim['name'][:22]:22} {numbers} {shares}  {_bars(dim['histogram'])}  {note}".rstrip())
    return lines


def _bars(counts: Sequence[int]) -> str:
    top = max(counts) or 1
    return "".join(" .:-=+*#%@"[min(9, -(-9 * count // top))] for count in counts)
