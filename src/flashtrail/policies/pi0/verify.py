"""FLASH's acceptance rule: how much of a draft chunk the expert's denoised estimates confirm.

Pure numpy on one session's arrays; knows no model and no session. Arrays are normalised actions: `draft` [H, D],
`x0_hat` [K, H, D] (one estimate per verification time). This is a radius heuristic, not lossless speculative
sampling. Source: Realtime-VLA FLASH, docs/flash.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashtrail.policies.pi0.settings import FlashSettings

Floats = NDArray[np.float32]
GRIPPER = 6


def window(max_exec_steps: int, horizon: int) -> int:
    """Steps that may be executed, hence judged: max_exec_steps within 1..horizon."""
    return max(1, min(max_exec_steps, horizon))


def leading_run(ok: NDArray[np.bool_]) -> int:
    """How many leading entries hold; a gap ends the prefix."""
    return int(np.cumprod(ok.astype(np.int64)).sum())


def distances(draft: Floats, x0_hat: Floats, dist_dims: int, steps: int) -> Floats:
    """RMS distance [K, steps] over the first dist_dims dims; the gripper never counts when there is one (D >= 7)."""
    dims = min(dist_dims, draft.shape[-1])
    if draft.shape[-1] >= 7:
        dims = min(dims, GRIPPER)
    gap = (x0_hat[:, :steps, :dims] - draft[None, :steps, :dims]).astype(np.float32)
    rms: Floats = np.sqrt((gap * gap).sum(axis=-1, dtype=np.float32)) / np.sqrt(np.float32(dims))
    return rms


def radius_prefix(distance: Floats, tau: float) -> int:
    """Accepted prefix: within tau (inclusive, in float32) for every time, from the first step on without a gap."""
    return min(leading_run(row <= np.float32(tau)) for row in distance)


def stitch(draft: Floats, tail: Floats, accepted: int) -> Floats:
    """The draft up to the accepted prefix, the mean estimate after it."""
    return np.concatenate((draft[:accepted], tail[accepted:]))


def switches(gripper: Floats, previous: float, threshold: float) -> NDArray[np.bool_]:
    """Where gripper[..., n] crosses the threshold against the value before it (`previous` before the first)."""
    closed = gripper >= np.float32(threshold)
    before = np.concatenate((np.full_like(closed[..., :1], np.float32(previous) >= np.float32(threshold)), closed), -1)
    crossed: NDArray[np.bool_] = closed != before[..., :-1]
    return crossed


def gripper_stops(x0_hat: Floats, previous: float | None, threshold: float, steps: int) -> bool:
    """Gripper verify: does any estimate switch the gripper within the window?"""
    if previous is None or x0_hat.shape[-1] <= GRIPPER:
        return False
    return bool(switches(x0_hat[:, :steps, GRIPPER], previous, threshold).any())


def cut_at_switch(out: Floats, accepted: int, previous: float | None, threshold: float) -> int:
    """Gripper post-verify: end the accepted prefix at the first switch within it."""
    if previous is None or out.shape[-1] <= GRIPPER:
        return accepted
    return leading_run(~switches(out[:accepted, GRIPPER], previous, threshold)) if accepted else 0


@dataclass(frozen=True)
class Verdict:
    """What verification decided about one draft chunk."""

    chunk: Floats  # [H, D], normalised: the round's answer
    accepted: int
    radius: float  # mean distance over times and judged steps
    gripper_stop: bool  # gripper verify fired: nothing is accepted
    gripper_cut: bool  # gripper post-verify shortened the prefix

    @property
    def gripper_event(self) -> bool:
        return self.gripper_stop or self.gripper_cut


def judge(draft: Floats, x0_hat: Floats, last_gripper: float, settings: FlashSettings) -> Verdict:
    """The whole rule: radius, then gripper verify, then gripper post-verify."""
    s, steps = settings, window(settings.max_exec_steps, draft.shape[0])
    distance = distances(draft, x0_hat, s.dist_dims, steps)
    radius = float(distance.mean(dtype=np.float32))
    tail = x0_hat.mean(axis=0, dtype=np.float32)
    # 1. A prefix is accepted while every time's estimate stays within tau of the draft.
    accepted = radius_prefix(distance, s.tau_radius)
    out = stitch(draft, tail, accepted)
    # 2. An estimate that switches the gripper within the window rejects everything.
    if s.enable_gripper_verify and gripper_stops(x0_hat, last_gripper, s.gripper_switch_threshold, steps):
        return Verdict(tail, 0, radius, gripper_stop=True, gripper_cut=False)
    # 3. A switch inside the accepted prefix ends it there.
    if s.enable_gripper_post_verify:
        kept = cut_at_switch(out, accepted, last_gripper, s.gripper_switch_threshold)
        return Verdict(out, kept, radius, gripper_stop=False, gripper_cut=kept < accepted)
    return Verdict(out, accepted, radius, gripper_stop=False, gripper_cut=False)
