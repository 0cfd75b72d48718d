"""The choice of tiles: what every one must keep to, over sizes, cards and number formats."""

from __future__ import annotations

import pytest

from flashtrail.benchmark.compilation import CARDS
from flashtrail.policies.pi0.kernels import tiles
from flashtrail.policies.pi0.kernels.tiles import Chip, blocks

CHIPS = [Chip(c.processors, c.shared, wgmma=c.capability == 90) for c in CARDS.values()] + [Chip(4, 99 << 10)]
# (inner, columns) of pi0_libero's expert and draft head, of pi0_nano, and odd ones.
SIZES = [(1024, 1280), (1024, 4096), (2048, 1024), (4096, 1024), (16384, 2048), (64, 256), (96, 33), (33, 17)]


def buffers(tile, outputs, width, chip):
    """Bytes of shared memory that a pipeline of this tile takes."""
    step = (tile.rows + outputs * tile.columns) * tile.inner * width
    return step * (tile.stages if chip.wgmma else tile.stages - 1)


@pytest.mark.parametrize("chip", CHIPS, ids=str)
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("rows", [1, 51, 102, 816])
def test_every_tile_fits_and_fills(chip, width, rows):
    for inner, columns in SIZES:
        chosen = [
            (1, tiles.split_product(rows, inner, columns, chip, width=width)),
            (2, tiles.product(rows, inner, columns, chip, width=width, outputs=2)),
        ]
        for outputs, tile in chosen:
            sides = tile.rows, tile.columns, tile.inner
            assert all(n >= 16 and n & (n - 1) == 0 for n in sides), tile
            assert 2 <= tile.stages <= tiles.MOST_STAGES and buffers(tile, outputs, width, chip) <= chip.shared, tile
            programs = blocks(rows, tile.rows) * blocks(columns, tile.columns) * tile.split
            full = programs >= tiles.ENOUGH * chip.processors
            narrowest = tile.columns == 16 or tile.columns >= columns
            assert full or narrowest, (rows, inner, columns, tile)
            # Two programs that share a processor share its memory.
            if programs > chip.processors and tile.stages > 2:
                assert 2 * buffers(tile, outputs, width, chip) <= chip.shared, tile
            if tile.split > 1:
                assert inner // (tile.split * tile.inner) >= tiles.LEAST_STEPS, tile


def test_one_session_of_pi0_libero_streams_its_weights_with_few_readings_of_x():
    """What docs/kernels.md says of the expert's products: most processors busy, wide blocks."""
    for card in CARDS.values():
        chip = Chip(card.processors, card.shared, wgmma=card.capability == 90)
        for inner in (2048, 4096):
            tile = tiles.split_product(51, inner, 1024, chip)
            assert (tile.columns, tile.split) == (64, 8)
        gated = tiles.product(51, 1024, 4096, chip, outputs=2)
        assert gated.columns == 32


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (408, 256), (52224, 1), (7, 4096)])
def test_pointwise_programs_cover_their_rows(rows, width):
    some = tiles.pointwise_rows(rows, width, 132)
    assert some & (some - 1) == 0 and some * width <= max(4096, width)
    assert blocks(rows, some) >= min(rows, 132)
    assert blocks(rows * width, tiles.pointwise_block(rows * width, 132)) >= min(132, rows * width // 1024)
