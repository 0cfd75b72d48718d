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
    HEADS: tl.constexpr,  # power of two >= HQ + 2 HKV
    BLOCK: tl.constexpr,  # power of two >= HALF
):
    """Rotated queries to q, rotated keys and plain values into the cache. Grid (rows,)."""
    row = tl.program_id(0)
    h = tl.arange(0, HEADS)[:, None]
    c = tl.arange(0, BLOCK)[None, :]
    inside = (h < HQ + 2 * HKV) & (c < HALF)
    at = (row * (HQ + 2 * HKV) + h) * 2 * HALF + c
    first = tl.load(qkv + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(qkv + at + HALF, mask=inside, other=0.0).to(tl.float32)
    turning = inside & (h < HQ + HKV)
    cosine = tl.load(cos + row * HALF + c + h * 0, mask=turning, other=1.0)
    sine = tl.load(sin + row * HALF + c + h * 0, mask=turning, other=0.0)
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
def gated_gelu_kernel(gate_up, out, inner, BLOCK: tl.constexpr):
    """out[rows, inner] = gelu(gate) * up of gate_up[rows, 2 * inner]. Grid (rows, cdiv(inner, BLOCK))."""
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = gate_up + tl.program_id(0) * 2 * inner + c
    gate = tl.load(at, mask=c < inner, other=0.0).to(tl.float32)
    up = tl.load(at + inner, mask=c < inner, other=0.0).to(tl.float32)
    tl.store(out + tl.program_id(0) * inner + c, (gelu(gate) * up).to(out.dtype.element_ty), mask=c < inner)
