"""Each of some thirty small mistakes makes the expected check fail."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from conformance import golden, verification
from conformance.checks import rows
from conformance.golden import DIRECTORY, Golden

from flashtrail.policies.pi0 import (
    draft,
    expert,
    gemma,
    lean,
    lean_weights,
    policy,
    prefix,
    runtime,
    schedule,
    verify,
    vision,
)

G1, G2, G3, G4, G5 = golden.SETS


def assert_caught(sets: tuple[str, ...], *expected: str) -> None:
    """Every expected text begins one of the failing rows; nothing is computed after the last of these."""
    data, names, missing = Golden(DIRECTORY), list[str](), list(expected)
    for row in itertools.chain.from_iterable(rows(data, name) for name in sets):
        if not row.ok:
            names.append(row.name)
            missing = [text for text in missing if not row.name.startswith(text)]
            if not missing:
                return
    raise AssertionError(f"{missing} not among {names[:12]}")


@pytest.fixture
def change_weights(monkeypatch):
    """Change the base (or the draft) as converted, before the checks see it."""

    def change(edit, which: str = "load_base") -> None:
        load = getattr(golden, which)

        def loaded(path):
            w, dims = load(path)
            edit(w)
            return w, dims

        monkeypatch.setattr(golden, which, loaded)

    return change


# --- the model ---


def transpose(name: str, layer: int | None = None):
    def edit(w):
        target = w[name] if layer is None else w[name][layer]
        target.copy_(target.T.clone())

    return edit


@pytest.mark.parametrize(
    ("name", "layer", "row"),
    [
        ("vision.layers.q.weight", 1, "G1 obs0 out_img_emb_base_0_rgb"),
        ("prefix.layers.o.weight", 0, "G1 obs0 out_prefix_v, packed"),
        ("time_mlp_out.weight", None, "G1 obs0 out_suffix_emb_at_noise"),
        ("action_out_proj.weight", None, "G1 obs0 out_v_at_noise, packed, torch"),
        ("state_proj.weight", None, "G5 case0 out_x0_hat, torch"),
    ],
)
def test_one_transposed_matrix(change_weights, name, layer, row):
    change_weights(transpose(name, layer))
    assert_caught((G1, G5), row, "G1 checkpoint and checkpoint_value_suffix identical")


def test_one_transposed_matrix_of_the_draft(change_weights):
    change_weights(transpose("o.weight"), "load_draft")
    assert_caught((G4, G5), "G4 tiny_prefix out_actions", "G5 e2e0: out_x0_draft")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("prefix.layers.post_norm.scale", "G1 obs0 out_prefix_v, packed"),
        ("expert.layers.input_norm.scale", "G1 obs0 out_v_at_noise, packed, torch"),
        ("expert.norm.scale", "G1 obs0 out_v_at_noise, packed, torch"),
    ],
)
def test_one_scale_taken_for_one_plus_scale(change_weights, name, row):
    change_weights(lambda w: w[name].sub_(1.0))
    assert_caught((G1,), row)


def test_one_scale_folded_twice(change_weights):
    change_weights(lambda w: w["prefix.layers.input_norm.scale"][0].add_(1.0))
    assert_caught((G1,), "G1 obs0 out_prefix_k, packed")


def test_layer_norm_epsilon_of_the_triton_kernels(monkeypatch):
    monkeypatch.setattr(vision, "LAYER_NORM_EPS", 1e-5)
    assert_caught((G1,), "G1 obs0 out_img_emb_base_0_rgb", "G1 obs2 out_img_emb_left_wrist_0_rgb")


def test_rms_norm_epsilon(monkeypatch):
    monkeypatch.setattr(gemma, "RMS_EPS", 1e-5)
    assert_caught((G1,), "G1 obs0 out_v_at_noise, packed, torch")


@pytest.mark.parametrize(("stack", "row"), [("prefix", "out_prefix_v, packed"), ("expert", "out_v_at_noise")])
def test_gate_and_up_exchanged(change_weights, stack, row):
    def edit(w):
        gate, up = f"{stack}.layers.gate.weight", f"{stack}.layers.up.weight"
        w[gate], w[up] = w[up], w[gate]

    change_weights(edit)
    assert_caught((G1,), f"G1 obs0 {row}")


def test_interleaved_rotary_layout(monkeypatch):
    def interleaved(x, tables):
        cos, sin = tables
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)

    for module in (gemma, prefix, draft):
        monkeypatch.setattr(module, "apply_rope", interleaved)
    assert_caught((G1, G4), "G1 obs0 out_prefix_k, masked", "G1 obs0 out_v_at_noise", "G4 tiny_prefix out_actions")


def test_exact_gelu_instead_of_tanh(monkeypatch):
    for module in (gemma, vision, draft):
        monkeypatch.setattr(module, "gelu", torch.nn.functional.gelu)
    assert_caught((G1, G4), "G1 obs0 out_img_emb_base_0_rgb", "G4 random_b3 out_actions")


def test_time_embedding_cosine_first(monkeypatch):
    embed = expert.time_embedding
    monkeypatch.setattr(expert, "time_embedding", lambda t, width: embed(t, width).roll(width // 2, dims=-1))
    assert_caught((G1,), "G1 time_embedding emb_1024_jax_f32", "G1 obs0 out_v_at_noise, packed, torch")


def test_one_euler_step_too_few(monkeypatch):
    denoise = lean.denoise

    def shorter(w, *rest):
        return denoise(replace(w, dims=replace(w.dims, num_steps=w.dims.num_steps - 1)), *rest)

    monkeypatch.setattr(lean, "denoise", shorter)
    assert_caught((G1,), "G1 obs0 out_actions_normalized, torch")


def test_actions_that_do_not_see_the_state(monkeypatch):
    def blind(valid, length, rows, device):
        allowed = suffix_mask(valid, length, rows, device)
        allowed[:, 1:, length] = False
        return allowed

    suffix_mask = expert.suffix_mask
    monkeypatch.setattr(expert, "suffix_mask", blind)
    assert_caught((G1,), "G1 obs0 out_v_at_noise, packed, torch")


# --- the same mistakes where only the engine that serves makes them (lean.py), not the reference functions ---


def test_rotary_halves_taken_for_pairs(monkeypatch):
    monkeypatch.setattr(lean_weights, "pairs", lambda columns, heads, head_dim: columns)
    assert_caught((G1, G5), "G1 obs0 out_prefix_k, packed", "G5 case0 out_x0_hat, torch", "G5 case0 x0_draft")


def test_a_cache_whose_rotary_halves_are_taken_for_pairs(monkeypatch):
    monkeypatch.setattr(lean, "pairs", lambda columns, heads, head_dim: columns)
    assert_caught((G1, G5), "G1 obs0 out_actions_normalized, torch", "G5 case0 out_x0_hat, torch")


def test_exact_gelu_where_the_engine_serves(monkeypatch):
    def exact(g, shift, out):
        x = g / lean_weights.GELU_GAIN
        return out.copy_(torch.nn.functional.gelu(x)).mul_(lean_weights.GELU_GAIN)

    monkeypatch.setattr(lean, "gated", exact)
    assert_caught((G1, G5), "G1 obs0 out_prefix_emb, packed", "G1 obs0 out_actions_normalized", "G5 case0 x0_draft")


def test_norm_epsilon_where_the_engine_serves(monkeypatch):
    norm = lean.Rows.norm

    def larger(self):  # 1e-5
        width = self.x.shape[1]
        self.stream[:, width:] = (1e-5 * width / lean.PAD) ** 0.5
        return norm(self)

    monkeypatch.setattr(lean.Rows, "norm", larger)
    assert_caught((G1,), "G1 obs0 out_prefix_v, packed", "G1 obs0 out_actions_normalized, torch")


def test_a_state_that_takes_no_position(monkeypatch):
    turns = lean._turns

    def late(rotary, valid, start, count):
        found = turns(rotary, valid, start, count).clone()
        found[:, 1:] = found[:, :-1].clone()
        return found

    monkeypatch.setattr(lean, "_turns", late)
    assert_caught((G5,), "G5 case0 out_x0_hat, torch")


def test_a_scale_left_out_where_the_engine_serves(monkeypatch):
    monkeypatch.setattr(lean_weights, "_scaled", lambda weight, scale: len(scale) ** 0.5 * weight.double())
    assert_caught((G1, G5), "G1 obs0 out_prefix_k, packed", "G5 case0 out_x0_hat, torch")


def test_views_exchanged(monkeypatch):
    monkeypatch.setattr(golden, "VIEWS", golden.VIEWS[::-1])
    assert_caught((G1,), "G1 obs0 out_prefix_emb, packed")


# --- the algorithm ---


@pytest.mark.parametrize("by", [-1, 1])
def test_accepted_prefix_off_by_one(monkeypatch, by):
    radius_prefix = verify.radius_prefix
    monkeypatch.setattr(verify, "radius_prefix", lambda distance, tau: max(0, radius_prefix(distance, tau) + by))
    assert_caught((G2, G5), "G2 radius out_accepted", "G2 trace000", "G5 case0 semantics", "G5 e2e1: state machine")


def test_a_radius_that_is_not_inclusive(monkeypatch):
    def exclusive(distance, tau):
        return min(verify.leading_run(row < tau) for row in distance)

    monkeypatch.setattr(verify, "radius_prefix", exclusive)
    assert_caught((G2,), "G2 radius out_accepted")


def test_the_gripper_counted_as_distance(monkeypatch):
    monkeypatch.setattr(verify, "GRIPPER", 7)
    assert_caught((G2,), "G2 radius out_dist")


def test_a_threshold_on_the_lower_side(monkeypatch):
    def switches(gripper, previous, threshold):
        return plain(-gripper, -previous, -threshold)

    plain = verify.switches
    monkeypatch.setattr(verify, "switches", switches)
    assert_caught((G2,), "G2 truncate", "G2 detect")


def test_the_fresh_cache_in_place_of_the_stale_one(monkeypatch):
    run = runtime.TorchRuntime.settle

    def fresh(self, snapshot, placed, *rest):
        return run(self, self.prefill(self.encode(placed)), placed, *rest)

    monkeypatch.setattr(runtime.TorchRuntime, "settle", fresh)
    assert_caught((G5,), "G5 case0 out_x0_hat, torch", "G5 e2e0: out_x0_hat")


def test_the_official_time_bias_where_the_true_time_is_due(monkeypatch):
    official = verification.FlashSettings
    monkeypatch.setattr(
        verification, "FlashSettings", lambda **flags: official(**(flags | {"official_time_bias": True}))
    )
    assert_caught((G5,), "G5 case0 out_x0_hat, torch")


def test_a_scheduling_draft_round_that_replaces_the_chunk(monkeypatch):
    after_draft = schedule.after_draft

    def replacing(state, verdict, settings):
        after = after_draft(state, verdict, settings)
        return schedule.replace(after, chunk=verdict.chunk, ptr=0)

    monkeypatch.setattr(schedule, "after_draft", replacing)
    assert_caught((G2,), "G2 trace000 cli_defaults: state machine")


def test_a_full_round_that_forgets_its_window(monkeypatch):
    after_full = schedule.after_full
    monkeypatch.setattr(schedule, "after_full", lambda s, c, k: schedule.replace(after_full(s, c, k), pending=None))
    assert_caught((G2,), "G2 trace011 window3: state machine")


def test_a_reply_key_too_many(monkeypatch):
    monkeypatch.setattr(policy, "_ALWAYS_ZERO", (*policy._ALWAYS_ZERO, "extra"))
    assert_caught((G3,), "G3 episode round0 policy_timing keys")
