"""What a verdict is made of: the judgement itself, the rows of an arm, the pairs of two, the scope in words.

Shared by the modules that judge (verdicts.py, success_verdicts.py).
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from flashtrail.claims import claims as types
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.looks import Anytime
from flashtrail.statistics.power import Plan
from flashtrail.statistics.stratified import Stratum
from flashtrail.statistics.wording import integers, listed, plural
from flashtrail.tables import keys
from flashtrail.tables.schemas import PAIR_KEY

_NAMED_EPISODES = 60  # discordant episodes listed by name; the digest covers all rows in any case
_DIGEST_CHARS = 16


@dataclass
class Judgement:
    """A verdict, why, and what it stands on."""

    verdict: types.Verdict
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)
    short: str = ""  # for the claim matrix: counts and interval, no words
    tested_on: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    p: float | None = None
    plan: Callable[[float], Plan] | None = None  # by alpha; called only where the verdict is inconclusive
    anytime: Anytime | None = None  # of a comparison of success; the verdict is its own where n was not fixed
    open: str = ""  # of an inconclusive claim that episodes of this kind cannot decide: why


class NotTested(Exception):
    """A claim that this campaign cannot test; the text says why."""


def decided(supported: bool, refuted: bool) -> types.Verdict:
    """Return the verdict of a test that finds the effect, excludes it, or neither."""
    return "supported" if supported else "refuted" if refuted else "inconclusive"


def tally(passed: int, n: int, kind: str, verb: str, failed: Sequence[str]) -> str:
    """``2 of 3 records meet every check (nano: ...).``; `verb` is the plural, such as ``meet every check``."""
    agreeing = re.sub(r"^\w+", r"\g<0>s", verb) if passed == 1 else verb
    return f"{passed} of {plural(n, kind)} {agreeing}" + (f" ({'; '.join(failed)})." if failed else ".")


def arm_episodes(campaign: Campaign, arm: str) -> pd.DataFrame:
    """Return an arm's judged episodes in the order of their keys; NotTested where there are none.

    Infrastructure errors never get this far: `endings.judged` leaves them out, and of our own runs the merge stops.
    """
    episodes = campaign.judged(arm)
    if not len(episodes):
        raise NotTested(f"arm {arm} was not run")
    return episodes


def pairs_of(campaign: Campaign, arm: str, control: str) -> pd.DataFrame:
    """Return the episodes that both arms have, with `success_arm` and `success_control`; NotTested without any.

    They are in the order of their keys, as the arms' own episodes are.
    """
    own, other = (arm_episodes(campaign, name)["suite"].iloc[0] for name in (arm, control))
    pairs = campaign.pairs(arm, control)
    if not len(pairs):
        why = f": pairs are within a suite, and they are of {own} and {other}" if own != other else ""
        blind = [name for name in (arm, control) if campaign.metadata.get(name, {}).get("starts")]
        why = why or (f": the record of {listed(blind)} does not tell initial states" if blind else "")
        raise NotTested(f"{arm} and {control} have no episode in common{why}")
    return pairs.rename(columns={"success_a": "success_arm", "success_b": "success_control"})


class Common(NamedTuple):
    """Two arms on the tasks that both have: counts and names by task, the arms' episodes there, what was left out."""

    strata: list[Stratum]
    tasks: list[str]
    frames: dict[str, pd.DataFrame]
    left_out: str


def common_tasks(campaign: Campaign, arm: str, control: str) -> Common:
    """Return two arms on their common tasks (by suite and text); NotTested where they cannot be compared."""
    frames = {name: arm_episodes(campaign, name) for name in (arm, control)}
    table = keys.by_task(*frames.values())
    shared = table[(table["n_a"] > 0) & (table["n_b"] > 0)]
    if not len(shared):
        sides = (f"{name} has {_tasks(table[table[n] > 0])}" for name, n in ((arm, "n_a"), (control, "n_b")))
        raise NotTested(f"the arms have no task in common: {'; '.join(sides)}")
    excluded = [
        f"{_tasks(rows)} (only {name})"
        for name, rows in ((arm, table[table["n_b"] == 0]), (control, table[table["n_a"] == 0]))
        if len(rows)
    ]
    kept = {name: keys.of_tasks(frame, shared) for name, frame in frames.items()}
    return Common(
        [Stratum(*row) for row in shared[["k_a", "n_a", "k_b", "n_b"]].itertuples(index=False)],
        [
            f"{row.suite} task {row.task_id}: {row.k_a}/{row.n_a} against {row.k_b}/{row.n_b}"
            for row in shared.itertuples()
        ],
        kept,
        f" Left out, since only one arm has them: {'; '.join(excluded)}." if excluded else "",
    )


def _tasks(rows: pd.DataFrame) -> str:
    """``libero_goal tasks 0-2``, by suite."""
    return listed(
        [
            f"{suite} task{'s' * (len(part) != 1)} {integers(int(t) for t in part['task_id'])}"
            for suite, part in rows.groupby("suite", observed=True)
        ]
    )


def rows_of(frame: pd.DataFrame, column: str = "success") -> dict[str, Any]:
    """Return how many rows a number stands on and a digest of their keys and outcomes; `frame` is in order."""
    ordered = frame[[*PAIR_KEY, column]]
    buffer = io.BytesIO()
    csv.write_csv(pa.Table.from_pandas(ordered, preserve_index=False), buffer, csv.WriteOptions(include_header=False))
    return {"n": len(ordered), "digest": hashlib.sha256(buffer.getvalue()).hexdigest()[:_DIGEST_CHARS]}


def pair_rows(pairs: pd.DataFrame) -> dict[str, Any]:
    """Return both sides' rows, and the discordant episodes by name."""
    won = pairs[pairs["success_arm"] & ~pairs["success_control"]]
    lost = pairs[~pairs["success_arm"] & pairs["success_control"]]
    sides = {side: rows_of(pairs, f"success_{side}") for side in ("arm", "control")}
    return {**sides, "only_arm": names_of(won), "only_control": names_of(lost)}


def names_of(frame: pd.DataFrame) -> list[str]:
    """Return the first episodes of a frame, which is in order, by name: suite/task/init state/repeat."""
    first = frame.head(_NAMED_EPISODES)
    return [f"{row.suite}/{row.task_id}/{row.init_state}/{row.repeat}" for row in first.itertuples()]


def scope_of(
    campaign: Campaign, frames: Mapping[str, pd.DataFrame], pairs: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return what the episodes were run on: policies, suites, tasks, init states, devices."""
    rows = pairs if pairs is not None else pd.concat(frames.values())
    devices = {campaign.metadata.get(arm, {}).get("device", "") for arm in frames}
    return tested_on(
        policies=list(dict.fromkeys(p for frame in frames.values() for p in frame["policy"].unique())),
        suites=sorted(rows["suite"].unique()),
        tasks=sorted(int(t) for t in rows["task_id"].unique()),
        init_states=sorted(int(i) for i in rows["init_state"].unique()),
        devices=sorted(d for d in devices if d),
        episodes=len(rows),
    )


def tested_on(**scope: Any) -> dict[str, Any]:
    """Return the scope with the words that end every sentence."""
    parts = [f"Holds for {listed(scope['policies'])}"]
    if scope.get("suites"):
        parts.append(f"on {listed(scope['suites'])} task{'s' * (len(scope['tasks']) != 1)} {integers(scope['tasks'])}")
        parts.append(f"(init states {integers(scope['init_states'])})")
    if scope.get("devices"):
        parts.append(f"on {listed(scope['devices'])}")
    return {**scope, "words": " ".join(parts) + "."}
