"""Triton kernel of FLASH's acceptance rule: verify.judge on the device, so that one small copy ends a draft round.

Device code only (launch.py has the launcher). Sums run in another order than numpy's, so a distance can differ from
the host's in its last bit: on a tie with tau, and only there, the two may decide differently.
"""

from __future__ import annotations

import triton
import triton.language as tl

GRIPPER = tl.constexpr(6)


@triton.jit
def judge_kernel(
    draft,  # float32 [sessions, horizon, dim]
    x0_hat,  # float32 [sessions, K, horizon, dim]
    last,  # float32 [sessions]: last executed gripper value
    rules,  # float32 [6]: tau, counted dims, judged steps, threshold, gripper verify, gripper post-verify
    out,  # float32 [sessions, 4 + horizon * dim]: accepted, radius, stop, cut, then the chunk
    horizon,
    dim,
    K: tl.constexpr,
    HAS_GRIPPER: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
):
    """One program a session. See verify.judge for the rule."""
    session = tl.program_id(0)
    tau, counted, steps = tl.load(rules), tl.load(rules + 1), tl.load(rules + 2)
    threshold, verify, post = tl.load(rules + 3), tl.load(rules + 4), tl.load(rules + 5)
    h, d = tl.arange(0, BH), tl.arange(0, BD)
    judged = h < steps
    real = (h < horizon)[:, None] & (d < dim)[None, :]
    at = h[:, None] * dim + d[None, :]
    draft += session * horizon * dim
    proposal = tl.load(draft + at, mask=real, other=0.0)
    before_first = tl.load(last + session) >= threshold
    limit = steps.to(tl.int32)
    accepted = limit
    radius = 0.0
    switches = 0
    tail = tl.zeros((BH, BD), tl.float32)
    for k in tl.static_range(K):
        estimates = x0_hat + (session * K + k) * horizon * dim
        estimate = tl.load(estimates + at, mask=real, other=0.0)
        tail += estimate
        gap = tl.where(real & (d < counted)[None, :], estimate - proposal, 0.0)
        distance = tl.sqrt(tl.sum(gap * gap, axis=1)) / tl.sqrt(counted)
        radius += tl.sum(tl.where(judged, distance, 0.0), axis=0)
        # Not "distance > tau": a NaN must reject.
        fails_at = tl.where(distance <= tau, limit, h)
        accepted = tl.minimum(accepted, tl.min(tl.where(judged, fails_at, limit), axis=0))
        if HAS_GRIPPER:
            now = tl.load(estimates + h * dim + GRIPPER, mask=h < horizon, other=0.0) >= threshold
            previous = tl.load(estimates + (h - 1) * dim + GRIPPER, mask=(h > 0) & (h < horizon), other=0.0)
            was = tl.where(h > 0, previous >= threshold, before_first)
            switches += tl.sum((judged & (now != was)).to(tl.int32), axis=0)
    tail = tail / K
    kept = accepted
    stopped = 0
    if HAS_GRIPPER:
        stopped = ((switches > 0) & (verify > 0)).to(tl.int32)
        accepted = tl.where(stopped > 0, 0, accepted)
        now = tl.load(draft + h * dim + GRIPPER, mask=h < horizon, other=0.0) >= threshold
        previous = tl.load(draft + (h - 1) * dim + GRIPPER, mask=(h > 0) & (h < horizon), other=0.0)
        was = tl.where(h > 0, previous >= threshold, before_first)
        end = tl.min(tl.where((h < accepted) & (now != was), h, accepted), axis=0)
        kept = tl.where(post > 0, end, accepted)
    row = out + session * (4 + horizon * dim)
    tl.store(row, kept.to(tl.float32))
    tl.store(row + 1, radius / (K * steps))
    tl.store(row + 2, stopped * 1.0)
    tl.store(row + 3, (kept < accepted).to(tl.float32))
    tl.store(row + 4 + at, tl.where((h < accepted)[:, None], proposal, tail), mask=real)
