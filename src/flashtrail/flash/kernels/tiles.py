"""Which tile a kernel runs with: pure functions of sizes and of the device's number of processors.

Hand-picked from the roofline (docs/kernels.md), nothing is searched at run time; not yet tuned on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST = 16  # tl.dot takes no side below this
ROWS_FOR_KERNELS = 256  # above it a product is bound by arithmetic, and cuBLAS does it


@dataclass(frozen=True)
class Tile:
    """Rows, columns and inner length of a program's tile, parts of the inner length, warps, pipeline stages."""

    rows: int
    columns: int
    inner: int
    split: int = 1
    warps: int = 4
    stages: int = 4


def power_of_two(n: int) -> int:
    """The least power of two >= n."""
    return 1 << max(0, n - 1).bit_length()


def blocks(n: int, block: int) -> int:
    """How many blocks cover n."""
    return -(-n // block)


def _within(n: int, most: int) -> int:
    return max(SMALLEST, min(most, power_of_two(n)))


def pointwise_rows(rows: int, width: int, processors: int) -> int:
    """Rows of `width` numbers that one program takes: two programs a processor, at most 4,096 numbers in registers."""
    most = min(blocks(rows, 2 * processors), 4096 // power_of_two(width))
    return power_of_two(most + 1) // 2 if most > 1 else 1


def product(rows: int, inner: int, columns: int, processors: int, *, outputs: int = 1) -> Tile:
    """For few rows: narrow column blocks, so that every processor reads a part of the weight.

    `outputs` products share one tile of x (gate and up; both rotary halves): columns of each.
    """
    bm = _within(rows, 64)
    bn = 16 if blocks(columns, 32) * blocks(rows, bm) * 2 <= 3 * processors else 32
    bn = _within(columns, bn)
    return Tile(bm, bn, _within(inner, 128 if outputs == 1 else 64), 1, 4, 4 if outputs == 1 else 3)


def split_product(rows: int, inner: int, columns: int, processors: int) -> Tile:
    """As `product`, but with the inner length in parts while the column blocks leave processors idle.

    A part keeps at least four steps, or merging costs more than it gains.
    """
    tile = product(rows, inner, columns, processors)
    programs = blocks(columns, tile.columns) * blocks(rows, tile.rows)
    split = 1
    while programs * split * 2 <= 2 * processors and inner // (split * 2) >= 4 * tile.inner and split < 8:
        split *= 2
    return Tile(tile.rows, tile.columns, tile.inner, split, tile.warps, tile.stages)


def attention(rows: int, keys: int, groups: int, head_dim: int, processors: int) -> Tile:
    """rows: query rows of one key head; columns: keys of a block; inner: head size; split: parts of the keys."""
    bm = _within(rows, 32 if head_dim > 128 else 64)
    bn = _within(keys, 32 if head_dim > 128 else 64)
    programs = blocks(rows, bm) * groups
    split = max(1, min(processors // programs, blocks(keys, bn) // 2, 8))
    return Tile(bm, bn, _within(head_dim, 1 << 20), split, 4, 2)
