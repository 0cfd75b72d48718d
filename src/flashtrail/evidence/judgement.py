"""What a verdict is made of: the judgement itself, the rows of an arm, the pairs of two, the scope in words.

Shared by the modules that judge (verdicts.py, success_verdicts.py). Knows claims' words, campaign and tables; decides
nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from flashtrail.evidence import claims as types
from flashtrail.evidence.campaign import Campaign
from flashtrail.evidence.power import Plan
from flashtrail.evidence.tables import PAIR_KEY
from flashtrail.evidence.wording import integers, listed

_NAMED_EPISODES = 60  # discordant episodes listed by name; the digest covers all rows in any case
_DIGEST_CHARS = 16


def no_plans(alpha: float) -> list[Plan]:
    return []


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
    plans: Callable[[float], list[Plan]] = no_plans  # by alpha; asked only where the verdict is inconclusive


def not_tested(reason: str) -> Judgement:
    """Return a judgement that there is none, and why."""
    return Judgement("not_tested", f"Not tested: {reason}.")


def arm_episodes(campaign: Campaign, arm: str) -> pd.DataFrame | None:
    """Return an arm's judged episodes in the order of their keys, or None.

    Infrastructure errors never get this far: the merge stops at them.
    """
    episodes = campaign.judged(arm)
    return episodes if len(episodes) else None


def pairs_of(campaign: Campaign, arm: str, control: str) -> pd.DataFrame | str:
    """Return the episodes that both arms have, with `success_arm` and `success_control`; or why there are none.

    They are in the order of their keys, as the arms' own episodes are.
    """
    frames = {name: arm_episodes(campaign, name) for name in (arm, control)}
    absent = [name for name, frame in frames.items() if frame is None]
    if absent:
        return f"arm {absent[0]} was not run"
    sides = [frames[name][[*PAIR_KEY, "seed", "success"]] for name in (arm, control)]  # type: ignore[index]
    pairs = sides[0].merge(sides[1], on=[*PAIR_KEY, "seed"], suffixes=("_arm", "_control"), validate="one_to_one")
    return pairs if len(pairs) else f"{arm} and {control} have no episode in common"


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
    campaign: Campaign, frames: Mapping[str, pd.DataFrame | None], pairs: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return what the episodes were run on: policies, suites, tasks, init states, devices."""
    present = [frame for frame in frames.values() if frame is not None]
    rows = pairs if pairs is not None else pd.concat(present)
    devices = {campaign.metadata.get(arm, {}).get("device", "") for arm in frames}
    return tested_on(
        policies=list(dict.fromkeys(p for frame in present for p in frame["policy"].unique())),
        suites=sorted(rows["suite"].unique()),
        tasks=sorted(int(t) for t in rows["task_id"].unique()),
        init_states=sorted(int(i) for i in rows["init_state"].unique()),
        devices=sorted(d for d in devices if d),
        episodes=len(rows),
    )


def tested_on(**scope: Any) -> dict[str, Any]:
    """Return the scope with the words that end every sentence."""
    words = [f"Holds for {listed(scope['policies'])}"]
    if scope.get("suites"):
        words.append(f"on {listed(scope['suites'])} task{'s' * (len(scope['tasks']) != 1)} {integers(scope['tasks'])}")
        words.append(f"(init states {integers(scope['init_states'])})")
    if scope.get("devices"):
        words.append(f"on {listed(scope['devices'])}")
    return {**scope, "words": " ".join(words) + "."}
