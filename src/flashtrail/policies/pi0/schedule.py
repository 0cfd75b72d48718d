"""FLASH's session machine: which route the next round takes and what a round leaves behind.

Pure: a frozen state in, a frozen state out. Source: Realtime-VLA FLASH, docs/flash.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import GRIPPER, Floats, Verdict

Cause = Literal["first", "forced", "periodic", "gripper", "zero_accept"]


@dataclass(frozen=True)
class SessionState:
    """What one episode carries from round to round; the default is a session after a reset."""

    chunk: Floats | None = None  # [H, D], normalised: the chunk being executed
    ptr: int = 0  # actions of it executed so far
    rounds_since_full: int = 0
    pending: Cause | None = None  # a full round is due, and why ("gripper" or "zero_accept")
    full_rounds_left: int = 0
    snapshot: Any = None  # the last full round's prefix cache, opaque here
    last_gripper: float = 0.0  # of the last executed action (normalised); kept while nothing new was executed


def advance(state: SessionState, executed_steps: int | None, settings: FlashSettings) -> SessionState:
    """Note how many actions the client executed since the last round; None counts as max_exec_steps."""
    if state.chunk is None:
        return state
    executed = settings.max_exec_steps if executed_steps is None else executed_steps
    ptr = max(0, min(state.ptr + executed, state.chunk.shape[0]))
    if ptr == 0 or state.chunk.shape[-1] <= GRIPPER:
        return replace(state, ptr=ptr)
    return replace(state, ptr=ptr, last_gripper=float(state.chunk[ptr - 1, GRIPPER]))


def full_cause(state: SessionState, settings: FlashSettings) -> Cause | None:
    """Why the next round must be full, or None for a draft round."""
    every = settings.periodic_full_every_n_draft_rounds
    if state.snapshot is None:
        return "first"
    if settings.force_full_each_round:
        return "forced"
    if every > 0 and state.rounds_since_full >= every:
        return "periodic"
    return state.pending if settings.full_fallback else None


def after_full(state: SessionState, chunk: Floats, snapshot: Any) -> SessionState:
    """A full round replaces chunk and snapshot; a gripper window may keep the next round full too."""
    left = max(0, state.full_rounds_left - 1)
    pending = state.pending if left > 0 else None
    return SessionState(chunk, 0, 0, pending, left, snapshot, state.last_gripper)


def fallback(verdict: Verdict, settings: FlashSettings) -> Cause | None:
    """Whether a draft round schedules a full one, and why."""
    if not settings.full_fallback:
        return None
    if verdict.gripper_event:
        return "gripper"
    return "zero_accept" if verdict.accepted == 0 else None


def after_draft(state: SessionState, verdict: Verdict, settings: FlashSettings) -> SessionState:
    """A draft round that schedules a full one keeps the old chunk; any other replaces it."""
    state = replace(state, rounds_since_full=state.rounds_since_full + 1)
    cause = fallback(verdict, settings)
    if cause is None:
        return replace(state, chunk=verdict.chunk, ptr=0)
    left = max(1, settings.gripper_full_window) if cause == "gripper" else 0
    return replace(state, pending=cause, full_rounds_left=left)
