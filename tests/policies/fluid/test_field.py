"""The core: against numpy in float64, against the analytic decay of a Fourier mode, and what ours mends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from policies.fluid import reference

from flashtrail.policies.fluid.field import Layer, Stop, evolve, laplacian, stable_dt

WIDTH = 6


def layer_of(document: bool, dilations=(1, 2), lags=(1, 2), seed: int = 0, width: int = WIDTH) -> Layer:
    """A layer in float64 with every parameter away from its start, so that no term is hidden."""
    torch.manual_seed(seed)
    layer = Layer(width, dilations, lags, document).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return layer.requires_grad_(False)


def field_of(seed: int = 1, batch: int = 1, frames: int = 3, side: int = 7, views: int = 2, width: int = WIDTH):
    torch.manual_seed(seed)
    return torch.randn(batch, views, frames, side, side, width, dtype=torch.float64)


@pytest.mark.parametrize("document", [False, True])
@pytest.mark.parametrize(("frames", "side"), [(3, 7), (1, 10)])
def test_steps_are_those_of_the_equation(document, frames, side) -> None:
    layer, u = layer_of(document), field_of(frames=frames, side=side)
    done = evolve(layer, u, 5, Stop(0.0))
    weights = {name: value.numpy() for name, value in layer.state_dict().items()}
    expected, noted = reference.run(weights, np.moveaxis(u[0].numpy(), -1, 0), (1, 2), (1, 2), 5, document)
    np.testing.assert_allclose(np.moveaxis(done.u[0].numpy(), -1, 0), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(done.turbulence[:, 0].numpy(), noted, rtol=1e-10)
    torch.testing.assert_close(evolve(layer, u, 5).u, done.u)  # measuring changes nothing


def only_diffusion(dilations, d: float, dt: float) -> Layer:
    """A layer whose other terms are zero, without its norm: u + dt D lap(u)."""
    layer = Layer(1, dilations, (), document=True).double().requires_grad_(False)
    layer.spread.fill_(math.log(math.expm1(d)))
    layer.log_dt.fill_(math.log(dt))
    for name in ("react_out", "local", "write"):
        getattr(layer, name).weight.zero_()
        getattr(layer, name).bias.zero_()
    return layer


def diffused(layer: Layer, u, steps: int):
    h, c = u.new_zeros(len(u), u.shape[-1]), layer.coefficients()
    for _ in range(steps):
        u, _, h = layer.step(u, h, 1, c)
    return u


def test_a_cosine_decays_as_the_heat_equation_says() -> None:
    """With edges replicated, cos(pi k (i + 1/2) / n) is an eigenvector at dilation 1: it decays, undistorted."""
    n, d, dt, steps = 16, 0.7, 0.25, 40
    for k, m in ((1, 0), (2, 3), (15, 15)):
        rows, columns = (torch.cos(math.pi * f * (torch.arange(n, dtype=torch.float64) + 0.5) / n) for f in (k, m))
        mode = (rows[:, None] * columns)[None, None, None, ..., None]
        eigenvalue = sum(2 - 2 * math.cos(math.pi * f / n) for f in (k, m))
        found = diffused(only_diffusion((1,), d, dt), mode, steps)
        torch.testing.assert_close(found, mode * (1 - dt * d * eigenvalue) ** steps, rtol=1e-9, atol=1e-12)


def test_every_dilation_damps_a_wave_by_its_own_symbol() -> None:
    """Away from the edges, where a dilation reaches further than its wave's symmetry."""
    n, d, dt, steps, omega = 64, 0.3, 0.2, 4, 0.37
    wave = torch.cos(omega * torch.arange(n, dtype=torch.float64)).expand(n, n)[None, None, None, ..., None]
    found = diffused(only_diffusion((1, 2, 4), d, dt), wave, steps)
    rate = sum(2 - 2 * math.cos(omega * s) for s in (1, 2, 4))
    inner = slice(4 * steps, n - 4 * steps)
    expected = (wave * (1 - dt * d * rate) ** steps)[..., inner, inner, :]
    torch.testing.assert_close(found[..., inner, inner, :], expected, rtol=1e-9, atol=1e-12)


def test_a_checkerboard_grows_in_the_documents_form_and_never_in_ours() -> None:
    """Its eigenvalue is the stencil's largest: 8 a dilation that is odd. The norm hides it, so the norm is left out."""
    side = torch.arange(14)
    board = ((-1.0) ** (side[:, None] + side)).double()[None, None, None, ..., None]
    for d in (0.1, 3.0, 50.0):
        spread, recall = torch.full((2, 1), d).double(), torch.zeros(0, 1).double()
        ours = stable_dt(torch.tensor([0.35]).double(), spread, recall)
        for dt, grows in ((0.35, 0.35 * 8 * 2 * d > 2), (float(ours), False)):
            u = board
            for _ in range(20):
                u = u + dt * laplacian(u, spread, (1, 3))
            assert bool(u.abs().max() > 1) == grows, (d, dt)


def test_ours_keeps_diffusion_within_the_fields_range_whatever_is_learned() -> None:
    for seed in range(5):
        layer = layer_of(False, (1, 2, 3), (1, 2), seed)
        with torch.no_grad():
            layer.spread.normal_(0, 5)
            layer.recall.normal_(0, 5)
            layer.log_dt.fill_(3.0)
        c, u = layer.coefficients(), field_of(seed, frames=4)
        assert bool((c.dt <= 0.35).all())
        for _ in range(10):
            after = u + c.dt * layer.diffusion(u, c)
            assert bool((after.amax((1, 2, 3, 4)) <= u.amax((1, 2, 3, 4)) + 1e-12).all())
            assert bool((after.amin((1, 2, 3, 4)) >= u.amin((1, 2, 3, 4)) - 1e-12).all())
            u = after


def fresh(document: bool) -> Layer:
    torch.manual_seed(3)
    return Layer(16, (1, 2), (), document).double().requires_grad_(False)


def test_ours_comes_to_rest_where_reaction_is_weak_and_the_documents_memory_never_does() -> None:
    """A strong reaction may keep ours moving, too: that a fixed point exists does not say that it attracts."""
    u, noted = field_of(width=16, frames=1, side=8, batch=2), []
    for document in (False, True):
        layer = fresh(document)
        layer.react_out.weight.mul_(0.1)
        noted.append(evolve(layer, u, 900, Stop(0.0)).turbulence)
    ours, theirs = noted
    assert ours[-1].max() < 1e-5 and theirs[-100:].min() > 0.1


def test_what_the_norm_takes_away_is_the_floor_of_the_documents_turbulence() -> None:
    """At each second step its candidate is compared with one before a norm: change without motion."""
    u = field_of(width=16, frames=1, side=8)
    theirs = evolve(fresh(True), u, 200, Stop(0.0)).turbulence[100:, 0]
    assert theirs.min() > 0.01  # no epsilon below it ever stops


def test_a_sample_stops_alone_and_its_answer_does_not_depend_on_the_batch() -> None:
    layer = fresh(False)
    still = evolve(layer, field_of(4, width=16, frames=1, side=8), 300).u
    u = torch.cat((field_of(5, 2, 1, 8, width=16), still))
    alone = [evolve(layer, one[None], 90, Stop(0.02)) for one in u]
    together = evolve(layer, u, 90, Stop(0.02))
    assert together.steps.tolist() == [int(one.steps) for one in alone]
    assert together.steps[2] < together.steps[:2].min() and together.steps.max() < 90
    torch.testing.assert_close(together.u, torch.cat([one.u for one in alone]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(together.u[2:], evolve(layer, u[2:], int(together.steps[2])).u)
    assert bool(together.turbulence[int(together.steps[2]) :, 2].isnan().all())


def test_the_documents_stop_is_the_batchs() -> None:
    layer, u = fresh(True), field_of(4, 3, 1, 8, width=16)
    assert len(set(evolve(layer, u, 12, Stop(0.2)).steps.tolist())) == 1


def test_epsilon_patience_and_least_steps() -> None:
    layer, u = fresh(False), field_of(width=16, frames=1, side=8)
    assert int(evolve(layer, u, 9, Stop(0.0)).steps) == 9  # 0 takes every step
    assert int(evolve(layer, u, 9, Stop(1e9)).steps) == 3
    assert int(evolve(layer, u, 9, Stop(1e9, min_steps=1, patience=4)).steps) == 4
    assert int(evolve(layer, u, 9, Stop(1e9, min_steps=7)).steps) == 7


def test_the_past_flows_into_the_present_alone() -> None:
    layer, u = layer_of(False), field_of(frames=4)
    c = layer.coefficients()
    changed = u.clone()
    changed[:, :, 2] += 1
    moved = (layer.diffusion(changed, c) - layer.diffusion(u, c)).abs().amax((0, 1, 3, 4, 5))
    assert not moved[:2].any() and bool((moved[2:] > 0).all())


def test_a_field_that_was_served_first_can_be_trained_in_the_same_process() -> None:
    """What is remembered of a grid's size is no inference tensor, which autograd would refuse."""
    u = field_of(side=11, frames=3)  # a size that no other test has asked for
    with torch.inference_mode():
        evolve(fresh_of(u), u, 2)
    layer = fresh_of(u)
    evolve(layer, u, 2).u.square().sum().backward()
    assert layer.local.weight.grad is not None and bool(layer.local.weight.grad.any())


def fresh_of(u) -> Layer:
    torch.manual_seed(0)
    return Layer(u.shape[-1], (1, 2), (1,), document=False).double()
