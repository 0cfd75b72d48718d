"""One arm's tables as one summary: what happened, how often, by which route and how fast."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from flashtrail.base import stages
from flashtrail.base.errors import UserError
from flashtrail.claims import running
from flashtrail.statistics import intervals, resampling
from flashtrail.tables import endings, keys, schemas
from flashtrail.tables.schemas import EPISODE_KEY, EXEC_STEPS, FALLBACK_CAUSES, OUTCOMES, ROUTES

TIMES = ("policy_ms", "serve_ms", "roundtrip_ms")
STAGES = tuple(stages.COLUMNS)
SCOPES = ("all_episodes", "successful_episodes")
_UNREAD = ("noise_seed", "env_step", "radius", "health_std", "health_range", "cache_hit", "cache_age")
_READ = [column for column in schemas.ROUNDS.names if column not in _UNREAD]
_TIMED = ["route", "_episode", *TIMES, *STAGES, "synchronized", "batch_size"]  # what latencies are computed from
_REPEATED = ("run_id", "policy", "arm", "suite", "task", "outcome", "started_at", "route", "fallback_cause")


def summarize_arm(
    episodes: str | Path | Sequence[str | Path],
    rounds: str | Path | Sequence[str | Path],
    steps: str | Path | Sequence[str | Path] | None = None,
) -> dict[str, Any]:
    """Read one arm's tables and return its summary as plain data (see docs/evidence.md for the keys).

    From `steps` comes what a running clock did (`running`); without them that part is empty.
    """
    first = episodes if isinstance(episodes, str | Path) else next(iter(episodes))
    e = schemas.read_tables(episodes, schemas.EPISODES)
    r = schemas.read_tables(rounds, schemas.ROUNDS, _READ)
    frames = [t.to_pandas(categories=[c for c in _REPEATED if c in t.column_names], self_destruct=True) for t in (e, r)]
    del e, r
    metadata = schemas.read_metadata(first)
    clock = None if steps is None else running.summary(frames[1], steps, metadata)
    return {**summary(frames[0], frames[1], schemas.longest_prefix(metadata)), "clock": clock, "metadata": metadata}


def of_how_many(prefix: Mapping[str, Any]) -> int:
    """Return the longest prefix that a histogram of accepted prefixes, a summary's or the control's, has room for."""
    return len(prefix["histogram"]) - 1


def setting(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return an arm's ``condition``, ``guard`` or ``handoff`` as its spec has it, without name; None: not on record."""
    recorded = summary.get("metadata", {}).get(name)
    return None if not recorded else {key: value for key, value in json.loads(recorded).items() if key != "name"}


def acting_limits(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the limits that an arm's actions were held to; None without any, and where they were only measured."""
    given = setting(summary, "limits")
    return given if given and given["act"] else None


def setup(summary: Mapping[str, Any], *apart: str) -> dict[str, Any]:
    """Return how an arm was run, its condition and what is named by `apart` left out: equal in arms that ran alike."""
    parts = {"suite": summary["suite"], "policy": summary["policy"], "limits": acting_limits(summary)}
    parts |= {name: setting(summary, name) for name in ("guard", "handoff", "clock", "settings", "execution")}
    return {name: part for name, part in parts.items() if name not in apart}


def summary(episodes: pd.DataFrame, rounds: pd.DataFrame, longest: int = EXEC_STEPS) -> dict[str, Any]:
    """Return the summary of one arm from its frames; `longest` is the longest accepted prefix that it could have."""
    arms = sorted(episodes["arm"].unique())
    if len(arms) != 1:
        raise UserError(f"a summary is of one arm; the tables hold {arms or 'none'}")
    episodes = keys.one_text(episodes)
    rounds = _by_policy_time(_numbered(episodes, rounds))
    return {
        "version": 1,
        "arm": arms[0],
        "policy": _one(episodes["policy"]),
        "suite": _one(episodes["suite"]),
        "seed": int(episodes["seed"].iloc[0]),
        "init_states": [int(x) for x in sorted(episodes["init_state"].unique())],
        **successes(episodes),
        "outcomes": {name: int((episodes["outcome"] == name).sum()) for name in OUTCOMES},
        "steps": _mean_by_success(endings.judged(episodes), "steps"),
        "rounds": _mean_by_success(endings.judged(episodes), "rounds"),
        "routes": route_mix(rounds),
        "accepted_prefix": accepted_prefix(rounds, longest),
        "latency": {
            "all_episodes": latency_by_route(rounds),
            "successful_episodes": latency_by_route(rounds.loc[rounds["success"], _TIMED]),
        },
        "latency_per_action": per_action(rounds),
        "mixture": mixture(rounds),
        "bookkeeping": bookkeeping(episodes, rounds),
        "condition": {
            "rounds_hit": int(rounds["condition_applied"].sum()),
            "rounds_told": int(rounds["condition_applied"].notna().sum()),
            "rounds": len(rounds),
        },
        "guard": guard_counters(rounds),
    }


def _numbered(episodes: pd.DataFrame, rounds: pd.DataFrame) -> pd.DataFrame:
    """Return the rounds with `_episode`, the place of their episode's row, and its `success`."""
    key = list(EPISODE_KEY)
    of_episodes, of_rounds = (pa.Table.from_pandas(frame[key], preserve_index=False) for frame in (episodes, rounds))
    packing = keys.Packing(of_episodes, of_rounds)
    index = keys.positions(packing.codes(of_episodes), packing.codes(of_rounds))
    if (index < 0).any():
        raise UserError(f"{episodes['arm'].iloc[0]}: {int((index < 0).sum())} rounds belong to no episode; merge again")
    return rounds.assign(_episode=index, success=episodes["success"].to_numpy(bool)[index])


def _by_policy_time(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return the rounds from the fastest to the slowest: what is sorted once need not be sorted for each percentile."""
    return rounds.take(np.argsort(rounds["policy_ms"].to_numpy(float), kind="stable"))


def _one(column: pd.Series) -> str:
    values = sorted(column.unique())
    if len(values) != 1:
        raise UserError(f"a summary is of one {column.name}; the tables hold {', '.join(map(str, values))}")
    return str(values[0])


def successes(episodes: pd.DataFrame) -> dict[str, Any]:
    """Return k/n of an arm's judged episodes and of each of its tasks."""
    tasks = [
        {"task_id": int(task), "task": part["task"].iloc[0], **_count(endings.judged(part))}
        for task, part in episodes.groupby("task_id")
    ]
    return {"success": _count(endings.judged(episodes)), "tasks": tasks}


def _count(episodes: pd.DataFrame) -> dict[str, Any]:
    return intervals.rate(int(episodes["success"].sum()), len(episodes)).as_dict()


def _mean_by_success(episodes: pd.DataFrame, column: str) -> dict[str, float | None]:
    parts = {"all_episodes": episodes, "successful_episodes": episodes[episodes["success"]]}
    return {scope: float(part[column].mean()) if part[column].notna().any() else None for scope, part in parts.items()}


def route_mix(rounds: pd.DataFrame) -> dict[str, Any]:
    """Return how many rounds took each route, why full ones were full, and what share of actions drafts gave."""
    n = len(rounds)
    count = {route: int((rounds["route"] == route).sum()) for route in ROUTES}
    causes = rounds["fallback_cause"].value_counts().to_dict()
    executed = rounds.groupby("route", observed=True)["executed"].sum()
    actions = int(executed.sum())
    return {
        **count,
        "n": n,
        "draft_share": count["draft"] / n if n else None,
        "draft_share_interval": _over_episodes(rounds, (rounds["route"] == "draft").astype(float), 1.0),
        "draft_share_of_actions": float(executed.get("draft", 0) / actions) if actions else None,
        "fallback_causes": {cause: int(causes.get(cause, 0)) for cause in FALLBACK_CAUSES},
    }


def accepted_prefix(rounds: pd.DataFrame, longest: int) -> dict[str, Any]:
    """Return the histogram (draft rounds, 0 to `longest`) and both means that are in use.

    `mean_draft` is over draft rounds; `mean_all` counts a full round as `longest`, as the reproduction's 10.074 does.
    """
    is_draft = (rounds["route"] == "draft").astype(float)
    drafts = rounds.loc[rounds["route"] == "draft", "accepted_prefix"]
    counts = np.bincount(drafts.to_numpy(int), minlength=longest + 1).tolist()
    return {
        "histogram": counts[: longest + 1],
        "draft_rounds": len(drafts),
        "mean_draft": float(drafts.mean()) if len(drafts) else None,
        "mean_draft_interval": _over_episodes(rounds, rounds["accepted_prefix"] * is_draft, is_draft),
        "mean_all": float(rounds["accepted_prefix"].clip(upper=longest).mean()) if len(rounds) else None,
        "zero": counts[0],
        "whole": counts[longest],
    }


def _over_episodes(rounds: pd.DataFrame, numerator: pd.Series, denominator: pd.Series | float) -> dict[str, Any] | None:
    """Return the interval of sum(part) / sum(whole) with episodes resampled, as plain data."""
    episode = rounds["_episode"].to_numpy()
    weights = (np.broadcast_to(np.asarray(x, float), len(rounds)) for x in (numerator, denominator))
    sums = np.column_stack([np.bincount(episode, w) for w in weights])
    sums = sums[np.bincount(episode) > 0]
    interval = resampling.ratio_over_episodes(sums[:, 0], sums[:, 1])
    return asdict(interval) if interval else None


def latency_by_route(rounds: pd.DataFrame) -> dict[str, Any]:
    """Return policy, serve and round-trip latency and the stages' medians, per route and over all rounds (ms).

    `over_episodes` has the intervals of policy time with whole episodes resampled (`_episode` numbers them), since
    rounds of one episode are alike; `episodes` is how many there are.
    """
    rounds = rounds[_TIMED]
    parts = {"all": rounds, **{route: rounds[rounds["route"] == route] for route in ROUTES}}
    return {
        name: {
            "episodes": int(part["_episode"].nunique()),
            "over_episodes": _latency_over_episodes(part),
            **{time: intervals.latency(part[time].to_numpy(float)).as_dict() for time in TIMES},
            "stages_p50": {s: _median(part[s]) for s in STAGES},
            "synchronized": _all_known(part["synchronized"]),
            "in_company": float((part["batch_size"] > 1).mean()) if len(part) else None,  # share of shared passes
        }
        for name, part in parts.items()
    }


def _latency_over_episodes(rounds: pd.DataFrame) -> dict[str, Any]:
    enough = rounds["policy_ms"].notna().sum() >= intervals.P99_MIN_ROUNDS
    quantiles = {"p50": 0.50, "p95": 0.95} | ({"p99": 0.99} if enough else {})
    estimates = resampling.latency_quantiles(
        rounds["policy_ms"].to_numpy(float), rounds["_episode"].to_numpy(), tuple(quantiles.values())
    )
    ends = {name: estimate.interval if (estimate := estimates[q]) else None for name, q in quantiles.items()}
    return {name: asdict(interval) if interval else None for name, interval in ends.items()}


def _all_known(column: pd.Series) -> bool | None:
    """Whether all are true; None where there is nothing, or one does not say."""
    return bool(column.all()) if len(column) and column.notna().all() else None


def _median(column: pd.Series) -> float | None:
    values = column.dropna()
    return float(values.median()) if len(values) else None


def per_action(joined: pd.DataFrame) -> dict[str, float | None]:
    """Return policy time per executed action in both scopes (ms): sum of latency over sum of executed actions."""
    parts = {"all_episodes": joined, "successful_episodes": joined[joined["success"]]}
    return {
        scope: float(part["policy_ms"].sum() / part["executed"].sum())
        if part["executed"].sum() and part["policy_ms"].notna().all()
        else None
        for scope, part in parts.items()
    }


def mixture(rounds: pd.DataFrame) -> dict[str, float | None]:
    """Return the mean policy time beside the one that route shares and route means imply (they must agree).

    None where no round has one: a simulator's expert answers without a server.
    """
    timed = rounds[rounds["policy_ms"].notna()]
    if len(timed) == 0:
        return {"mean_ms": None, "implied_ms": None}
    means = timed.groupby("route", observed=True)["policy_ms"].mean()
    share = float((timed["route"] == "draft").mean())
    draft, full = float(means.get("draft", 0.0)), float(means.get("full", 0.0))
    return {"mean_ms": float(timed["policy_ms"].mean()), "implied_ms": intervals.mixture_mean(share, draft, full)}


def bookkeeping(episodes: pd.DataFrame, rounds: pd.DataFrame) -> dict[str, int]:
    """Return how many episodes there are, and how many of them have counters that differ from their rounds' rows."""
    episode, n = rounds["_episode"].to_numpy(), len(episodes)
    count = np.bincount(episode, minlength=n)
    drafts = np.bincount(episode, (rounds["route"] == "draft").to_numpy(float), n)
    # Under a running clock steps are taken while a round is under way, too.
    taken = rounds["executed"] + pd.to_numeric(rounds["waited_steps"]).fillna(0)
    actions = np.bincount(episode, taken.to_numpy(float), n)
    agrees = episodes["rounds"].isna().to_numpy() | (  # none on record: an imported run without its rounds
        (episodes["rounds"].to_numpy() == count)
        & (episodes["draft_rounds"].to_numpy() == drafts)
        & (episodes["full_rounds"].to_numpy() == count - drafts)
        & (episodes["executed_actions"].to_numpy() == actions)
    )
    return {"episodes": n, "episodes_at_odds": int((~agrees).sum())}


def guard_counters(rounds: pd.DataFrame) -> dict[str, int] | None:
    """Return what the guard did, or None where there was none.

    hits: unhealthy rounds that got the cached frame (of an oracle: the undamaged one); masked: those in which the view
    was declared missing; misses: those that passed as they were; updates: healthy rounds, which renew the cache.
    """
    watched = rounds[rounds["healthy"].notna()]
    if not len(watched):
        return None
    healthy = watched["healthy"].astype(bool)
    replaced = watched["replaced"].eq(True)  # null where the guard had nothing to say
    masked = watched["masked"].eq(True)
    return {
        "rounds": len(watched),
        "unhealthy": int((~healthy).sum()),
        "hits": int(replaced.sum()),
        "masked": int(masked.sum()),
        "misses": int((~healthy & ~replaced & ~masked).sum()),
        "updates": int(healthy.sum()),
    }
