"""Triton kernels of attention over two separate runs of keys: a shared prefix cache and a group's own rows.

Device code only (launch.py has the launchers). Several groups (flow times, draws) read one prefix in place, and a
group never meets another's keys; nothing is concatenated and no mask is stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

NEVER = tl.constexpr(-1.0e30)  # finite: a block whose keys are all hidden must not give inf - inf


@triton.jit
def _accumulate(q, keys, values, allowed, top, total, acc, scale):
    """One block of keys and values [BN, BD] into the running maximum [BM], sum [BM] and output [BM, BD]."""
    score = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
    score = tl.where(allowed, score, NEVER)
    higher = tl.maximum(top, tl.max(score, axis=1))
    weight = tl.where(allowed, tl.exp(score - higher[:, None]), 0.0)
    fade = tl.exp(top - higher)
    acc = acc * fade[:, None] + tl.dot(weight.to(values.dtype), values, input_precision="ieee")
    return higher, total * fade + tl.sum(weight, axis=1), acc


@triton.jit
def two_part_kernel(
    qkv,  # [groups, rows, HQ + 2 HKV, HD]: queries, keys, values of the group's own rows
    prefix_k,  # [groups / draws, S, HKV, HD], `prefix_batch` and `prefix_row` numbers apart
    prefix_v,
    lengths,  # int32 [groups / draws]: valid keys of each prefix, the first ones
    out,  # [groups, rows, HQ * HD]
    part_acc,  # with SPLIT: float32 [splits, groups * HKV, rows * HQ / HKV, HD]
    part_top,  # float32 [splits, groups * HKV, rows * HQ / HKV]
    part_total,
    rows,
    draws,
    prefix_batch,
    prefix_row,
    splits,
    scale,
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    HD: tl.constexpr,
    FIRST_ALONE: tl.constexpr,  # row 0 sees of the group's own keys only key 0
    SPLIT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """softmax(q [prefix_k, own k]) [prefix_v, own v]. Grid (cdiv(rows * HQ / HKV, BM), groups * HKV, splits).

    The query heads of one key head are rows of one product. The key blocks, prefix first, are dealt to `splits`.
    """
    per: tl.constexpr = HQ // HKV
    row_size: tl.constexpr = (HQ + 2 * HKV) * HD
    group, kv = tl.program_id(1) // HKV, tl.program_id(1) % HKV
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    row, head = i // per, kv * per + i % per
    d = tl.arange(0, BD)
    n = tl.arange(0, BN)
    real = (row < rows)[:, None] & (d < HD)[None, :]
    own = qkv + group * rows * row_size
    q = tl.load(own + row[:, None] * row_size + head[:, None] * HD + d[None, :], mask=real, other=0.0)
    length = tl.load(lengths + group // draws)
    prefix_blocks = tl.cdiv(length, BN)
    blocks = prefix_blocks + tl.cdiv(rows, BN)
    share = tl.cdiv(blocks, splits)
    begin = tl.program_id(2) * share
    end = tl.minimum(begin + share, blocks)
    top = tl.full((BM,), NEVER, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, BD), tl.float32)
    base = (group // draws) * prefix_batch + kv * HD
    for j in range(begin, tl.minimum(end, prefix_blocks)):
        key = j * BN + n
        at = base + key[:, None] * prefix_row + d[None, :]
        there = (key < length)[:, None] & (d < HD)[None, :]
        keys = tl.load(prefix_k + at, mask=there, other=0.0)
        values = tl.load(prefix_v + at, mask=there, other=0.0)
        allowed = (row < rows)[:, None] & (key < length)[None, :]
        top, total, acc = _accumulate(q, keys, values, allowed, top, total, acc, scale)
    for j in range(tl.maximum(begin, prefix_blocks), end):
        key = (j - prefix_blocks) * BN + n
        at = key[:, None] * row_size + (HQ + kv) * HD + d[None, :]
        there = (key < rows)[:, None] & (d < HD)[None, :]
        keys = tl.load(own + at, mask=there, other=0.0)
        values = tl.load(own + at + HKV * HD, mask=there, other=0.0)
        allowed = (row < rows)[:, None] & (key < rows)[None, :]
        if FIRST_ALONE:
            allowed = allowed & ((row > 0)[:, None] | (key == 0)[None, :])
        top, total, acc = _accumulate(q, keys, values, allowed, top, total, acc, scale)
    if SPLIT:
        slot = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * rows * per + i
        tl.store(part_acc + slot[:, None] * HD + d[None, :], acc, mask=real)
        tl.store(part_top + slot, top, mask=row < rows)
        tl.store(part_total + slot, total, mask=row < rows)
    else:
        place = out + (group * rows + row)[:, None] * (HQ * HD) + head[:, None] * HD + d[None, :]
        value = acc / tl.where(total > 0.0, total, 1.0)[:, None]
        tl.store(place, value.to(out.dtype.element_ty), mask=real)


@triton.jit
def merge_parts_kernel(
    part_acc,
    part_top,
    part_total,
    out,  # [groups, rows, HQ * HD]
    rows,
    splits,
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    HD: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """Join the parts of two_part_kernel. Grid (cdiv(rows * HQ / HKV, BM), groups * HKV)."""
    per: tl.constexpr = HQ // HKV
    group, kv = tl.program_id(1) // HKV, tl.program_id(1) % HKV
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    row, head = i // per, kv * per + i % per
    d = tl.arange(0, BD)
    there = row < rows
    real = there[:, None] & (d < HD)[None, :]
    top = tl.full((BM,), NEVER, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, BD), tl.float32)
    for s in range(0, splits):
        slot = (s * tl.num_programs(1) + tl.program_id(1)) * rows * per + i
        part = tl.load(part_top + slot, mask=there, other=NEVER)
        higher = tl.maximum(top, part)
        fade, gain = tl.exp(top - higher), tl.exp(part - higher)
        total = total * fade + gain * tl.load(part_total + slot, mask=there, other=0.0)
        more = tl.load(part_acc + slot[:, None] * HD + d[None, :], mask=real, other=0.0)
        acc = acc * fade[:, None] + gain[:, None] * more
        top = higher
    place = out + (group * rows + row)[:, None] * (HQ * HD) + head[:, None] * HD + d[None, :]
    value = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(place, value.to(out.dtype.element_ty), mask=real)
