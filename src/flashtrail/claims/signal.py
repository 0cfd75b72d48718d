"""Signals of doubt: does what a round says of itself tell how its episode will end, or that a view is dead?

All arms together, but those with hand-overs, whose ends are the helper's, too; pairs within an arm and task. An episode
that fails lasts longer and so shows more of everything: only rounds before a common step, the window, count, and only
episodes that lasted beyond it. The thresholds of the alarm and the predicted shares are learned on other init states
than those they are tested on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flashtrail.experiment.doubt import SIGNALS
from flashtrail.statistics import discrimination, intervals, resampling
from flashtrail.tables import endings
from flashtrail.tables.schemas import DOUBT, EPISODE_KEY

if TYPE_CHECKING:
    from flashtrail.claims.campaign import Campaign

STEP_HZ = 20
FOLDS = 5
ALARM_ROUNDS = 4  # rounds that the alarm averages
FALSE_ALARMS = 0.10  # share of successful episodes that may set off the alarm on the init states it is learned on
# The source document `deployment` proceeds where 1 / (1 + spread) > 0.5, the spread being that of several answers.
PRINTED_SPREAD, PRINTED_SIGNALS = 1.0, ("sample_spread", "head_spread")
_DRAFT_SIGNALS = ("accepted_prefix", "radius", "rejected")
_RARE = ("rejected", "gripper", "zero_accept")  # yes or no: a mean over a few rounds is coarse


def analyse(episodes: pd.DataFrame, rounds: pd.DataFrame, control: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return all that the report says of signals of doubt, as plain data; `signals`: those that any round has."""
    frame = _joined(episodes, rounds)
    there = [name for name in SIGNALS if frame[name].notna().any()]
    result = {"draft_rounds": int((frame["route"] == "draft").sum()), "signals": there}
    result |= {"acceptance": acceptance(frame, control)}
    if not there or frame[["env_step", "steps"]].isna().any(axis=None):
        return result | {"window": None}  # an imported run may not say when its rounds were, or how long it took
    step = window(episodes)
    return result | {
        "window": step,
        "outcome": [row for name in there for row in outcome(frame, step, name)],
        "alarms": [alarm(frame, step, name) for name in there if name not in _RARE],
        "printed": printed(frame),
        "reliability": calibrated(frame, step),
        "camera": [] if frame["condition_applied"].isna().any() else camera(frame, step),
    }


@lru_cache(maxsize=2)
def of_run(run: Campaign) -> dict[str, Any]:
    """Return `analyse` of a run's tables, computed once for all that show parts of it."""
    return analyse(run.episodes, run.rounds, run.control)


def whole_window(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows on episode means over the whole window that have a value; none without the steps of rounds."""
    step = analysis.get("window")
    rows = [row for row in analysis["outcome"] if row["value"] is not None] if step is not None else []
    return [row for row in rows if row["unit"] == "episode" and row["before_step"] == step]


def _joined(episodes: pd.DataFrame, rounds: pd.DataFrame) -> pd.DataFrame:
    """Return the rounds with their episode's end, number and stratum, and one column per signal."""
    ends = endings.judged(episodes[episodes["interventions"].isna()])
    ends = ends[[*EPISODE_KEY, "policy", "success", "steps", "draft_rounds"]].copy()
    ends["drafts"] = ends.groupby("arm")["draft_rounds"].transform("sum") > 0
    ends["episode"] = np.arange(len(ends))
    frame = rounds.merge(ends, on=list(EPISODE_KEY), how="inner").sort_values(["episode", "round"])
    frame["stratum"] = frame.groupby(["arm", "suite", "task_id"]).ngroup()
    frame["failed"] = ~frame["success"].astype(bool)
    draft = frame["route"] == "draft"
    frame["rejected"] = (frame["accepted_prefix"] == 0).astype(float).where(draft)
    frame["radius"] = frame["radius"].where(draft)
    frame["accepted_prefix"] = frame["accepted_prefix"].astype(float).where(draft)
    frame[list(DOUBT)] = frame[list(DOUBT)].astype(float)
    cause_of_round = frame["fallback_cause"].fillna("")
    for cause in ("gripper", "zero_accept"):
        # A full round at the start of an episode has no draft behind it.
        frame[cause] = (cause_of_round == cause).astype(float).where((frame["round"] > 0) & frame["drafts"])
    return frame


def window(episodes: pd.DataFrame) -> int:
    """Return the step up to which rounds count: the shortest tenth of the successful episodes ends before it.

    Without a successful episode it is half the longest episode.
    """
    won = episodes.loc[episodes["success"].astype(bool), "steps"].dropna()
    return int(np.quantile(won, 0.1)) if len(won) else int(episodes["steps"].max() // 2)


def _early(frame: pd.DataFrame, step: int) -> pd.DataFrame:
    return frame[(frame["env_step"] < step) & (frame["steps"] > step)]


# --- the episode's end ---


def outcome(frame: pd.DataFrame, step: int, name: str) -> list[dict[str, Any]]:
    """Return the AUROC of a signal for failure: per round, and as the mean of an episode's rounds so far.

    The means are taken at a third, two thirds and the whole of the window.
    """
    sign, words = SIGNALS[name]
    early = _early(frame, step)
    auroc = discrimination.auroc(sign * early[name], early["failed"], early["episode"], early["stratum"])
    rows = [{"signal": name, "words": words, "unit": "round", "before_step": step, **_plain(auroc)}]
    for share in (1 / 3, 2 / 3, 1):
        until = int(step * share)
        part = episode_means(early[early["env_step"] < until])
        auroc = discrimination.auroc(sign * part[name], part["failed"], part["episode"], part["stratum"])
        rows.append({"signal": name, "words": words, "unit": "episode", "before_step": until, **_plain(auroc)})
    return rows


def _plain(auroc: discrimination.Auroc) -> dict[str, Any]:
    return {**auroc.as_dict(), "says": auroc.says}


def episode_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per episode: the mean of each signal, and its end."""
    grouped = frame.groupby("episode")
    ends = grouped[["stratum", "failed", "init_state", "steps", "arm", "task_id"]].first()
    return ends.join(grouped[list(SIGNALS)].mean()).reset_index()


# --- an alarm, and how early it comes ---


def alarm(frame: pd.DataFrame, step: int, name: str) -> dict[str, Any]:
    """Return how often a signal warns of a failure inside the window, and how long before the end.

    The alarm: the signal's mean over the last 4 rounds that have one is worse than a threshold that at most a tenth of
    the successful episodes of the same arm and task reach, on the other init states. An arm and task with fewer than
    5 of those, or without a failed episode, is left out: of one where all fail, a high signal tells no episode apart.
    """
    sign, words = SIGNALS[name]
    rounds = _early(frame, step).dropna(subset=[name]).copy()
    rolled = (-sign * rounds[name]).groupby(rounds["episode"]).rolling(ALARM_ROUNDS).mean()
    rounds["level"] = rolled.droplevel(0)
    ends = rounds.groupby("episode")[["failed", "steps", "init_state", "stratum"]].first()
    ends["lowest"] = rounds.groupby("episode")["level"].min()
    ends = ends.dropna(subset=["lowest"])
    ends = ends[ends.groupby("stratum")["failed"].transform("any")]
    ends["threshold"], fold = np.nan, ends["init_state"] % FOLDS
    for (stratum, own), part in ends.groupby(["stratum", fold]):
        learned = ends.loc[(ends["stratum"] == stratum) & (fold != own) & ~ends["failed"], "lowest"]
        if len(learned) >= discrimination.MIN_EPISODES:
            ends.loc[part.index, "threshold"] = np.quantile(learned, FALSE_ALARMS, method="lower")
    ends = ends.dropna(subset=["threshold"])
    below = rounds[rounds["level"] < rounds["episode"].map(ends["threshold"])]
    ends["alarm_step"] = below.groupby("episode")["env_step"].min()
    rang = ends["alarm_step"].notna()
    lead = (ends["steps"] - ends["alarm_step"])[rang & ends["failed"]]
    return {
        "signal": name,
        "words": words,
        "failed": intervals.rate(int((rang & ends["failed"]).sum()), int(ends["failed"].sum())).as_dict(),
        "successful": intervals.rate(int((rang & ~ends["failed"]).sum()), int((~ends["failed"]).sum())).as_dict(),
        "lead_steps": [float(q) for q in np.quantile(lead, [0.25, 0.5, 0.75])] if len(lead) else None,
        "rounds": ALARM_ROUNDS,
    }


def printed(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return in how many rounds, and in how many failed episodes, the document's rule would have paused."""
    rows = []
    for name in PRINTED_SIGNALS:
        spread = frame.dropna(subset=[name])
        if len(spread):
            paused = spread[name] >= PRINTED_SPREAD
            by_episode = paused.groupby(spread["episode"]).any()
            failed = spread.groupby("episode")["failed"].first()
            counts = {
                "rounds": intervals.rate(int(paused.sum()), len(paused)).as_dict(),
                "failed": intervals.rate(int((by_episode & failed).sum()), int(failed.sum())).as_dict(),
            }
            rows.append({"signal": name, "words": SIGNALS[name][1], "largest": float(spread[name].max()), **counts})
    return rows


# --- reliability ---


def calibrated(frame: pd.DataFrame, step: int) -> dict[str, Any] | None:
    """Return predicted against observed failure, the prediction made of the accepted prefix on other init states.

    Beside its Brier score stands that of a prediction from arm and task alone (learned on the same init states):
    where the signal is not better, it adds nothing.
    """
    part = episode_means(_early(frame, step)).dropna(subset=["accepted_prefix"])
    fold = part["init_state"].to_numpy() % FOLDS
    if len(part) < 20 or len(np.unique(fold)) < 2:
        return None
    failed = part["failed"].to_numpy(bool)
    by_signal = discrimination.cross_fitted(-part["accepted_prefix"], failed, fold)
    by_arm = np.full(len(part), np.nan)
    for name in np.unique(fold):
        learned_on = part[fold != name].groupby("stratum")["failed"]
        shares = (learned_on.sum() + 1) / (learned_on.count() + 2)
        by_arm[fold == name] = part.loc[fold == name, "stratum"].map(shares).fillna(0.5)
    return {
        "bins": discrimination.reliability(by_signal, failed),
        "brier": {
            "signal": discrimination.brier(by_signal, failed),
            "arm_and_task": discrimination.brier(by_arm, failed),
            "share_alone": discrimination.brier(np.full(len(failed), failed.mean()), failed),
        },
        "episodes": len(part),
    }


# --- a dead camera ---


def camera(frame: pd.DataFrame, step: int) -> list[dict[str, Any]]:
    """Return the AUROC of each draft signal for a broken view that reached the policy.

    Within arms that break some rounds: those against the others of the same arm. For arms that break every round: its
    rounds against those of an unbroken arm of the same policy, inside the window. Rounds whose view a guard replaced
    are left out; where a guard watched, the image's own spread stands beside as what a look at the pixels would say.
    """
    drafts = frame[(frame["route"] == "draft") & ~_true(frame["replaced"])]
    if not len(drafts):
        return []
    share = drafts.groupby("arm")["condition_applied"].mean()
    some = drafts[drafts["arm"].isin(share[(share > 0) & (share < 1)].index)]
    rows = [_camera_row(some, name, "broken rounds against the others of the same arm") for name in _DRAFT_SIGNALS]
    always = drafts[drafts["arm"].isin(share[share == 1].index) | drafts["arm"].isin(share[share == 0].index)]
    policies = always.groupby("policy")["condition_applied"].transform("nunique") == 2
    mixed = always[policies & (always["env_step"] < step)].copy()
    mixed["stratum"] = mixed.groupby(["policy", "suite", "task_id"]).ngroup()
    rows += [_camera_row(mixed, name, "arms broken in every round against unbroken arms") for name in _DRAFT_SIGNALS]
    watched = frame[frame["health_std"].notna()]
    auroc = discrimination.auroc(
        -watched["health_std"], watched["condition_applied"], watched["episode"], watched["stratum"]
    )
    pixels = {"signal": "health_std", "words": "spread of the wrist image\u2019s pixels", "means": None}
    rows.append({**pixels, "comparison": "rounds that a guard looked at", **_plain(auroc)})
    return [row for row in rows if row["value"] is not None]


def _true(column: pd.Series) -> pd.Series:
    return column.eq(True).fillna(False).astype(bool)  # empty is not true


def _camera_row(frame: pd.DataFrame, name: str, comparison: str) -> dict[str, Any]:
    sign, words = SIGNALS[name]
    hit = frame["condition_applied"].astype(bool)
    auroc = discrimination.auroc(sign * frame[name], hit, frame["episode"], frame["stratum"])
    means = {"broken": _number(frame.loc[hit, name].mean()), "whole": _number(frame.loc[~hit, name].mean())}
    return {"signal": name, "words": words, "comparison": comparison, **_plain(auroc), "means": means}


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


# --- acceptance and its control ---


def acceptance(frame: pd.DataFrame, control: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return, arm by arm, how often a draft's radius is within tau, and the control's share beside it.

    The control is the full route against itself under other noise; it is of one policy, and stands beside that policy's
    arms only. Shares within tau are by the radius alone, without the gripper's rules, as the control's are.
    """
    rows = []
    for arm, part in frame[frame["route"] == "draft"].groupby("arm", sort=False):
        own_control = control if control and control.get("policy") == part["policy"].iloc[0] else None
        tau = float(own_control["tau"]) if own_control else None
        within = (part["radius"] <= tau).astype(float) if tau is not None else None
        sums = part.assign(_in=within if within is not None else np.nan).groupby("episode")["_in"].agg(["sum", "size"])
        interval = resampling.ratio_over_episodes(sums["sum"], sums["size"]) if within is not None else None
        rows.append(
            {
                "arm": arm,
                "draft_rounds": len(part),
                "episodes": len(sums),
                "median_radius": _number(part["radius"].median()),
                "within": None if within is None else int(within.sum()),
                "interval": None if interval is None else {"low": interval.low, "high": interval.high},
                "control": None if own_control is None else _control_row(own_control),
            }
        )
    return rows


def _control_row(control: Mapping[str, Any]) -> dict[str, Any]:
    queries = int(control["queries"])
    within = round(control["share_within_tau"] * queries)
    return {
        "tau": float(control["tau"]),
        "median_distance": float(control["median_distance"]),
        **intervals.rate(within, queries).as_dict(),
    }
