"""An arm in words, from what was recorded of its condition, guard, clock, policy and routes: no name is interpreted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flashtrail.claims import summaries
from flashtrail.statistics.wording import milliseconds, percent

_VIEWS = {"wrist": "wrist camera", "agent": "agent camera", "both": "both cameras"}
_GUARDS = {
    "wrist_health": "guard: last healthy frame",
    "wrist_mask": "guard: last healthy frame, else declared missing",
    "oracle": "oracle (upper bound): undamaged frames",  # never without these words
}
_Spec = Mapping[str, Any]


def words(summary: _Spec, usual_policy: str) -> str:
    """``wrist camera black every 4th round; guard: last healthy frame``; what is usual is not said."""
    parts = [fault(summary) or _without(summary), remedy(summary, usual_policy), limits(summary), _handoff(summary)]
    parts += [_clock(summary), _settings(summary), _routes(summary)]
    return "; ".join(part for part in parts if part)


def short(summary: _Spec, usual_policy: str) -> str:
    """``guard, wrist camera black every 4th round``: a name for a figure, which tells the arms of a run apart."""
    own = remedy(summary, usual_policy)
    clock = _clock(summary)
    said = fault(summary) or _without(summary) * (not clock)
    parts = [*(part.partition(":")[0] for part in own.split("; ")), said, clock]
    routes = "" if own and summary["routes"].get("offered", True) else _routes(summary)
    return ", ".join(part for part in (*parts, limits(summary), _handoff(summary), _settings(summary), routes) if part)


def fault(summary: _Spec) -> str:
    """Return what was done to the observation, and when; empty where nothing was."""
    condition = summaries.setting(summary, "condition")
    if condition is None:  # not on record: the rounds say how often
        hit, of = summary["condition"]["rounds_hit"], summary["condition"]["rounds"]
        return f"a fault in {hit} of {of} rounds" if hit else ""
    return condition_words(condition)


def untold(summary: _Spec) -> bool:
    """Return whether neither the arm nor any of its rounds has on record if there was a fault (imported runs)."""
    return summaries.setting(summary, "condition") is None and summary["condition"].get("rounds_told") == 0


def _without(summary: _Spec) -> str:
    return "fault not recorded" if untold(summary) else "no fault"


def condition_words(condition: _Spec) -> str:
    """Return a condition of the config in words; empty for one that does nothing."""
    kind = condition["kind"]
    if kind == "none":
        return ""
    if kind == "all_of":
        return " and ".join(condition_words(part) for part in condition["parts"])
    if kind == "bursts":
        return f"{_WHAT[condition['fault']['kind']](condition['fault'])} in random bursts"
    what = _WHAT[kind](condition) if kind in _WHAT else str(kind).replace("_", " ")
    return f"{what} {_when(condition)}".strip()


_WHAT: dict[str, Callable[[_Spec], str]] = {
    "zero": lambda c: f"{_VIEWS[c['view']]} black",
    "freeze": lambda c: f"{_VIEWS[c['view']]} frozen",
    "stale": lambda c: f"{_VIEWS[c['view']]} late by {c['queries']} round{'s' * (c['queries'] > 1)}",
    "swap": lambda c: "cameras swapped",
    "upside_down": lambda c: f"{_VIEWS[c['view']]} upside down",
    "prompt": lambda c: "instruction reworded",
    "instruction": lambda c: f"told \u201c{c['text']}\u201d instead",
    "antipode": lambda c: "sign of the hand's quaternion turned",
    "occlusion": lambda c: f"{_VIEWS[c['view']]} covered over {percent(c['size'])} of its side",
    "noise": lambda c: f"noise on {_VIEWS[c['view']]}, {c['sigma']:g} grey levels",
}


def _when(condition: _Spec) -> str:
    every, length, start = (condition.get(key, default) for key, default in (("every", 1), ("length", 1), ("start", 0)))
    if "every" not in condition:
        often = ""
    elif every == length:
        often = "in every round"
    else:
        ends = {1: "st", 2: "nd", 3: "rd"}.get(every % 10 if every % 100 not in (11, 12, 13) else 0, "th")
        often = f"every {every}{ends} round" if length == 1 else f"in {length} of every {every} rounds"
    return f"{often} from round {start} on" if start else often


def remedy(summary: _Spec, usual_policy: str) -> str:
    """Return the guard, and the policy where it is not the usual one; empty without either."""
    guard = (summaries.setting(summary, "guard") or {}).get("kind", "none")
    named = _GUARDS.get(guard, "" if guard == "none" else f"guard: {guard}") or ("guard" if summary["guard"] else "")
    policy = f"policy {summary['policy']}" if summary["policy"] != usual_policy else ""
    return "; ".join(part for part in (named, policy) if part)


def limits(summary: _Spec) -> str:
    """``limits table``; of limits that only measure, ``measured, not limited``; empty without any."""
    given = recorded(summary, "limits")
    return "" if not given else f"limits {given['name']}" if given["act"] else "measured, not limited"


def _handoff(summary: _Spec) -> str:
    given = recorded(summary, "handoff")
    return f"hand-over {given['name']}" if given else ""


def _clock(summary: _Spec) -> str:
    clock = summary.get("clock")
    return f"clock running at {clock['hz']:g} Hz, {milliseconds(clock['mean_ms'])} a round" if clock else ""


def _settings(summary: _Spec) -> str:
    """Return the settings in which the policy's own were changed: ``epsilon 0.12``."""
    given = recorded(summary, "settings").items()
    said = (f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}" for name, value in given)
    return ", ".join(said).replace("_", " ")


def recorded(summary: _Spec, what: str) -> _Spec:
    """Return what an arm's tables record of its `settings`, `execution` and the like; empty where they say nothing."""
    return dict(json.loads(summary.get("metadata", {}).get(what) or "{}"))


def _routes(summary: _Spec) -> str:
    execution = recorded(summary, "execution")
    count = execution.get("replan_steps")
    steps = "" if count is None else f", {count} step{'s' * (count != 1)} a round"
    steps += f", each action {execution['window_lag']} steps late" if "window_lag" in execution else ""
    steps += ", the first answer in every round" if "answer" in execution else ""
    steps += f", actions scaled by {Path(execution['action_stats']).stem}" if "action_stats" in execution else ""
    routes = summary["routes"]
    if not routes.get("offered", True):  # a run in which no policy drafts (Campaign.summaries)
        return steps.removeprefix(", ")
    return ("every round full" if routes["n"] and not routes["draft"] else "FLASH" if routes["n"] else "") + steps


def role(summary: _Spec, usual_policy: str) -> str:
    """Return what an arm is among the others, a key of `palette.ROLES`; the figures' colours say the same."""
    if summary["guard"]:
        return "remedy"
    if summary["condition"]["rounds_hit"]:
        return "fault" if summary["policy"] == usual_policy else "retrained"
    return "clean"
