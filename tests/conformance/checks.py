"""The golden sets and their checks: `run` gives the rows of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@torch.inference_mode()
def run(golden: Golden, name: str) -> list[Row]:
    """The rows of the set `name`. A crash is one failed row, and the other parts still run."""
    rows: list[Row] = []
    for parts in CHECKS[name]:
        with crash_as_row(f"{name[:2]} {parts.__module__.rsplit('.', 1)[-1]}", rows):
            for part, checks in parts(golden):
                with crash_as_row(part, rows):
                    rows.extend(checks)
    return rows


@contextmanager
def crash_as_row(name: str, rows: list[Row]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        rows.append(Row(name, float("inf"), None, f"{type(error).__name__}: {text}"))
