"""What a running clock did to an arm: what its rounds cost in control steps, and what was executed meanwhile.

An arm whose rounds say a `latency_ms` ran under a running clock (docs/rollouts.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from flashtrail.base.errors import UserError
from flashtrail.statistics import intervals, resampling
from flashtrail.tables import schemas
from flashtrail.tables.schemas import EPISODE_KEY, ROUTES

KINDS_OF_STEP = ("fresh", "stale", "held")
_STEP_COLUMNS = [*EPISODE_KEY, "stale", "offset_in_chunk"]


def summary(
    rounds: pd.DataFrame, steps: str | Path | Sequence[str | Path], metadata: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return what the clock did to one arm as plain data, or None where the simulator waited for the policy.

    `steps`: the arm's steps tables; `metadata` holds the clock's settings as the shard wrote them (``clock``).
    """
    if not len(rounds) or rounds["latency_ms"].isna().all():
        return None
    settings = json.loads(metadata.get("clock") or "{}")
    if "hz" not in settings:
        raise UserError(f"{rounds['arm'].iloc[0]}: its tables have a running clock's latencies but not its settings")
    hz = float(settings["hz"])
    kinds = kinds_of_steps(read_steps(steps))
    total = len(kinds)
    shares = {kind: _share(kinds, kind) for kind in KINDS_OF_STEP}
    return {
        "settings": settings,
        "hz": hz,
        "latency_ms": {
            route: intervals.latency(part["latency_ms"].to_numpy(float)).as_dict()
            for route, part in (("all", rounds), *((r, rounds[rounds["route"] == r]) for r in ROUTES))
        },
        "mean_ms": float(rounds["latency_ms"].mean()),
        "waited_steps_mean": float(rounds["waited_steps"].mean()),
        "steps": total,
        "shares": shares,
        "fresh_hz": hz * shares["fresh"]["share"] if total else None,
        "rounds_per_s": len(rounds) * hz / total if total else None,
        "stale_dropped_mean": float(rounds["stale_dropped"].mean()),
        "rounds": len(rounds),
        "rounds_too_late": int(((rounds["executed"] == 0) & (rounds["stale_dropped"] > 0)).sum()),
    }


def read_steps(steps: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Return the columns of steps tables that say what kind of step each was."""
    return schemas.read_tables(steps, schemas.STEPS, _STEP_COLUMNS).to_pandas()


def kinds_of_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the steps with their `kind`.

    fresh: an action of the newest round; stale: of an older chunk while a round was under way; held: of none.
    """
    kind = pd.Series("fresh", index=steps.index)
    kind[steps["stale"].astype(bool)] = "stale"
    kind[steps["offset_in_chunk"].isna()] = "held"
    return steps[list(EPISODE_KEY)].assign(kind=kind)


def _share(kinds: pd.DataFrame, kind: str) -> dict[str, Any]:
    """Return the share of steps of one kind; its interval resamples whole episodes."""
    steps = kinds.assign(_part=(kinds["kind"] == kind).astype(float), _whole=1.0)
    sums = steps.groupby(list(EPISODE_KEY))[["_part", "_whole"]].sum()
    interval = resampling.ratio_over_episodes(sums["_part"].tolist(), sums["_whole"].tolist())
    return {
        "n": int(steps["_part"].sum()),
        "share": float(steps["_part"].mean()) if len(steps) else None,
        "interval": asdict(interval) if interval else None,
    }
