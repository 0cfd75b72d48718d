"""Bounds of clean episodes: derived from a reference run, stored with where they come from and what they guarantee.

A bound is the least or the largest value of a feature over the reference episodes, and some slack. Nothing is assumed
of its distribution: of n + 1 episodes of one kind each is as likely as any other to be the largest, so that a new clean
episode lies above the largest of n with probability 1/(n + 1), above a bound with slack at most so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.drills.predicates import FEATURES, SLACK, Bound, Episode, features

VERSION = 1
CONFIDENCE = 0.95
MIN_EPISODES = 2  # one episode has no range
REMEDY = "`make drills` derives them from clean episodes, or: flashtrail doctor CLEAN_RUN --write-bounds FILE"


@dataclass(frozen=True)
class Reference:
    """The clean bounds of one policy, and the episodes that they come from (`origin`: files, digests, what was run)."""

    bounds: dict[str, Bound]
    episodes: int
    rewarded: int
    origin: dict[str, Any] = field(default_factory=dict)


def derive(episodes: Sequence[Episode], origin: Mapping[str, Any] | None = None) -> Reference:
    """Return the bounds of clean episodes; one that no episode has gets none. UserError below MIN_EPISODES."""
    if len(episodes) < MIN_EPISODES:
        raise UserError(f"bounds need at least {MIN_EPISODES} clean episodes, got {len(episodes)}")
    measured = [features(episode) for episode in episodes]
    bounds = {}
    for name in FEATURES:
        values = [value for row in measured if not np.isnan(value := row[name])]
        if values:
            bounds[name] = Bound(min(values), max(values), len(values))
    return Reference(bounds, len(measured), sum(bool(row["rewarded"]) for row in measured), dict(origin or {}))


# --- what they guarantee ---


def beyond(n: int, sides: int = 1) -> float:
    """Return the probability that a new clean episode lies beyond a bound of `n`: on one side, or on either of two."""
    return min(1.0, sides / (n + 1))


def content(n: int) -> float:
    """Return the share of clean episodes that lie below the largest of `n`, at least, with `CONFIDENCE`.

    The share below the largest of n has the distribution Beta(n, 1) (Wilks 1941).
    """
    return float(scipy.stats.beta.ppf(1 - CONFIDENCE, n, 1))


def run_alarm(m: int, n: int, sides: int = 1) -> float:
    """Return the probability that more than half of `m` new clean episodes lie beyond a bound of `n`.

    The number of exceedances is beta-binomial (Gumbel and von Schelling 1950), since all m share the one bound.
    """
    return float(scipy.stats.betabinom.sf(m // 2, m, sides, n + 1 - sides)) if n >= sides else 1.0


def failures_needed(m: int, failed: int, n: int, alpha: float = 1 - CONFIDENCE) -> int:
    """Return from how many failures on a run of `m` fails more than a clean one, of whose `n` episodes `failed` did.

    The least k that a clean run reaches with probability `alpha` at most: beta-binomial, every rate of failure as
    credible as any other before the reference was seen. m + 1 where no count is enough.
    """
    tail = scipy.stats.betabinom.sf(np.arange(m + 1) - 1, m, failed + 1, n - failed + 1)
    return int(np.argmax(tail <= alpha)) if (tail <= alpha).any() else m + 1


# --- stored ---


def save(reference: Reference, path: str | Path) -> None:
    """Write bounds as JSON, each with its guarantee."""
    provenance.json_dump(spelled_out(reference), path)


def spelled_out(reference: Reference) -> dict[str, Any]:
    """Return bounds as JSON-able data, as `save` writes them."""
    entries = {
        name: {
            "least": bound.least,
            "largest": bound.largest,
            "n": bound.n,
            "low": bound.low,
            "high": bound.high,
            "what": FEATURES[name],
        }
        for name, bound in reference.bounds.items()
    }
    n = reference.episodes
    return {
        "version": VERSION,
        "bounds": entries,
        "episodes": n,
        "rewarded": reference.rewarded,
        "origin": reference.origin,
        "guarantee": {
            "rule": "least and largest value of the clean reference episodes, widened by `slack` of that range",
            "slack": SLACK,
            "new_clean_episode_beyond_one_side_at_most": beyond(n),
            "content_of_one_side": content(n),
            "confidence": CONFIDENCE,
        },
    }


def load(path: str | Path) -> Reference:
    """Read bounds; UserError, with how to get them, for a file that is missing or holds none."""
    if not Path(path).is_file():
        raise UserError(f"no bounds at {path}: {REMEDY}")
    data = provenance.json_load(path)
    if not isinstance(data, dict) or data.get("version") != VERSION or not isinstance(data.get("bounds"), dict):
        raise UserError(f"{path} does not hold bounds of version {VERSION}: {REMEDY}")
    try:
        slack = float(data["guarantee"]["slack"])
        bounds = {
            name: Bound(float(entry["least"]), float(entry["largest"]), int(entry["n"]), slack)
            for name, entry in data["bounds"].items()
        }
        unknown = sorted(set(bounds) - set(FEATURES))
        if unknown:
            raise UserError(f"{path}: bound {unknown[0]!r} is of an unknown feature: {REMEDY}")
        return Reference(bounds, int(data["episodes"]), int(data["rewarded"]), dict(data.get("origin", {})))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is incomplete ({error!r}): {REMEDY}") from None
