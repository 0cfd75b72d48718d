"""What is exported is what the converter reads back, and what the tokenizer does to a prompt."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from flashtrail.base.provenance import json_load
from flashtrail.checkpoints import orbax
from flashtrail.checkpoints.artifact import convert_base, convert_draft
from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.dims import DraftDims
from flashtrail.training import comparison, dataset, draft, evaluate, export, pipeline, tokenizer
from flashtrail.training.policy import Recipe


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    lines = [f"put the {a} on the {b}" for a in ("bowl", "wine bottle", "plate") for b in ("stove", "cabinet", "rack")]
    tokenizer.train(path, lines)
    return path


def test_a_source_tree_converts_back_to_the_same_tensors(tmp_path, demos, dims, words):
    dims = dataclasses.replace(dims, vocab_size=tokenizer.size(words))
    base = weights.init_base(dims, 3)
    ddims = DraftDims.like(dims)
    head = draft.initial(dims, base, 4)
    packed = export.draft_file(head, ddims, {"note": "test"})
    stats = dataset.norm_stats(demos, delta_actions=False)
    export.write_source(tmp_path / "source", base, dims, stats, words, packed, delta_actions=False)
    convert_base(tmp_path / "source", tmp_path / "base")
    convert_draft(tmp_path / "source" / "draft.pt", tmp_path / "draft", base=tmp_path / "base")
    back, dims_back, manifest = weights.load_base(tmp_path / "base")
    assert dims_back == dims
    assert manifest["transforms"] == {"delta_actions": False}
    assert set(back) == set(base)
    for name, tensor in base.items():
        assert torch.equal(back[name], tensor), name
    head_back, ddims_back, _ = weights.load_draft(tmp_path / "draft")
    assert ddims_back == ddims
    for name, tensor in head.items():
        exact = tensor.to(torch.bfloat16).float() if name.endswith("norm.scale") else tensor
        assert torch.equal(head_back[name], exact), name


def test_the_shipped_policy_is_exported_to_its_own_tree_and_draft(tmp_path):
    """The files under resources/ were written before the converter's table was used backwards."""
    shipped = Path(__file__).parents[2] / "resources/pi0_nano"
    convert_base(shipped, tmp_path / "base")
    convert_draft(shipped / "draft.pt", tmp_path / "draft")
    tensors, dims, _ = weights.load_base(tmp_path / "base")
    tree = export.orbax_tree(tensors, dims)
    for leaf, expected in orbax.read_tree(shipped / "params").items():
        assert np.array_equal(functools.reduce(dict.__getitem__, leaf.split("/"), tree), expected), leaf
    head, ddims, _ = weights.load_draft(tmp_path / "draft")
    ours, theirs = export.draft_file(head, ddims, {}), torch.load(shipped / "draft.pt", weights_only=True)
    assert ours["draft_head"].keys() == theirs["draft_head"].keys() and ours["meta"].items() <= theirs["meta"].items()
    for name, tensor in theirs["draft_head"].items():
        assert tensor.dtype == ours["draft_head"][name].dtype and torch.equal(tensor, ours["draft_head"][name]), name


def test_the_tree_tells_no_path(tmp_path, demos, dims, words):
    dims = dataclasses.replace(dims, vocab_size=tokenizer.size(words))
    stats = dataset.norm_stats(demos, delta_actions=True)
    export.write_source(tmp_path / "s", weights.init_base(dims, 0), dims, stats, words, None, delta_actions=True)
    for file in (tmp_path / "s").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file


def test_the_draft_learns_its_lesson(dims):
    generator = torch.Generator().manual_seed(0)
    lesson = {
        "emb": torch.randn(16, 20, dims.prefix.width, generator=generator),
        "valid": torch.ones(16, 20, dtype=torch.bool),
        "state": torch.randn(16, 32, generator=generator),
        "chunk": torch.randn(16, 50, 7, generator=generator),
    }
    lesson["other"] = lesson["chunk"] + 0.1
    start = draft.initial(dims, weights.init_base(dims, 0), 0)
    before = draft.agreement(start, dims, lesson)
    tensors, curve = draft.train(start, dims, lesson, draft.DraftRecipe(steps=200, batch=16, rate=5e-3))
    after = draft.agreement(tensors, dims, lesson)
    assert len(curve) == 2
    assert after["draft"]["median"] < 0.8 * before["draft"]["median"]
    assert after["full_other_noise"] == {"median": pytest.approx(0.1), "within": 16, "within_steps_mean": 12.0}


def test_draft_weights_have_a_decaying_prefix_and_a_light_tail():
    rows = draft.step_weights(500, 50, np.random.default_rng(0))
    torch.testing.assert_close(rows.sum(1), torch.ones(500))
    assert (rows[:, 0] >= rows[:, -1]).all()
    assert (rows[:, 16:] == rows[:, 49:]).all()


def test_summary_counts_by_task():
    rows = [
        {"task": t, "success": t == 1 or i < 3, "draft_rounds": 2, "rounds": 5, "accepted": 18}
        for t in (0, 1)
        for i in range(10)
    ]
    figures = evaluate.summary(rows)
    assert (figures["all"]["k"], figures["all"]["n"]) == (13, 20)
    assert figures["tasks"]["0"] == {"k": 3, "n": 10, "wilson95": [0.108, 0.603]}
    assert figures["tasks"]["1"]["wilson95"] == [0.722, 1.0]
    assert figures["accepted_mean"] == 9.0


def test_patches_are_trained_to_the_end_and_played_as_an_artifact(tmp_path, demos, demo_dir, dims, words, monkeypatch):
    place = pipeline.Workplace(tmp_path / "work", tmp_path / "resources")
    place.root.mkdir()
    place.demos.symlink_to(demo_dir)
    (place.root / "tokenizer.model").write_bytes(words.read_bytes())
    vision = dataclasses.replace(dims.vision, stem=None, patch=32)
    patches = dataclasses.replace(dims, vision=vision, vocab_size=tokenizer.size(words))
    stuff = dataclasses.replace(pipeline.material(place), dims=patches)
    monkeypatch.setattr(pipeline, "material", lambda place, stem: stuff)
    monkeypatch.setitem(pipeline.RECIPES, pipeline.BASE, Recipe(steps=2, batch=4, threads=1))
    played = []

    def play(base, draft_dir, **choices):
        played.append(weights.load_base(base))
        rows = range(10)
        return [
            dict(task=0, scene=0, init_state=i, success=i < 4, steps=9, rounds=1, draft_rounds=0, accepted=0)
            for i in rows
        ]

    monkeypatch.setattr(comparison.evaluate, "evaluate", play)
    figures = comparison.trial(place)
    ((tensors, seen, _),) = played
    assert seen == patches and tensors["vision.patch_embed.weight"].shape[0] == 32 * 32 * 3
    assert (figures["all"]["k"], figures["all"]["n"]) == (4, 10)
    assert json_load(tmp_path / "work/comparison/patch_trial.json")["summary"] == figures
