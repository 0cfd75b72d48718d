"""Training through the stage functions: gradients, learning, resuming, and what must never be learnt."""

import dataclasses

import numpy as np
import pytest
import torch

from flashtrail.base.errors import UserError
from flashtrail.policies.pi0 import weights
from flashtrail.training import dataset, policy
from flashtrail.training.policy import Recipe, Trainer

PROMPTS = {0: [2, 5, 6, 4], 1: [2, 7, 4]}
RECIPE = Recipe(steps=30, batch=8, rate=3e-3, warmup=2, threads=1)


def trainer(directory, demos, dims, recipe=RECIPE):
    return Trainer(directory, demos, dataset.norm_stats(demos, policy.DELTA_ACTIONS), PROMPTS, dims, recipe)


def test_every_tensor_that_acts_gets_a_gradient(tmp_path, demos, dims):
    run = trainer(tmp_path, demos, dims)
    flow, auxiliary = run.losses(run.run.weights, run.batch(run.train_frames[:8], np.random.default_rng(0), True))
    (flow + auxiliary).backward()
    idle = {name for name, t in run.run.weights.items() if t.grad is None or not t.grad.abs().sum()}
    assert idle == {"prefix.norm.scale"}  # kept for the layout; nobody reads it
    last = run.run.weights["prefix.layers.q.weight"].grad[-1]
    assert not last.abs().sum()  # the last prefix layer gives keys and values only


def test_it_learns(tmp_path, demos, dims):
    run = trainer(tmp_path, demos, dims)
    batch = run.batch(run.train_frames[:8], np.random.default_rng(0), False)
    before = run.losses(run.run.weights, batch)[0].item()
    for _ in range(25):
        run._update(run.losses(run.run.weights, batch)[0])
        run.run.step += 1
    assert run.losses(run.run.weights, batch)[0].item() < 0.7 * before


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, demos, dims):
    short = dataclasses.replace(RECIPE, steps=6)
    whole = trainer(tmp_path / "whole", demos, dims, short).train()
    first = trainer(tmp_path / "broken", demos, dims, short)
    first.recipe = dataclasses.replace(short, steps=3)
    first.rate = lambda step: Trainer.rate(whole_clock, step)  # the schedule of the full length
    whole_clock = trainer(tmp_path / "clock", demos, dims, short)
    first.train()
    saved = torch.load(tmp_path / "broken" / "run.pt", weights_only=True)
    assert saved["step"] == 3
    resumed = trainer(tmp_path / "broken", demos, dims, short).train()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6)


def test_padding_dims_stay_out_of_the_way(tmp_path, demos, dims):
    run = trainer(tmp_path, demos, dims)
    run.train()
    w = run.run.average
    assert not w["action_in_proj.weight"][7:].any()
    assert not w["action_out_proj.weight"][:, 7:].any()
    assert not w["action_out_proj.bias"][7:].any()
    assert w["action_in_proj.weight"][:7].any()


def test_masked_and_zeroed_views_are_told_apart(tmp_path, demos, dims):
    recipe = dataclasses.replace(RECIPE, wrist_zeroed=0.5, wrist_masked=0.5)
    batch = trainer(tmp_path, demos, dims, recipe).batch(np.arange(20) % 40, np.random.default_rng(0), True)
    masked = ~batch["view_valid"][:, 1]
    black = (batch["images"][:, 1] == -1.0).flatten(1).all(1)
    assert masked.any() and black.any()
    assert torch.equal(masked, ~black)
    assert batch["view_valid"][:, 0].all()


def test_another_recipe_does_not_continue_a_run(tmp_path, demos, dims):
    run = trainer(tmp_path, demos, dims)
    run.save()
    with pytest.raises(UserError, match="batch"):
        trainer(tmp_path, demos, dims, dataclasses.replace(RECIPE, batch=4))


def test_loss_weights_favour_what_is_executed():
    rows = policy.chunk_weights(50)
    assert rows[11] > rows[20] > rows[49] > 0


def test_patch_at_half_size_is_the_full_size_patch_encoder(dims):
    from flashtrail.policies.pi0.vision import encode_images
    from flashtrail.training.comparison import at_full_size, half_size

    patch = dataclasses.replace(dims, vision=dataclasses.replace(dims.vision, stem=None, patch=32))
    small = half_size(patch)
    w = weights.init_base(small, 0)
    images = torch.rand(1, 2, 224, 224, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    halved = images.reshape(1, 2, 112, 2, 112, 2, 3).mean((3, 5))
    full = encode_images(at_full_size(w, 32), patch, images)
    torch.testing.assert_close(encode_images(w, small, halved), full, rtol=1e-4, atol=1e-4)
