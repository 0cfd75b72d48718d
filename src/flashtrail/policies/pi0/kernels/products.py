"""Triton kernels of the matrix products that read most of a round's bytes, with what surrounds them fused in.

Device code only: no allocation, no choice of tiles (launch.py). Products accumulate in float32; a tile past an edge is
masked, so sizes need not be powers of two. Weights are in x out, row-major, `w_row` numbers from row to row.
"""

from __future__ import annotations

import triton
import triton.language as tl

GELU_CUBIC = tl.constexpr(0.044715)
TWICE_GELU_SCALE = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)


@triton.jit
def gelu(x):
    """tanh-GELU of a float32 tile of any shape, as x * sigmoid(2 u)."""
    # Tensors stand on the left: the interpreter cannot multiply a constexpr by one.
    return x * tl.sigmoid(x * TWICE_GELU_SCALE * (x * x * GELU_CUBIC + 1.0))


@triton.jit
def norm_two_products(
    x,
    scale,
    w,
    rows,
    width,
    w_row,
    m,  # [BM]: rows of x
    column,  # [BN]: columns of w
    real,  # [BN]: which of these columns there are
    apart,  # from each of them to its partner
    EPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """rms_norm(x)[m] @ w[:, column] and the same with each column's partner, float32 [BM, BN] each.

    1 / rms is a factor of the whole row: it is applied after the product, from squares summed in the same loop.
    """
    k = tl.arange(0, BK)
    first = tl.zeros((BM, BN), tl.float32)
    second = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    for start in range(0, width, BK):
        kk = start + k
        inside = kk < width
        tile = tl.load(x + m[:, None] * width + kk[None, :], mask=(m < rows)[:, None] & inside[None, :], other=0.0)
        wide = tile.to(tl.float32)
        squares += tl.sum(wide * wide, axis=1)
        gain = 1.0 + tl.load(scale + kk, mask=inside, other=0.0).to(tl.float32)
        scaled = (wide * gain[None, :]).to(w.dtype.element_ty)
        wanted = inside[:, None] & real[None, :]
        at = w + kk[:, None] * w_row + column[None, :]
        first = tl.dot(scaled, tl.load(at, mask=wanted, other=0.0), first, input_precision="ieee")
        second = tl.dot(scaled, tl.load(at + apart, mask=wanted, other=0.0), second, input_precision="ieee")
    factor = 1.0 / tl.sqrt(squares / width + EPS)
    return first * factor[:, None], second * factor[:, None]


@triton.jit
def norm_qkv_rope_kernel(
    x,  # [rows, width]
    scale,  # [width]: RMSNorm's scale, unfolded
    w,  # [width, HEADS * 2 HALF]
    cos,  # float32 [table_rows, HALF]; row m of x turns by row m % table_rows
    sin,
    out,  # [rows, HEADS, 2 HALF]
    rows,
    width,
    table_rows,
    w_row,
    HEADS: tl.constexpr,
    TURNING: tl.constexpr,  # heads below this one are rotated: queries and keys
    HALF: tl.constexpr,
    EPS: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
):
    """rope(rms_norm(x) @ w). Grid (HEADS * cdiv(HALF, BC), cdiv(rows, BM)).

    A program owns BC columns of a head's first half and their partners in the second, so it can rotate them itself.
    """
    blocks: tl.constexpr = (HALF + BC - 1) // BC
    head = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    column = head * 2 * HALF + c
    first, second = norm_two_products(
        x, scale, w, rows, width, w_row, m, column, c < HALF, HALF, EPS=EPS, BM=BM, BN=BC, BK=BK
    )
    kept = (m < rows)[:, None] & (c < HALF)[None, :]
    if head < TURNING:
        angle = (m % table_rows)[:, None] * HALF + c[None, :]
        cosine = tl.load(cos + angle, mask=kept, other=0.0)
        sine = tl.load(sin + angle, mask=kept, other=0.0)
        turned = first * cosine - second * sine
        second = second * cosine + first * sine
        first = turned
    place = out + m[:, None] * (HEADS * 2 * HALF) + column[None, :]
    tl.store(place, first.to(out.dtype.element_ty), mask=kept)
    tl.store(place + HALF, second.to(out.dtype.element_ty), mask=kept)


@triton.jit
def norm_gated_kernel(
    x,  # [rows, width]
    scale,  # [width]
    w,  # [width, 2 * inner]: gate, then up
    out,  # [rows, inner]
    rows,
    width,
    inner,
    EPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """gelu(n @ gate) * (n @ up) with n = rms_norm(x). Grid (cdiv(inner, BN), cdiv(rows, BM))."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    gate, up = norm_two_products(
        x, scale, w, rows, width, 2 * inner, m, n, n < inner, inner, EPS=EPS, BM=BM, BN=BN, BK=BK
    )
    value = gelu(gate) * up
    place = out + m[:, None] * inner + n[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=(m < rows)[:, None] & (n < inner)[None, :])


@triton.jit
def linear_residual_kernel(
    a,  # [rows, inner]
    w,  # [inner, columns]
    residual,  # [rows, columns]
    out,  # [rows, columns]; with SPLIT > 1 float32 parts [SPLIT, rows, columns], residual not added
    rows,
    inner,
    columns,
    SPLIT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """residual + a @ w, or SPLIT partial products over ranges of `inner`. Grid (columns / BN, rows / BM, SPLIT)."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    part = tl.program_id(2)
    k = tl.arange(0, BK)
    share = tl.cdiv(tl.cdiv(inner, BK), SPLIT) * BK
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(part * share, tl.minimum((part + 1) * share, inner), BK):
        kk = start + k
        inside = kk < inner
        tile = tl.load(a + m[:, None] * inner + kk[None, :], mask=(m < rows)[:, None] & inside[None, :], other=0.0)
        wanted = inside[:, None] & (n < columns)[None, :]
        weight = tl.load(w + kk[:, None] * columns + n[None, :], mask=wanted, other=0.0)
        acc = tl.dot(tile, weight, acc, input_precision="ieee")
    at = m[:, None] * columns + n[None, :]
    kept = (m < rows)[:, None] & (n < columns)[None, :]
    if SPLIT == 1:
        value = acc + tl.load(residual + at, mask=kept, other=0.0).to(tl.float32)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=kept)
    else:
        tl.store(out + part * rows * columns + at, acc, mask=kept)


@triton.jit
def merge_splits_kernel(parts, residual, out, count, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    """out[count] = residual + the sum of parts[SPLIT, count], in a fixed order. Grid (cdiv(count, BLOCK),)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(residual + i, mask=i < count, other=0.0).to(tl.float32)
    for s in tl.static_range(SPLIT):
        total += tl.load(parts + s * count + i, mask=i < count, other=0.0)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=i < count)


@triton.jit
def embed_actions_kernel(
    x_t,  # float32 [groups, actions, dim]
    fused_in,  # [dim, width]: action_in_proj @ time_mlp_in[:width]
    bias,  # float32 [groups or 1, width], `bias_row` 0 where all groups share one
    w_out,  # [width, width]
    b_out,  # [width]
    state,  # [groups / draws, width]: state tokens
    out,  # [groups, actions + 1, width]
    rows,  # groups * (actions + 1)
    actions,
    dim,
    width,
    bias_row,
    draws,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    """Row 0 of a group: its state token; others: silu(x_t @ fused_in + bias) @ w_out + b_out.

    Grid (cdiv(width, BN), cdiv(rows, BM)). Every column block forms the hidden rows anew: `dim` is 32.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    group, row = m // (actions + 1), m % (actions + 1)
    d = tl.arange(0, BD)
    k = tl.arange(0, BK)
    moving = (m < rows) & (row > 0)
    at = (group * actions + row - 1)[:, None] * dim + d[None, :]
    noisy = tl.load(x_t + at, mask=moving[:, None] & (d < dim)[None, :], other=0.0).to(w_out.dtype.element_ty)
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, width, BK):
        kk = start + k
        inside = kk < width
        first = tl.load(
            fused_in + d[:, None] * width + kk[None, :], mask=(d < dim)[:, None] & inside[None, :], other=0.0
        )
        hidden = tl.dot(noisy, first, input_precision="ieee")
        hidden += tl.load(
            bias + group[:, None] * bias_row + kk[None, :], mask=moving[:, None] & inside[None, :], other=0.0
        )
        hidden = (hidden * tl.sigmoid(hidden)).to(w_out.dtype.element_ty)
        wanted = inside[:, None] & (n < width)[None, :]
        weight = tl.load(w_out + kk[:, None] * width + n[None, :], mask=wanted, other=0.0)
        acc = tl.dot(hidden, weight, acc, input_precision="ieee")
    acc += tl.load(b_out + n, mask=n < width, other=0.0).to(tl.float32)[None, :]
    kept = (m < rows)[:, None] & (n < width)[None, :]
    token = tl.load(state + (group // draws)[:, None] * width + n[None, :], mask=kept, other=0.0).to(tl.float32)
    value = tl.where((row == 0)[:, None], token, acc)
    tl.store(out + m[:, None] * width + n[None, :], value.to(out.dtype.element_ty), mask=kept)


@triton.jit
def project_update_kernel(
    x,  # [groups, actions + 1, width]; row 0 of each group, the state's, is skipped
    scale,  # [width]
    w,  # [width, columns]
    b,  # [columns]
    base,  # float32 [groups, actions, out_row]
    factors,  # float32 [groups or 1], `factor_row` 0 where all groups share one
    out,  # float32 [groups, actions, out_row]; may be `base`
    rows,  # groups * actions
    actions,
    width,
    columns,
    out_row,
    factor_row,
    NORM: tl.constexpr,
    BASE: tl.constexpr,
    EPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """base + factor * (rms_norm(x) @ w + b): an Euler step (factor dt), an estimate (factor -t), or the draft head.

    Without NORM x goes in as it is; without BASE the result stands alone. Grid (cdiv(rows, BM),).
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    k = tl.arange(0, BK)
    group = m // actions
    source = (m + group + 1)[:, None] * width
    acc = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    for start in range(0, width, BK):
        kk = start + k
        inside = kk < width
        tile = tl.load(x + source + kk[None, :], mask=(m < rows)[:, None] & inside[None, :], other=0.0)
        if NORM:
            wide = tile.to(tl.float32)
            squares += tl.sum(wide * wide, axis=1)
            gain = 1.0 + tl.load(scale + kk, mask=inside, other=0.0).to(tl.float32)
            tile = (wide * gain[None, :]).to(w.dtype.element_ty)
        wanted = inside[:, None] & (n < columns)[None, :]
        weight = tl.load(w + kk[:, None] * columns + n[None, :], mask=wanted, other=0.0)
        acc = tl.dot(tile, weight, acc, input_precision="ieee")
    if NORM:
        acc *= (1.0 / tl.sqrt(squares / width + EPS))[:, None]
    acc += tl.load(b + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
    kept = (m < rows)[:, None] & (n < columns)[None, :]
    at = m[:, None] * out_row + n[None, :]
    if BASE:
        factor = tl.load(factors + group * factor_row, mask=m < rows, other=0.0)
        acc = tl.load(base + at, mask=kept, other=0.0) + factor[:, None] * acc
    tl.store(out + at, acc, mask=kept)
