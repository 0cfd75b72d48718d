"""Launchers: shapes checked, output allocated, tile chosen, kernel started. Tensors in, tensors out.

Under TRITON_INTERPRET=1 everything runs on CPU tensors. Every function takes `out` to write into a buffer of the
caller's.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flashtrail.policies.pi0.gemma import RMS_EPS
from flashtrail.policies.pi0.kernels import attention, decide, products, rows, tiles
from flashtrail.policies.pi0.kernels.tiles import Chip, Tile, blocks, power_of_two
from flashtrail.policies.pi0.verify import GRIPPER

LEAST_SHARED = 99 << 10  # bytes a program may take on the smallest cards since compute capability 8.0
INTERPRETER = Chip(4, LEAST_SHARED)  # few processors, so that tests run split and unsplit paths


@functools.lru_cache(maxsize=8)
def chip(device: torch.device) -> Chip:
    """What tiles are chosen for on a device."""
    if device.type != "cuda":
        return INTERPRETER
    facts = torch.cuda.get_device_properties(device)
    shared = int(getattr(facts, "shared_memory_per_block_optin", LEAST_SHARED))
    return Chip(int(facts.multi_processor_count), shared, wgmma=facts.major in (9, 10))


def _start(kernel: Any, grid: tuple[int, ...], *arguments: Any, tile: Any = None, **constants: Any) -> None:
    options = {"num_warps": tile.warps, "num_stages": tile.stages} if tile else {"num_warps": 4}
    kernel[grid](*arguments, **constants, **options)


def _result(out: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if out is None:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    if tuple(out.shape) != shape or not out.is_contiguous():
        raise ValueError(f"out has shape {tuple(out.shape)}, the kernel writes a contiguous {shape}")
    return out


def _check(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape or not tensor.is_contiguous():
        raise ValueError(f"{what} must be a contiguous {shape}, not {tuple(tensor.shape)}")


def norm_qkv_rope(
    x: Tensor, scale: Tensor, w: Tensor, tables: tuple[Tensor, Tensor], turning: int, *, out: Tensor | None = None
) -> Tensor:
    """x[M, W], w[W, heads * hd], cos and sin float32 [T, hd / 2] (row m turns by m % T) -> [M, heads, hd].

    The first `turning` heads are rotated. The norm is RMSNorm with `scale`[W].
    """
    count, width = x.shape
    half = tables[0].shape[1]
    heads = w.shape[1] // (2 * half)
    _check("x", x, (count, width))
    _check("w", w, (width, heads * 2 * half))
    result = _result(out, (count, heads, 2 * half), x)
    widest = 128 if x.itemsize == 2 else 64  # turning wider float32 tiles takes more registers than there are
    tile = tiles.product(count, width, heads * half, chip(x.device), width=x.itemsize, outputs=2, widest=widest)
    bc = min(tile.columns, max(tiles.SMALLEST, power_of_two(half)))
    grid = (heads * blocks(half, bc), blocks(count, tile.rows))
    constants = {"HEADS": heads, "TURNING": turning, "HALF": half, "EPS": RMS_EPS}
    constants |= {"BM": tile.rows, "BC": bc, "BK": tile.inner}
    arguments = (x, scale, w, *tables, result, count, width, tables[0].shape[0], w.shape[1])
    _start(products.norm_qkv_rope_kernel, grid, *arguments, tile=tile, **constants)
    return result


def norm_gated(x: Tensor, scale: Tensor, w: Tensor, *, out: Tensor | None = None) -> Tensor:
    """x[M, W], w[W, 2F] (gate, up) -> gelu(n @ gate) * (n @ up) [M, F] with n = rms_norm(x)."""
    count, width = x.shape
    inner = w.shape[1] // 2
    _check("x", x, (count, width))
    _check("w", w, (width, 2 * inner))
    result = _result(out, (count, inner), x)
    tile = tiles.product(count, width, inner, chip(x.device), width=x.itemsize, outputs=2)
    grid = (blocks(inner, tile.columns), blocks(count, tile.rows))
    constants = {"EPS": RMS_EPS, "BM": tile.rows, "BN": tile.columns, "BK": tile.inner}
    _start(products.norm_gated_kernel, grid, x, scale, w, result, count, width, inner, tile=tile, **constants)
    return result


def linear_residual(
    a: Tensor, w: Tensor, residual: Tensor, *, out: Tensor | None = None, tile: Tile | None = None
) -> Tensor:
    """residual[M, N] + a[M, K] @ w[K, N] -> [M, N]; `out` may be `residual`."""
    (count, inner), columns = a.shape, w.shape[1]
    _check("a", a, (count, inner))
    _check("w", w, (inner, columns))
    _check("residual", residual, (count, columns))
    result = _result(out, (count, columns), residual)
    tile = tile or tiles.split_product(count, inner, columns, chip(a.device), width=a.itemsize)
    grid = (blocks(columns, tile.columns), blocks(count, tile.rows), tile.split)
    parts = result
    if tile.split > 1:
        parts = torch.empty((tile.split, count, columns), dtype=torch.float32, device=a.device)
    constants = {"SPLIT": tile.split, "BM": tile.rows, "BN": tile.columns, "BK": tile.inner}
    arguments = (a, w, residual, parts, count, inner, columns)
    _start(products.linear_residual_kernel, grid, *arguments, tile=tile, **constants)
    if tile.split > 1:
        size = count * columns
        block = tiles.pointwise_block(size, chip(a.device).processors)
        merged = (parts, residual, result, size)
        _start(products.merge_splits_kernel, (blocks(size, block),), *merged, SPLIT=tile.split, BLOCK=block)
    return result


def embed_actions(
    x_t: Tensor,
    fused_in: Tensor,
    bias: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    state: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """x_t float32 [G, A, D], fused_in[D, W], bias float32 [G or 1, W], state tokens [B, W] -> rows [G, A + 1, W].

    B divides G: consecutive groups share a state. Row 0 is the state token, the others the action tokens.
    """
    groups, actions, dim = x_t.shape
    width = w_out.shape[0]
    _check("x_t", x_t, (groups, actions, dim))
    _check("fused_in", fused_in, (dim, width))
    _check("bias", bias, (bias.shape[0], width))
    _check("state", state, (state.shape[0], width))
    if groups % state.shape[0] or bias.shape[0] not in (1, groups):
        raise ValueError(f"{groups} groups do not fit {state.shape[0]} states and {bias.shape[0]} biases")
    result = _result(out, (groups, actions + 1, width), w_out)
    count = groups * (actions + 1)
    tile = tiles.product(count, width, width, chip(x_t.device), width=w_out.itemsize, widest=32)
    tile = replace(tile, stages=min(tile.stages, 4))
    grid = (blocks(width, tile.columns), blocks(count, tile.rows))
    bias_row = width if bias.shape[0] == groups else 0
    sizes = (count, actions, dim, width, bias_row, groups // state.shape[0])
    constants = {"BM": tile.rows, "BN": tile.columns, "BK": tile.inner}
    constants["BD"] = max(tiles.SMALLEST, power_of_two(dim))
    arguments = (x_t, fused_in, bias, w_out, b_out, state, result, *sizes)
    _start(products.embed_actions_kernel, grid, *arguments, tile=tile, **constants)
    return result


def project_update(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    *,
    scale: Tensor | None = None,
    base: Tensor | None = None,
    factors: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """x[G, A + 1, W] without each group's row 0, w[W, N] -> float32 [G, A, N], base + factor * (norm(x) @ w + b).

    Without `scale` there is no norm; without `base` the product stands alone. `base` and `out` may have more columns
    than N: those are left alone. `out` may be `base`. factors float32 [G or 1].
    """
    groups, rows_, width = x.shape
    columns, actions = w.shape[1], rows_ - 1
    _check("x", x, (groups, rows_, width))
    _check("w", w, (width, columns))
    if out is None:
        shape = (groups, actions, columns) if base is None else tuple(base.shape)
        out = torch.empty(shape, dtype=torch.float32, device=x.device)
    for name, tensor in (("out", out), ("base", out if base is None else base)):
        _check(name, tensor, (groups, actions, out.shape[2]))
    if out.shape[2] < columns or (base is not None and factors is None):
        raise ValueError("out needs a column for every output, and a base needs factors")
    factor_row = 0 if factors is None or factors.shape[0] == 1 else 1
    # Few outputs: more row blocks are all the parallelism there is, and a deep pipeline all the speed.
    bm, bn, bk = tiles.SMALLEST, max(tiles.SMALLEST, power_of_two(columns)), min(128, max(16, power_of_two(width)))
    programs = blocks(groups * actions, bm)
    stages = tiles.stages_for(chip(x.device), (bm + bn) * bk, x.itemsize, blocks(width, bk), programs)
    tile = Tile(bm, bn, bk, 1, 4, stages)
    sizes = (groups * actions, actions, width, columns, out.shape[2], factor_row)
    constants: dict[str, Any] = {"NORM": scale is not None, "BASE": base is not None, "EPS": RMS_EPS}
    constants |= {"BM": bm, "BN": bn, "BK": bk}
    arguments: tuple[Any, ...] = (x, b if scale is None else scale, w, b, out if base is None else base)
    arguments += (out if factors is None else factors, out, *sizes)
    _start(products.project_update_kernel, (programs,), *arguments, tile=tile, **constants)
    return out


def two_part_attention(
    qkv: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    lengths: Tensor,
    num_heads: int,
    *,
    first_alone: bool = True,
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """qkv[G, R, Hq + 2 Hkv, hd], prefix_k and prefix_v[B, S, Hkv, hd] -> [G, R, Hq * hd].

    Each of G groups attends the prefix of its batch row (B divides G; consecutive groups share it), of which the
    first lengths[b] (int32) keys count, and its own R rows. With first_alone row 0 sees of these only itself.
    """
    groups, count, _heads, head_dim = qkv.shape
    kv_heads = prefix_k.shape[2]
    batch, longest = prefix_k.shape[:2]
    _check("qkv", qkv, (groups, count, num_heads + 2 * kv_heads, head_dim))
    _check("lengths", lengths, (batch,))
    if prefix_k.stride() != prefix_v.stride() or prefix_k.stride()[2:] != (head_dim, 1) or groups % batch:
        raise ValueError(f"prefix {tuple(prefix_k.shape)} does not fit {groups} groups, or its rows are not dense")
    result = _result(out, (groups, count, num_heads * head_dim), qkv)
    query_rows = count * num_heads // kv_heads
    where = groups * kv_heads
    tile = tile or tiles.attention(query_rows, longest + count, where, head_dim, chip(qkv.device), width=qkv.itemsize)
    grid = (blocks(query_rows, tile.rows), where, tile.split)
    parts = (result, result, result)
    if tile.split > 1:
        slots = (tile.split, where, query_rows)
        new = functools.partial(torch.empty, dtype=torch.float32, device=qkv.device)
        parts = (new((*slots, head_dim)), new(slots), new(slots))
    shape = {"HQ": num_heads, "HKV": kv_heads, "HD": head_dim, "BD": tile.inner}
    sizes = (count, groups // batch, prefix_k.stride(0), prefix_k.stride(1), tile.split, head_dim**-0.5)
    flags = {"FIRST_ALONE": first_alone, "SPLIT": tile.split > 1, "BM": tile.rows, "BN": tile.columns}
    arguments = (qkv, prefix_k, prefix_v, lengths, result, *parts, *sizes)
    _start(attention.two_part_kernel, grid, *arguments, tile=tile, **shape, **flags)
    if tile.split > 1:
        some = tiles.pointwise_rows(query_rows * where, head_dim, chip(qkv.device).processors)
        merging = blocks(query_rows, some), where
        _start(attention.merge_parts_kernel, merging, *parts, result, count, tile.split, BM=some, **shape)
    return result


def judge(draft: Tensor, x0_hat: Tensor, last: Tensor, rules: Tensor, *, out: Tensor | None = None) -> Tensor:
    """draft float32 [B, H, D], x0_hat float32 [B, K, H, D], last[B], rules[6] -> float32 [B, 4 + H * D].

    Columns: accepted, radius, gripper stop, gripper cut, then the chunk. rules: see stages.rules.
    """
    batch, times, horizon, dim = x0_hat.shape
    _check("draft", draft, (batch, horizon, dim))
    _check("x0_hat", x0_hat, (batch, times, horizon, dim))
    _check("last", last, (batch,))
    result = _result(out, (batch, 4 + horizon * dim), draft)
    constants = {"K": times, "HAS_GRIPPER": dim > GRIPPER, "BH": power_of_two(horizon), "BD": power_of_two(dim)}
    _start(decide.judge_kernel, (batch,), draft, x0_hat, last, rules, result, horizon, dim, **constants)
    return result


def rms_norm(x: Tensor, scale: Tensor, *, out: Tensor | None = None) -> Tensor:
    """x[M, W] -> x / rms * (1 + scale), [M, W]."""
    count, width = x.shape
    _check("x", x, (count, width))
    result = _result(out, (count, width), x)
    some = tiles.pointwise_rows(count, width, chip(x.device).processors)
    constants = {"EPS": RMS_EPS, "ROWS": some, "BLOCK": power_of_two(width)}
    _start(rows.rms_norm_kernel, (blocks(count, some),), x, scale, result, count, width, **constants)
    return result


def rope_into_cache(
    qkv: Tensor, tables: tuple[Tensor, Tensor], num_heads: int, cache_k: Tensor, cache_v: Tensor
) -> Tensor:
    """qkv[M, Hq + 2 Hkv, hd] -> rotated q[M, Hq, hd]; keys (rotated) and values go to cache_k, cache_v[M, Hkv, hd]."""
    count, heads, head_dim = qkv.shape
    kv_heads = (heads - num_heads) // 2
    _check("qkv", qkv, (count, heads, head_dim))
    _check("cache_k", cache_k, (count, kv_heads, head_dim))
    _check("cache_v", cache_v, (count, kv_heads, head_dim))
    q = torch.empty((count, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    some = tiles.pointwise_rows(count * heads, head_dim, chip(qkv.device).processors)
    constants = {"HQ": num_heads, "HKV": kv_heads, "HALF": head_dim // 2}
    constants |= {"ROWS": some, "BLOCK": power_of_two(head_dim // 2)}
    arguments = (qkv, *tables, q if num_heads else cache_k, cache_k, cache_v, count * heads)
    _start(rows.rope_into_cache_kernel, (blocks(count * heads, some),), *arguments, **constants)
    return q


def gated_gelu(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """gate_up[M, 2F] -> gelu(gate) * up [M, F]."""
    count, inner = gate_up.shape[0], gate_up.shape[1] // 2
    _check("gate_up", gate_up, (count, 2 * inner))
    result = _result(out, (count, inner), gate_up)
    block = min(1024, power_of_two(inner))
    some = tiles.pointwise_rows(count, block, chip(gate_up.device).processors)
    grid = (blocks(count, some), blocks(inner, block))
    _start(rows.gated_gelu_kernel, grid, gate_up, result, count, inner, ROWS=some, BLOCK=block)
    return result
