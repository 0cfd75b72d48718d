"""Bytes and FLOPs against the figures computed by hand for pi0_libero (docs/reference/FLASH.md, A)."""

import pytest

from flashtrail.benchmark import costs
from flashtrail.policies.pi0.dims import PI0_LIBERO, PRESETS, DraftDims

# S = 524: two views and 12 prompt tokens. GFLOP and MB of weights and cache.
BY_HAND = {
    "encoder": (437.9 + 2.4, 825 + 4.7),
    "prefill": (2005.3, 3754),
    "denoise": (362.0, 10 * (625 + 9.7)),
    "draft": (16.8 - 4.4, 221),  # the published count projects queries for prefix rows too, 4.4 GFLOP nobody reads
    "verify": (72.4, 625 + 9.7),  # the published count reads the cache once for each time; one pass reads it once
}


@pytest.fixture(scope="module")
def stages():
    return costs.stage_costs(PI0_LIBERO, DraftDims.like(PI0_LIBERO), views=2, prompt=12)


@pytest.mark.parametrize("stage", BY_HAND)
def test_a_stage_costs_what_was_computed_by_hand(stages, stage):
    gflop, megabytes = BY_HAND[stage]
    assert stages[stage].flops / 1e9 == pytest.approx(gflop, rel=0.01)
    assert stages[stage].bytes / 1e6 == pytest.approx(megabytes, rel=0.01)


def test_the_floor_is_the_larger_of_memory_and_arithmetic():
    ceiling = costs.Ceiling("x", bytes_per_s=1e9, flops_per_s=1e12)
    assert costs.Cost(2e9, 1e6).floor_ms(ceiling) == pytest.approx(2.0)
    assert costs.Cost(1e9, 3e6).floor_ms(ceiling) == pytest.approx(3.0)
    assert costs.Cost(1e9, 3e6).bound(ceiling) == "memory"


def test_more_views_and_tokens_cost_more_and_routes_are_sums(stages):
    more = costs.stage_costs(PI0_LIBERO, DraftDims.like(PI0_LIBERO), views=3, prompt=48)
    assert all(more[s].flops > stages[s].flops for s in stages)
    assert costs.route_costs(stages)["full"] == [stages[s] for s in ("encoder", "prefill", "denoise")]
    assert set(costs.route_costs({k: v for k, v in stages.items() if k in ("encoder", "prefill", "denoise")})) == {
        "full"
    }


def test_a_stem_is_counted_by_its_convolutions():
    dims = PRESETS["pi0_nano"]
    draft = DraftDims.like(dims)
    one = costs.stage_costs(dims, draft, views=1, prompt=10)["encoder"].flops
    assert costs.stage_costs(dims, draft, views=2, prompt=10)["encoder"].flops == pytest.approx(2 * one)
