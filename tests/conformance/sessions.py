"""G2, traces: the session machine over a scripted runtime, round by round and flag by flag."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from conformance.golden import Arrays, Golden, arrays_of, read_json, read_npz
from conformance.rows import Parts, Rows, close, count

from flashtrail.policies.pi0.engine import Engine, RoundResult, Session
from flashtrail.policies.pi0.policy import EXTRA_KEYS, policy_timing
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Floats, Verdict, judge

ACTIONS = RADIUS = 1e-6
STAGE_SECONDS = {"encoder": 1e-3, "draft": 2e-3, "verify": 3e-3, "prefill": 4e-3, "denoise": 5e-3}


@dataclass
class ScriptedRuntime:
    """Plays back one trace's arrays; a snapshot is the number of the round that made it. Stages move its clock."""

    x0_draft: Floats  # [R, H, D]
    x0_hat: Floats  # [R, K, H, D]
    full_actions: Floats  # [R, H, D]
    has_draft: bool = True
    now: float = 0.0
    round: int = 0
    calls: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def synchronize(self) -> None:
        pass

    def place(self, inputs: int) -> int:
        self.round, self.calls = inputs, []
        return inputs

    def encode(self, placed: int) -> int:
        self.now += STAGE_SECONDS["encoder"]
        return placed

    def prefill(self, embeddings: int) -> int:
        self.now += STAGE_SECONDS["prefill"]
        self.calls.append("full")
        return embeddings

    def denoise(self, snapshot: int, placed: int, noise: Floats) -> Floats:
        self.now += STAGE_SECONDS["denoise"]
        return self.full_actions[placed]

    def draft(self, embeddings: int, placed: int) -> Floats:
        self.now += STAGE_SECONDS["draft"]
        self.calls.append("draft")
        return self.x0_draft[placed]

    def settle(
        self, snapshot: int, placed: int, draft: Floats, noise: Floats, settings: FlashSettings, last_gripper: float
    ) -> tuple[Floats, Floats, Verdict]:
        self.now += STAGE_SECONDS["verify"]
        self.calls.append(f"verify@{snapshot}")
        x0_hat = self.x0_hat[placed]
        return draft, x0_hat, judge(draft, x0_hat, last_gripper, settings)


def parts(golden: Golden) -> Parts:
    traces = read_json(golden.root / "G2_verify_semantics/traces.json")
    arrays = read_npz(golden.root / "G2_verify_semantics/traces.npz")
    for trace in traces:
        key = f"trace{trace['id']:03d}"
        name = f"G2 {key} {trace['name']}"
        yield name, replay(trace, arrays_of(arrays, f"{key}/"), name)


def replay(trace: dict, arrays: Arrays, name: str) -> Rows:
    """One session: an exact row for everything discrete, one for the returned actions."""
    options = {k: v for k, v in trace["settings"].items() if k not in ("action_horizon", "action_dim")}
    settings = FlashSettings.from_dict(options)
    runtime = ScriptedRuntime(arrays["x0_draft"], arrays["x0_hat"], arrays["full_actions"])
    engine = Engine(runtime, settings, clock=runtime.clock)
    session = engine.new_session()
    wrong, worst = [], 0.0
    for number, row in enumerate(trace["rounds"]):
        executed = row["executed_steps"] if row["executed_steps_key_present"] else None
        noise = np.zeros((0, 0), np.float32)
        result = engine.infer(session, number, noise, executed_steps=executed, reset=row["reset"])
        differ = compare(result, session, settings, row)
        if runtime.calls != row["calls"]:
            differ["calls"] = runtime.calls, row["calls"]
        wrong += [f"round {number} {key}: ours {a}, golden {b}" for key, (a, b) in differ.items()]
        worst = max(worst, float(np.abs(result.chunk - arrays["out_actions"][number]).max()))
    yield count(f"{name}: state machine", wrong, len(trace["rounds"]))
    yield close(f"{name}: out_actions", worst, 0.0, ACTIONS)


def state_after(session: Session, result: RoundResult) -> dict[str, Any]:
    """The session's state in upstream's words."""
    state = session.state
    return {
        "action_cache_ptr": state.ptr,
        "draft_rounds_since_full": state.rounds_since_full,
        "pending_full_fallback": state.pending is not None,
        "gripper_full_rounds_left": state.full_rounds_left,
        "snapshot_round": state.snapshot,
        "last_gripper": result.last_gripper,
    }


def compare(result: RoundResult, session: Session, settings: FlashSettings, row: dict) -> dict[str, tuple[Any, Any]]:
    """Everything of a round that is not an action: name -> (ours, golden) where they differ."""
    ours: dict[str, Any] = {"route": result.route, "accepted_prefix_len": result.accepted}
    want: dict[str, Any] = {name: row[name] for name in ours}
    ours |= state_after(session, result)
    want |= row["after"]
    timing = policy_timing(result, settings.enable_gripper_verify)
    keys = row["policy_timing_keys_production_driver"]
    ours["policy_timing keys"], want["policy_timing keys"] = sorted(set(timing) - set(EXTRA_KEYS)), sorted(keys)
    for key in set(keys) - {"sample_actions_ms"}:
        ours[f"policy_timing.{key}"], want[f"policy_timing.{key}"] = timing.get(key), row["policy_timing"][key]
    return {key: (ours[key], want[key]) for key in want if not equal(ours.get(key), want[key])}


def equal(ours: Any, golden: Any) -> bool:
    """Equal; floats (radius, gripper, times) to RADIUS, relative above 1, and golden None stands for NaN."""
    if isinstance(ours, float) and golden is None:
        return math.isnan(ours)
    if isinstance(ours, float) and isinstance(golden, float):
        return abs(ours - golden) <= RADIUS * max(1.0, abs(golden))
    return ours == golden and isinstance(ours, bool) == isinstance(golden, bool)
