"""Triton kernels between the large products of prefill, which cuBLAS does: norm, rotary turn, gated GELU.

Device code only (launch.py has the launchers). Each reads its rows once and writes them once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashtrail.policies.pi0.kernels.products import gelu


@triton.jit
def rms_norm_kernel(x, scale, out, count, width, EPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out[row] = x[row] / rms * (1 + scale), width columns in one block. Grid (cdiv(count, ROWS),)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, BLOCK)[None, :]
    at, inside = row * width + c, (row < count) & (c < width)
    wide = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=1) / width + EPS)
    gain = 1.0 + tl.load(scale + c, mask=c < width, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * factor[:, None] * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit
def rope_into_cache_kernel(
    qkv,  # [rows, HQ + 2 HKV, 2 HALF]
    cos,  # float32 [rows, HALF]
    sin,
    q,  # [rows, HQ, 2 HALF]
    cache_k,  # [rows, HKV, 2 HALF]
    cache_v,
    count,  # rows x (HQ + 2 HKV)
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,  # rows of heads in a program
    BLOCK: tl.constexpr,  # power of two >= HALF
):
    """Rotated queries to q, rotated keys and plain values into the cache. Grid (cdiv(count, ROWS),)."""
    heads: tl.constexpr = HQ + 2 * HKV
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    row, h = i // heads, i % heads
    c = tl.arange(0, BLOCK)[None, :]
    inside = (i < count) & (c < HALF)
    at = i * 2 * HALF + c
    first = tl.load(qkv + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(qkv + at + HALF, mask=inside, other=0.0).to(tl.float32)
    turning = inside & (h < HQ + HKV)
    cosine = tl.load(cos + row * HALF + c, mask=turning, other=1.0)
    sine = tl.load(sin + row * HALF + c, mask=turning, other=0.0)
    turned = (first * cosine - second * sine).to(q.dtype.element_ty)
    partner = (second * cosine + first * sine).to(q.dtype.element_ty)
    place = (row * HQ + h) * 2 * HALF + c
    tl.store(q + place, turned, mask=inside & (h < HQ))
    tl.store(q + place + HALF, partner, mask=inside & (h < HQ))
    place = (row * HKV + h - HQ) * 2 * HALF + c
    keys = turning & (h >= HQ)
    tl.store(cache_k + place, turned, mask=keys)
    tl.store(cache_k + place + HALF, partner, mask=keys)
    place = (row * HKV + h - HQ - HKV) * 2 * HALF + c
    values = inside & (h >= HQ + HKV)
    tl.store(cache_v + place, turned, mask=values)
    tl.store(cache_v + place + HALF, partner, mask=values)


@triton.jit
def gated_gelu_kernel(gate_up, out, count, inner, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out[row] = gelu(gate) * up of gate_up[count, 2 * inner]. Grid (cdiv(count, ROWS), cdiv(inner, BLOCK))."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < count) & (c < inner)
    at = gate_up + row * 2 * inner + c
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + inner, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * inner + c, (gelu(gate) * up).to(out.dtype.element_ty), mask=inside)
