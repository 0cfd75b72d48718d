"""Each kernel by itself: what rounds launch on this device, beside PyTorch in float32 on the same inputs.

`REFERENCES` has the functions of kernels/launch.py under their names and with their arguments. `watched` lets every
launch inside it be compared with its reference and keeps the largest error of each kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from flashtrail.policies.pi0 import gemma, verify
from flashtrail.policies.pi0.expert import suffix_mask
from flashtrail.policies.pi0.settings import FlashSettings

# Of the largest entry: what rounding the result, and sums in another order, may move.
TOLERANCE = {torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
Tables = tuple[Tensor, Tensor]


def norm_qkv_rope(x: Tensor, scale: Tensor, w: Tensor, tables: Tables, turning: int) -> Tensor:
    length, half = tables[0].shape
    turns = min(length, len(x))
    heads = (gemma.rms_norm(x.float(), scale) @ w.float()).view(-1, turns, w.shape[1] // (2 * half), 2 * half)
    cos, sin = (table[:turns, None] for table in tables)
    turned = gemma.apply_rope(heads[:, :, :turning], (cos, sin))
    return torch.cat((turned, heads[:, :, turning:]), dim=2).flatten(0, 1)


def norm_gated(x: Tensor, scale: Tensor, w: Tensor) -> Tensor:
    return gated_gelu(gemma.rms_norm(x.float(), scale) @ w.float())


def linear_residual(a: Tensor, w: Tensor, residual: Tensor) -> Tensor:
    return residual.float() + a.float() @ w.float()


def embed_actions(x_t: Tensor, fused_in: Tensor, bias: Tensor, w_out: Tensor, b_out: Tensor, state: Tensor) -> Tensor:
    hidden = torch.nn.functional.silu(x_t.to(w_out.dtype).float() @ fused_in.float() + bias[:, None])
    rows = state.float().repeat_interleave(len(x_t) // len(state), dim=0)[:, None]
    return torch.cat((rows, hidden @ w_out.float() + b_out.float()), dim=1)


def project_update(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    *,
    scale: Tensor | None = None,
    base: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """The columns that are written; the kernel leaves the others alone."""
    rows = x[:, 1:].float()
    moved = (rows if scale is None else gemma.rms_norm(rows, scale)) @ w.float() + b.float()
    if base is None or factors is None:
        return moved
    return base[..., : w.shape[1]] + factors[:, None, None] * moved


def two_part_attention(
    qkv: Tensor, prefix_k: Tensor, prefix_v: Tensor, lengths: Tensor, num_heads: int, *, first_alone: bool = True
) -> Tensor:
    """Concatenated and masked, as the PyTorch stage does; slots past a valid length count as zeros."""
    groups, rows = qkv.shape[:2]
    kv, draws, longest = prefix_k.shape[2], groups // len(prefix_k), prefix_k.shape[1]
    valid = torch.arange(longest, device=qkv.device) < lengths[:, None]
    q, *own = qkv.float().split((num_heads, kv, kv), dim=2)
    prefix = (t.float().masked_fill(~valid[..., None, None], 0.0) for t in (prefix_k, prefix_v))
    keys, values = (torch.cat((a.repeat_interleave(draws, 0), b), 1) for a, b in zip(prefix, own, strict=True))
    allowed = suffix_mask(valid, longest, rows, q.device).repeat_interleave(draws, 0)
    if not first_alone:
        allowed = allowed[:, 1:2].expand(-1, rows, -1)
    return gemma.attend(q, keys, values, gemma.additive_mask(allowed, num_heads // kv, torch.float32))


def judge(draft: Tensor, x0_hat: Tensor, last: Tensor, rules: Tensor) -> Tensor:
    radius, dims, steps, threshold, stops, cuts = rules.tolist()
    settings = FlashSettings(
        tau_radius=radius,
        dist_dims=int(dims),
        max_exec_steps=int(steps),
        gripper_switch_threshold=threshold,
        enable_gripper_verify=bool(stops),
        enable_gripper_post_verify=bool(cuts),
    )
    out = []
    for proposal, estimate, gripper in zip(draft.cpu().numpy(), x0_hat.cpu().numpy(), last.tolist(), strict=True):
        v = verify.judge(proposal, estimate, gripper, settings)
        out.append(np.append([v.accepted, v.radius, v.gripper_stop, v.gripper_cut], v.chunk))
    return torch.tensor(np.array(out), dtype=torch.float32, device=draft.device)


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    return gemma.rms_norm(x.float(), scale)


def rope_into_cache(
    qkv: Tensor, tables: Tables, num_heads: int, cache_k: Tensor, cache_v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and what is to lie in the two caches afterwards."""
    turning = num_heads + cache_k.shape[1]
    cos, sin = (table[: len(qkv), None] for table in tables)
    turned = gemma.apply_rope(qkv[None, :, :turning].float(), (cos, sin))[0]
    return turned[:, :num_heads], turned[:, num_heads:], qkv[:, turning:].float()


def gated_gelu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return gemma.gelu(gate) * up


REFERENCES: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(norm_qkv_rope, norm_gated, linear_residual, embed_actions, project_update),
        *(two_part_attention, judge, rms_norm, rope_into_cache, gated_gelu),
    )
}


def error(ours: Tensor, reference: Tensor) -> float:
    """The largest distance as a share of the reference's largest entry; infinite where a value is not finite."""
    if not ours.numel():
        return 0.0
    gap = (ours.double() - reference.double()).abs().max() / reference.double().abs().max().clamp(min=1e-6)
    return float(gap) if bool(torch.isfinite(ours).all()) else float("inf")


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Compare each launch inside -> kernel: its largest error as a share of TOLERANCE for its number format."""
    from flashtrail.policies.pi0.kernels import launch

    shares: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        for name, reference in REFERENCES.items():
            compared = _compared(getattr(launch, name), reference, name, shares)
            stack.enter_context(mock.patch.object(launch, name, compared))
        yield shares


def _compared(
    kernel: Callable[..., Tensor], reference: Callable[..., Any], name: str, shares: dict[str, float]
) -> Callable[..., Tensor]:
    def call(*arguments: Any, out: Tensor | None = None, **options: Any) -> Tensor:
        expected = reference(*arguments, **options)  # before the kernel, which may write over what it reads
        result = kernel(*arguments, **options) if out is None else kernel(*arguments, out=out, **options)
        pairs = [(result, expected)]
        if isinstance(expected, tuple):
            pairs = list(zip((result, *arguments[-2:]), expected, strict=True))
        tensors = (a for a in (*arguments, *options.values()) if isinstance(a, Tensor))
        tolerance = max(TOLERANCE.get(tensor.dtype, 0.0) for tensor in tensors)
        for ours, theirs in pairs:
            written = ours[..., : theirs.shape[-1]].reshape(theirs.shape)
            shares[name] = max(shares.get(name, 0.0), error(written, theirs) / tolerance)
        return result

    return call
