"""Which tile a kernel runs with: pure functions of sizes and of the device's processors and shared memory.

Chosen by argument (docs/kernels.md), checked by compiling (`make kernels-compile`); nothing is searched at run time,
and nothing was timed. Three rules: a product's column blocks are as wide as they can be while there is still a program
for nearly every processor, because each block reads all of x again from the L2 cache; what is left of the device is
filled by splitting the inner length; and the pipeline takes the shared memory that is left, because bytes on their way
are what bandwidth is made of.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST = 16  # tl.dot takes no side below this
ENOUGH = 0.75  # of the processors: below it, narrower blocks or a split
MOST_SPLIT, LEAST_STEPS = 8, 4  # a part of fewer steps costs more to merge than it gains
MOST_STAGES = 8
SCRATCH = 1024  # bytes of shared memory left alone, for what the compiler adds


@dataclass(frozen=True)
class Chip:
    """What tiles are chosen for: processors, bytes of shared memory a program may take, and whether products read
    their operands there while the next ones arrive (wgmma and its successor), which takes one buffer more."""

    processors: int
    shared: int
    wgmma: bool = False


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


def pointwise_block(count: int, processors: int) -> int:
    """Numbers that one program takes of `count` in a row: 1,024, or fewer where that leaves processors idle."""
    block = 1024
    while block > 256 and blocks(count, block) < 2 * processors:
        block //= 2
    return block


def stages_for(chip: Chip, numbers: int, width: int, steps: int, programs: int) -> int:
    """Pipeline stages of a loop of `steps` steps that reads so many numbers of `width` bytes in each.

    All programs are to be resident at once, up to two a processor, and share its memory. At least two stages.
    """
    step = numbers * width
    if width > 2:  # without matrix instructions rows are padded apart
        step += step // 8
    resident = min(2, blocks(programs, chip.processors))
    room = chip.shared // resident - SCRATCH
    fit = room // step + (0 if chip.wgmma else 1)
    return max(2, min(fit, steps + 1, MOST_STAGES))


def product(
    rows: int, inner: int, columns: int, chip: Chip, *, width: int = 2, outputs: int = 1, widest: int = 128
) -> Tile:
    """For few rows: the widest column blocks that leave nearly every processor one.

    `outputs` products share one tile of x (gate and up; both rotary halves): columns of each. width: bytes a number.
    """
    return _tile(rows, inner, columns, chip, width, outputs, (_widest(widest, width, outputs), SMALLEST), 1)


def split_product(rows: int, inner: int, columns: int, chip: Chip, *, width: int = 2) -> Tile:
    """As `product`, but with the inner length in parts where blocks wide enough leave processors idle."""
    widest = _widest(128, width, 1)
    whole = _tile(rows, inner, columns, chip, width, 1, (widest, min(widest, 64)), 1)
    if _programs(rows, columns, whole) >= ENOUGH * chip.processors:
        return whole
    return _tile(rows, inner, columns, chip, width, 1, (widest, SMALLEST), MOST_SPLIT)


def _widest(most: int, width: int, outputs: int) -> int:
    """Columns of a block: sums of four warps stay in their registers; float32 products need more of them."""
    return max(SMALLEST, most // outputs // (2 if width > 2 else 1))


def _programs(rows: int, columns: int, tile: Tile) -> int:
    return blocks(rows, tile.rows) * blocks(columns, tile.columns) * tile.split


def _tile(
    rows: int, inner: int, columns: int, chip: Chip, width: int, outputs: int, span: tuple[int, int], most_split: int
) -> Tile:
    """The first of column blocks from span[0] down to span[1] with which the device is nearly full, else the last."""
    bm, bk = _within(rows, 64), _within(inner, 128 // width)
    wanted, bn = ENOUGH * chip.processors, span[0]
    while True:
        tile, split = Tile(bm, _within(columns, bn), bk), 1
        programs = _programs(rows, columns, tile)
        while programs * split < wanted and split < most_split and inner // (2 * split * bk) >= LEAST_STEPS:
            split *= 2
        if programs * split >= wanted or bn <= span[1]:
            break
        bn //= 2
    numbers = (bm + outputs * tile.columns) * bk
    stages = stages_for(chip, numbers, width, blocks(blocks(inner, bk), split), programs * split)
    return Tile(bm, tile.columns, bk, split, 4, stages)


def attention(rows: int, keys: int, groups: int, head_dim: int, chip: Chip, *, width: int = 2) -> Tile:
    """rows: query rows of one key head; columns: keys of a block; inner: head size; split: parts of the keys.

    Float32 products keep their operands in registers, so they get blocks of a quarter, and twice the warps.
    """
    most = (32 if head_dim > 128 else 64) // (2 if width > 2 else 1)
    bm, bn = _within(rows, most), _within(keys, most)
    programs = blocks(rows, bm) * groups
    split = max(1, min(chip.processors // programs, blocks(keys, bn) // 2, 8))
    warps = 8 if width > 2 and head_dim > 128 else 4
    return Tile(bm, bn, _within(head_dim, 1 << 20), split, warps, 2)
