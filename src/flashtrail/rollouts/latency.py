"""How long a round took, for the running clock: as measured, as given, or drawn from a table of rounds.

A draw depends on the episode's key and the round alone (`seeds`), so that an episode is reproducible and arms meet the
same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from flashtrail.base import parquet, provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.clocks import Fixed, Replay

ROUTES = ("full", "draft")


@dataclass(frozen=True)
class Latencies:
    """A source of latencies, ready to draw from; `samples`: a replay's, by route (ms)."""

    source: Literal["measured"] | Fixed | Replay
    samples: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, route: str, roundtrip_ms: float, seed: Sequence[int]) -> float:
        """Return the latency of one round in ms; `seed`: the round's (stream ``latency``).

        Raises UserError where the source has no figure for this route.
        """
        source = self.source
        if isinstance(source, str):
            return float(roundtrip_ms)
        if isinstance(source, Replay):
            samples = self.samples.get(route, np.empty(0))
            if not len(samples):
                raise UserError(f"clock: {source.replay} has no {route} round with a {source.time} to replay")
            return float(samples[np.random.default_rng(list(seed)).integers(len(samples))])
        fixed = None if source.constant_ms is None else getattr(source.constant_ms, route, None)
        if fixed is None:
            raise UserError(
                f"clock: {source.published or 'constant_ms'} has no latency of a {route} round; "
                "give one, or flash: {force_full_each_round: true}"
            )
        return fixed


def load(source: Literal["measured"] | Fixed | Replay) -> Latencies:
    """Return a clock's source, with the table of a replay read.

    Raises UserError for a table that is missing, unreadable, not of rounds, or not the one that was planned with.
    """
    if not isinstance(source, Replay):
        return Latencies(source)
    path = Path(source.replay)
    if source.digest is not None and table_digest(path) != source.digest:
        raise UserError(f"clock: {path} has changed since this shard was planned; run the workflow again")
    return Latencies(source, read_samples(path, source.time))


def table_digest(path: str | Path) -> str:
    """Return the digest of a table that is replayed; UserError where there is none."""
    try:
        return provenance.sha256_file(Path(path))
    except FileNotFoundError:
        raise UserError(f"clock: {path} does not exist; give the path of a table of rounds") from None


def read_samples(path: str | Path, time: str) -> dict[str, np.ndarray]:
    """Return the latencies of a `rounds` table or a profile by route (ms); warm-up and empty times are left out."""
    try:
        table = parquet.read(path)
    except UserError as error:
        raise UserError(f"clock: {error}") from None
    for column in ("route", time):
        if column not in table.column_names:
            raise UserError(f"clock: {path} has no column {column!r}: give a table of rounds, or choose another time")
    if "warmup" in table.column_names:
        table = table.filter(pc.invert(table["warmup"]))
    table = table.filter(pc.is_valid(table[time]))
    return {route: table.filter(pc.equal(table["route"], route))[time].to_numpy() for route in ROUTES}
