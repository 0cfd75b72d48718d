"""Triton kernels between the large products of prefill, which cuBLAS does: norm, rotary turn, gated GELU.

Device code only (launch.py has the launchers). Each reads its rows once and writes them once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashtrail.flash.kernels.products import gelu


@triton.jit
def rms_norm_kernel(x, scale, out, width, EPS: tl.constexpr, BLOCK: tl.constexpr):
    """out[row] = x[row] / rms * (1 + scale), width columns in one block. Grid (rows,)."""
    c = tl.arange(0, BLOCK)
    at = tl.program_id(0) * width + c
    wide = tl.load(x + at, mask=c < width, other=0.0).to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / width + EPS)
    gain = 1.0 + tl.load(scale + c, mask=c < width, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * factor * gain).to(out.dtype.element_ty), mask=c < width)


@triton.jit
def rope_into_cache_kernel(
    qkv,  # [rows, HQ + 2 HKV, 2 HALF]
    cos,  # float32 [rows, HALF]
    sin,
    q,  # [rows, HQ, 2 HALF]
    cache_k,  # [rows, HKV, 2 HALF]
    cache_v,
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rotated queries to q, rotated keys and plain values into the cache. Grid (rows, HQ + 2 HKV)."""
    row, head = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, BLOCK)
    inside = c < HALF
    at = qkv + (row * (HQ + 2 * HKV) + head) * 2 * HALF + c
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    if head < HQ + HKV:
        cosine = tl.load(cos + row * HALF + c, mask=inside, other=0.0)
        sine = tl.load(sin + row * HALF + c, mask=inside, other=0.0)
        turned = first * cosine - second * sine
        second = second * cosine + first * sine
        first = turned
    if head < HQ:
        place = q + (row * HQ + head) * 2 * HALF + c
    elif head < HQ + HKV:
        place = cache_k + (row * HKV + head - HQ) * 2 * HALF + c
    else:
        place = cache_v + (row * HKV + head - HQ - HKV) * 2 * HALF + c
    tl.store(place, first.to(q.dtype.element_ty), mask=inside)
    tl.store(place + HALF, second.to(q.dtype.element_ty), mask=inside)


@triton.jit
def gated_gelu_kernel(gate_up, out, inner, BLOCK: tl.constexpr):
    """out[rows, inner] = gelu(gate) * up of gate_up[rows, 2 * inner]. Grid (rows, cdiv(inner, BLOCK))."""
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = gate_up + tl.program_id(0) * 2 * inner + c
    gate = tl.load(at, mask=c < inner, other=0.0).to(tl.float32)
    up = tl.load(at + inner, mask=c < inner, other=0.0).to(tl.float32)
    tl.store(out + tl.program_id(0) * inner + c, (gelu(gate) * up).to(out.dtype.element_ty), mask=c < inner)
