"""The golden sets and their checks: `run` gives the rows of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from conformance import draft_head, pi0, rules, sessions, verification, wire
from conformance.golden import SETS, Golden
from conformance.rows import Parts, Row

CHECKS: dict[str, tuple[Callable[[Golden], Parts], ...]] = dict(
    zip(
        SETS,
        ((pi0.parts,), (rules.parts, sessions.parts), (wire.parts,), (draft_head.parts,), (verification.parts,)),
        strict=True,
    )
)


def run(golden: Golden, name: str) -> list[Row]:
    """The rows of the set `name`."""
    return list(rows(golden, name))


@torch.inference_mode()
def rows(golden: Golden, name: str) -> Iterator[Row]:
    """The rows of the set `name` as they are computed. A crash is one failed row, and the other parts still run."""
    for parts in CHECKS[name]:
        try:
            for part, checks in parts(golden):
                try:
                    yield from checks
                except Exception as error:
                    yield crash(part, error)
        except Exception as error:
            yield crash(f"{name[:2]} {parts.__module__.rsplit('.', 1)[-1]}", error)


def crash(name: str, error: Exception) -> Row:
    text = " ".join(str(error).split())[:160]
    return Row(name, float("inf"), None, f"{type(error).__name__}: {text}")
