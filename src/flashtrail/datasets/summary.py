"""What a set of demonstrations holds, in numbers: lengths, each joint's range, how much of it stands still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 20
STILL = 0.002  # of a joint's range (1st to 99th percentile): a joint that moves less in a step stands still


@dataclass(frozen=True)
class Part:
    """One episode of T steps. `first`, `last`: a camera -> the picture there, uint8 (height, width, 3)."""

    task: str
    states: NDArray[Any]  # (T, S)
    actions: NDArray[Any]  # (T, A)
    first: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    last: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


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


def summarise(
    parts: Sequence[Part], fps: float, state_names: Sequence[str], action_names: Sequence[str]
) -> dict[str, Any]:
    """Return a set's summary as plain data, but for `first` and `last`: each episode's pictures, as they are.

    `state`, `action`: for each dim name, min, max, mean, std, q01, q99; of an action also `histogram` (BINS counts
    from min to max). `static`: share of steps in which no joint moves.
    """
    lengths = np.array([len(part.actions) for part in parts])
    states, actions = (np.concatenate([getattr(part, name) for part in parts]) for name in ("states", "actions"))
    spans = span(states)
    quiet = sum(int(still(part.states, spans).sum()) for part in parts)
    return {
        "episodes": len(parts),
        "steps": int(lengths.sum()),
        "fps": fps,
        "lengths": lengths.tolist(),
        "tasks": dict(Counter(part.task for part in parts)),
        "state": [_dim(name, column) for name, column in zip(state_names, states.T, strict=True)],
        "action": [
            _dim(name, column) | {"histogram": np.histogram(column, BINS)[0].tolist()}
            for name, column in zip(action_names, actions.T, strict=True)
        ],
        "static": quiet / int(lengths.sum()),
        "first": [part.first for part in parts],
        "last": [part.last for part in parts],
    }


def _dim(name: str, column: NDArray[Any]) -> dict[str, Any]:
    values = column.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99])
    own = {
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(),
        "std": values.std(),
        "q01": low,
        "q99": high,
    }
    return {"name": name} | {key: float(value) for key, value in own.items()}


def text(summary: Mapping[str, Any]) -> list[str]:
    """Return a summary as lines for a terminal."""
    lengths, fps = np.array(summary["lengths"]), summary["fps"]
    lines = [
        f"{summary['episodes']} episodes, {summary['steps']} steps at {fps:g} a second "
        f"({summary['steps'] / fps:.0f} s); {lengths.min()} to {lengths.max()} each, median {np.median(lengths):g}",
        f"{summary['static']:.1%} of the steps without motion",
        *(f"task {task!r}: {count} episodes" for task, count in summary["tasks"].items()),
    ]
    for kind in ("state", "action"):
        lines.append(f"{kind:24} {'min':>9} {'max':>9} {'mean':>9} {'std':>9}")
        for dim in summary[kind]:
            numbers = " ".join(f"{dim[key]:9.4g}" for key in ("min", "max", "mean", "std"))
            lines.append(
                f"  {dim['name'][:22]:22} {numbers}" + (f"  {_bars(dim['histogram'])}" if "histogram" in dim else "")
            )
    return lines


def _bars(counts: Sequence[int]) -> str:
    top = max(counts) or 1
    return "".join(" .:-=+*#%@"[min(9, -(-9 * count // top))] for count in counts)
