"""Faults of the observation: what the policy sees instead of the true pictures.

What each kind does to pictures; their parameters are in `experiment.conditions`. A condition is made anew for each
episode, so that one with memory cannot leak into the next. What is random is a function of the episode's seed and the
query, so that an episode meets the same fault in every arm. The robot's own state is touched by one kind only
(`antipode`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flashtrail.experiment import conditions as kinds
from flashtrail.experiment.conditions import VIEWS
from flashtrail.simulators.observation import Observation, upright

Image = NDArray[np.uint8]
_VIEW_USE = {"agent": 0, "wrist": 1}
_CENTRE_USE, _BURST_USE = 2, 3


class Condition(Protocol):
    """A fault during one episode."""

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        """Return what is left of the observation at this query (0, 1, ... per episode) and whether it was hit.

        To be called at every query in turn: every request counts as one, the one that repeats a zero-accept round
        too. Where not `allowed`, nothing is changed, but memory is kept up to date. A hit with nothing to show
        instead, such as a freeze at the first query, does not count.
        """


# --- pictures ---


def occluded(image: Image, size: float, row: float, column: float, value: int) -> Image:
    """Return the (H, W, 3) image with a patch of `size` (share of each side) about (row, column), cut at the edge."""
    out = image.copy()
    spans = []
    for extent, centre in zip(image.shape[:2], (row, column), strict=True):
        side = max(1, round(size * extent))
        first = round(centre * extent - side / 2)
        spans.append(slice(max(0, first), max(0, first + side)))
    out[spans[0], spans[1]] = value
    return out


def noisy(image: Image, sigma: float, generator: np.random.Generator) -> Image:
    """Return the image plus normal noise of `sigma` grey levels, rounded and cut to 0-255."""
    noise = generator.standard_normal(image.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


# --- state ---


def antipode(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what `observation.axis_angle` makes of -q where it makes the (3,) `rotation` (rad) of q.

    The same attitude: the angle is 2 pi minus the other one, about the opposite axis, a jump by 2 pi.
    """
    angle = float(np.linalg.norm(rotation))
    return rotation * (1.0 - 2.0 * math.pi / angle) if angle > 0.0 else rotation


# --- faults ---


class _Draw:
    """Generators by counter: the episode's seed, the position in the composition, the use and the query."""

    def __init__(self, seed: Sequence[int] | None, path: tuple[int, ...] = ()) -> None:
        self._seed, self._path = None if seed is None else list(seed), path

    def part(self, index: int) -> _Draw:
        return _Draw(self._seed, (*self._path, index))

    def generator(self, use: int, query: int = 0) -> np.random.Generator:
        if self._seed is None:
            raise ValueError("a random condition needs the episode's seed (seeds.derive, stream 'perturbation')")
        sequence = np.random.SeedSequence(self._seed, spawn_key=(*self._path, use, query))
        return np.random.Generator(np.random.Philox(sequence))


class _Clean:
    def __init__(self, given: kinds.Clean, draw: _Draw) -> None:
        pass

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        return observation, False


class _Views:
    """Changes the views that are chosen, picture by picture, at the queries that are hit."""

    def __init__(self, given: Any, draw: _Draw) -> None:
        self._given, self._draw = given, draw
        self._when: Callable[[int], bool] = given.hits

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        hit = allowed and self._when(query)
        changed: dict[str, Any] = {}
        for view in VIEWS[self._given.view]:
            picture = self._seen(view, getattr(observation, view), query, hit)
            if picture is not None:
                changed[view] = picture
        return (replace(observation, **changed), True) if hit and changed else (observation, False)

    def _seen(self, view: str, image: Image, query: int, hit: bool) -> Image | None:
        """Return the picture to show if this query is hit, None where there is nothing else to show."""
        raise NotImplementedError


class _Zero(_Views):
    def _seen(self, view: str, image: Image, query: int, hit: bool) -> Image | None:
        return np.zeros_like(image)


class _Freeze(_Views):
    def __init__(self, given: kinds.Freeze, draw: _Draw) -> None:
        super().__init__(given, draw)
        self._last: dict[str, Image] = {}

    def _seen(self, view: str, image: Image, query: int, hit: bool) -> Image | None:
        if hit and view in self._last:
            return self._last[view]
        self._last[view] = image.copy()
        return None


class _Stale(_Views):
    def __init__(self, given: kinds.Stale, draw: _Draw) -> None:
        super().__init__(given, draw)
        self._past: dict[str, deque[Image]] = {view: deque(maxlen=given.queries + 1) for view in VIEWS[given.view]}

    def _seen(self, view: str, image: Image, query: int, hit: bool) -> Image | None:
        past = self._past[view]
        past.append(image.copy())
        return past[0] if len(past) > 1 else None


class _Occlusion(_Views):
    def __init__(self, given: kinds.Occlusion, draw: _Draw) -> None:
        super().__init__(given, draw)
        self._centres = {view: self._centre(view) for view in VIEWS[given.view]}

    def _centre(self, view: str) -> tuple[float, float]:
        """Return the centre given, or a drawn one with the whole patch inside the picture."""
        given = self._given
        if given.row is not None:
            return given.row, given.column
        row, column = self._draw.generator(_CENTRE_USE, _VIEW_USE[view]).uniform(given.size / 2, 1 - given.size / 2, 2)
        return float(row), float(column)

    def _seen(self, view: str, image: Image, query: int, hit: bool) -> Image | None:
        return occluded(image, self._given.size, *self._centres[view], self._given.value) if hit else None


class _Noise(_Views):
    def _seen(self, view: str, image: Image, query: int, hit: bool) -> Image | None:
        return noisy(image, self._given.sigma, self._draw.generator(_VIEW_USE[view], query)) if hit else None


class _Swap:
    def __init__(self, given: kinds.Swap, draw: _Draw) -> None:
        self._given = given

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        if not (allowed and self._given.hits(query)):
            return observation, False
        return replace(observation, agent=observation.wrist, wrist=observation.agent), True


class _UpsideDown(_Views):
    def _seen(self, view: str, image: Image, query: int, hit: bool) -> Image | None:
        return upright(image) if hit else None  # the client has turned it: turned again, it is as it was rendered


class _Prompt:
    def __init__(self, given: kinds.Prompt, draw: _Draw) -> None:
        self._template = given.template

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        if not allowed:
            return observation, False
        return replace(observation, prompt=self._template.replace(kinds.INSTRUCTION, observation.prompt)), True


class _Instruction:
    def __init__(self, given: kinds.Instruction, draw: _Draw) -> None:
        self._text = given.text

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        return (replace(observation, prompt=self._text), True) if allowed else (observation, False)


class _Antipode:
    def __init__(self, given: kinds.Antipode, draw: _Draw) -> None:
        self._given = given

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        rotation = observation.state[3:6]
        long_way = float(np.linalg.norm(rotation)) > math.pi
        if not (allowed and self._given.hits(query)) or (self._given.canonical and not long_way):
            return observation, False
        state = np.concatenate([observation.state[:3], antipode(rotation), observation.state[6:]])
        return replace(observation, state=state), True


class _Bursts:
    def __init__(self, given: kinds.Bursts, draw: _Draw) -> None:
        self._given, self._draw = given, draw
        self._fault = _made(given.fault, draw.part(0))
        self._left = 0

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        begins = self._draw.generator(_BURST_USE, query).random() < self._given.probability
        self._left = self._given.length if begins else max(0, self._left - 1)
        return self._fault.apply(observation, query, allowed and self._left > 0)


class _AllOf:
    def __init__(self, given: kinds.AllOf, draw: _Draw) -> None:
        self._parts = [_made(part, draw.part(index)) for index, part in enumerate(given.parts)]

    def apply(self, observation: Observation, query: int, allowed: bool = True) -> tuple[Observation, bool]:
        hits = []
        for part in self._parts:
            observation, hit = part.apply(observation, query, allowed)
            hits.append(hit)
        return observation, any(hits)


_MADE: dict[type[kinds.Kind], Callable[[Any, _Draw], Condition]] = {
    kinds.Clean: _Clean,
    kinds.Zero: _Zero,
    kinds.Freeze: _Freeze,
    kinds.Stale: _Stale,
    kinds.Swap: _Swap,
    kinds.UpsideDown: _UpsideDown,
    kinds.Prompt: _Prompt,
    kinds.Instruction: _Instruction,
    kinds.Antipode: _Antipode,
    kinds.Occlusion: _Occlusion,
    kinds.Noise: _Noise,
    kinds.Bursts: _Bursts,
    kinds.AllOf: _AllOf,
}


def _made(given: kinds.Kind, draw: _Draw) -> Condition:
    return _MADE[type(given)](given, draw)


def build(spec: kinds.Kind | Mapping[str, Any] | Sequence[Any], seed: Sequence[int] | None = None) -> Condition:
    """Return a fresh condition for one episode, of a kind or of its JSON: ``{kind: zero, view: wrist, every: 4}``.

    `seed`: the episode's (`seeds.derive`, stream ``perturbation``); noise, bursts and a drawn position need it
    (ValueError without).
    """
    return _made(kinds.read(spec), _Draw(seed))
