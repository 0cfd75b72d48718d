"""The gate between conversion and results: a right artifact passes, a wrong one is told by the stage that it breaks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.conftest import FACTS, ORIGIN, save_tree

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, facts, orbax, parity
from flashtrail.policies.pi0 import expert, gemma, lean, lean_weights, verify, vision
from flashtrail.policies.pi0.dims import PI0_LIBERO
from flashtrail.policies.pi0.lean_weights import time_biases

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def expected(artifacts: Path, whole_source: Path) -> parity.Values:
    """The values of the source model, rounded as the artifact is; computed once a dtype."""
    manifest = artifact.read_manifest(artifacts / "base")
    return parity.source_values(whole_source, parity.fixed_inputs(manifest["dims"]), manifest["dtype"])


def test_a_converted_checkpoint_passes(artifacts: Path, whole_source: Path, tmp_path: Path) -> None:
    report = tmp_path / "parity.json"
    result = parity.check_parity(whole_source, artifacts / "base", artifacts / "draft", report=report)
    assert result["passed"] and result["first_divergence"] is None
    assert json.loads(report.read_text()) == result
    stages = [row["stage"] for row in result["stages"]]
    assert stages[:10] == [
        "norm_stats", "tokenizer", "transforms", "patches", "vision/layer_0", "vision/layer_1", "projector",
        "embedding_table", "language", "prefix_k/layer_0",
    ]  # fmt: skip
    assert [s for s in stages if s.startswith("prefix")] == [
        "prefix_k/layer_0", "prefix_v/layer_0", "prefix/layer_0",
        "prefix_k/layer_1", "prefix_v/layer_1", "prefix/layer_1", "prefix_k/layer_2", "prefix_v/layer_2",
    ]  # fmt: skip
    assert [s for s in stages if s.startswith(("suffix", "expert"))] == [
        "suffix",
        *(f"expert/layer_{i}" for i in range(3)),
    ]
    assert [s for s in stages if s.startswith("denoise")] == [f"denoise/velocity_{i}" for i in range(10)]
    assert [s for s in stages if s.startswith(("draft", "verify"))] == [
        "draft", "verify/velocity_t0.10", "verify/x0_hat_t0.10", "verify/velocity_t0.05", "verify/x0_hat_t0.05",
    ]  # fmt: skip
    assert "decisions" in stages and "rounding/decisions" not in stages
    assert any(s.startswith("rounding/") for s in stages) == (result["dtype"] == "bfloat16")


def test_without_a_draft_only_the_base_is_compared(artifacts: Path, whole_source: Path) -> None:
    result = parity.check_parity(whole_source, artifacts / "base")
    assert result["passed"] and result["draft"] is None
    assert result["stages"][-1]["stage"].removeprefix("rounding/") == "actions"


def rewrite(directory: Path, change: Callable[[Tensors], None]) -> None:
    """Change tensors of an artifact and make its sizes and digests agree again: only parity can find it."""
    from safetensors import safe_open

    manifest = artifact.read_manifest(directory)
    with safe_open(directory / artifact.MODEL, framework="pt") as file:
        tensors = {name: file.get_tensor(name).float().numpy().copy() for name in file.keys()}  # noqa: SIM118
    change(tensors)
    streams = {name: artifact.Stream(x.shape, artifact._whole(np.ascontiguousarray(x))) for name, x in tensors.items()}
    sha256 = artifact.write_safetensors(directory / artifact.MODEL, streams, manifest["dtype"])
    manifest["files"][artifact.MODEL]["sha256"] = sha256
    manifest["digest"] = artifact.artifact_digest(manifest["files"], manifest["dims"])
    provenance.json_dump(manifest, directory / artifact.MANIFEST)


def swap(first: str, second: str, layer: int) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        t[first][layer], t[second][layer] = t[second][layer].copy(), t[first][layer].copy()

    return change


def transpose(name: str, layer: int | None = None) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        at = t[name] if layer is None else t[name][layer]
        at[...] = at.T.copy()

    return change


def add_one(name: str, layer: int) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        t[name][layer] += 1

    return change


def roll(name: str) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        t[name][...] = np.roll(t[name], 1, axis=0)

    return change


def heads_reversed(name: str, layer: int) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        x = t[name][layer]
        t[name][layer] = x.reshape(x.shape[0], -1, 16)[:, ::-1].reshape(x.shape)

    return change


def zero(name: str, layer: int | None = None) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        (t[name] if layer is None else t[name][layer])[...] = 0

    return change


def one(name: str) -> Callable[[Tensors], None]:
    def change(t: Tensors) -> None:
        t[name][...] = 1

    return change


def interleaved(name: str, layer: int) -> Callable[[Tensors], None]:
    """Columns as the official Triton weights have them: the two rotary halves in turns."""

    def change(t: Tensors) -> None:
        x = t[name][layer]
        t[name][layer] = x.reshape(*x.shape[:-1], -1, 2, 8).swapaxes(-1, -2).reshape(x.shape)

    return change


TRAINED = Path(__file__).parents[2] / "resources/pi0_nano"


def test_a_trained_policy_in_bfloat16_passes(tmp_path: Path) -> None:
    """Its flow has sharp modes: steps that start from points of their own were 0.5 of the largest velocity apart."""
    artifact.convert_base(TRAINED, tmp_path / "base", "bfloat16", ORIGIN)
    artifact.convert_draft(TRAINED / "draft.pt", tmp_path / "draft", "bfloat16", tmp_path / "base", ORIGIN)
    result = parity.check_parity(TRAINED, tmp_path / "base", tmp_path / "draft")
    rows = [row for row in result["stages"] if row["stage"].startswith("rounding/denoise")]
    assert len(rows) == 10 and all(row["peak"] < 0.02 for row in rows)


def test_points_are_those_that_a_run_comes_by(artifacts: Path, whole_source: Path, expected: parity.Values) -> None:
    manifest = artifact.read_manifest(artifacts / "base")
    inputs = parity.fixed_inputs(manifest["dims"])
    points = parity.euler_points(expected, inputs.noise)
    np.testing.assert_array_equal(points[0], inputs.noise)
    end = points[-1] - expected["denoise/velocity_9"] / 10
    np.testing.assert_allclose(end, expected["actions"], atol=1e-6)
    again = parity.source_values(whole_source, inputs, manifest["dtype"], points)
    for name, values in expected.items():
        np.testing.assert_allclose(again[name], values, atol=2e-6, err_msg=name)


# fault, artifact, the first stage that it breaks
FAULTS = {
    "vision query transposed": (transpose("vision.layers.q.weight", 1), "base", "vision/layer_1"),
    "vision key and value swapped": (
        swap("vision.layers.k.weight", "vision.layers.v.weight", 0), "base", "vision/layer_0",
    ),
    "vision bias of the last layer left out": (zero("vision.layers.fc2.bias", 1), "base", "vision/layer_1"),
    "patch rows shifted by one": (roll("vision.patch_embed.weight"), "base", "patches"),
    "positions shifted by one": (roll("vision.pos_embed"), "base", "patches"),
    "final norm of the views left out": (one("vision.norm.scale"), "base", "projector"),
    "projector rows shifted by one": (roll("vision.head.weight"), "base", "projector"),
    "embedding rows shifted by one": (roll("embed.weight"), "base", "embedding_table"),
    "embedding of a token that the prompt lacks": (zero("embed.weight", 511), "base", "embedding_table"),
    "key norm skipped": (zero("prefix.layers.input_norm.scale", 1), "base", "prefix_k/layer_1"),
    "rotary layout interleaved": (interleaved("prefix.layers.k.weight", 1), "base", "prefix_k/layer_1"),
    "expert's rotary layout interleaved": (interleaved("expert.layers.q.weight", 1), "base", "expert/layer_1"),
    "expert output transposed heads": (heads_reversed("expert.layers.q.weight", 0), "base", "expert/layer_0"),
    "expert's last norm skipped": (zero("expert.norm.scale"), "base", "denoise/velocity_0"),
    "output columns shifted by one": (roll("action_out_proj.weight"), "base", "denoise/velocity_0"),
    "key norm folded in": (add_one("prefix.layers.input_norm.scale", 0), "base", "prefix_k/layer_0"),
    "prefix output transposed": (transpose("prefix.layers.o.weight", 0), "base", "prefix/layer_0"),
    "prefix gate and up swapped": (
        swap("prefix.layers.gate.weight", "prefix.layers.up.weight", 1), "base", "prefix/layer_1",
    ),
    "prefix query heads reversed": (heads_reversed("prefix.layers.q.weight", 0), "base", "prefix/layer_0"),
    "prefix values only": (roll("prefix.layers.v.weight"), "base", "prefix_v/layer_0"),
    "expert gate and up swapped": (
        swap("expert.layers.gate.weight", "expert.layers.up.weight", 2), "base", "expert/layer_2",
    ),
    "expert norm folded in": (add_one("expert.layers.post_norm.scale", 1), "base", "expert/layer_1"),
    "time MLP's two halves swapped": (
        lambda t: t.update({"time_mlp_in.weight": np.roll(t["time_mlp_in.weight"], 32, axis=0)}), "base", "suffix",
    ),
    "time MLP transposed": (transpose("time_mlp_out.weight"), "base", "suffix"),
    "state rows shifted by one": (roll("state_proj.weight"), "base", "suffix"),
    "draft query transposed": (transpose("q.weight"), "draft", "draft"),
    "draft queries shifted by one": (roll("action_queries"), "draft", "draft"),
}  # fmt: skip


def failed(directory: Path, expected: parity.Values) -> list[str]:
    """The stages of the artifacts below `directory` that are over their tolerance, in order."""
    dims = artifact.read_manifest(directory / "base")["dims"]
    inputs = parity.fixed_inputs(dims)
    points = parity.euler_points(expected, inputs.noise)
    found = parity.artifact_values(directory / "base", directory / "draft", inputs, points)
    return [row["stage"] for row in parity.compare(expected, found, parity.EXACT) if not row["passed"]]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_tensor_is_told_by_its_stage(
    artifacts: Path, expected: parity.Values, tmp_path: Path, fault: str
) -> None:
    change, which, stage = FAULTS[fault]
    broken = Path(shutil.copytree(artifacts, tmp_path / "broken"))
    rewrite(broken / which, change)
    artifact.verify_artifact(broken / which)
    assert failed(broken, expected)[0] == stage


def test_of_two_faults_the_earlier_is_named_and_both_are_in_the_report(
    artifacts: Path, expected: parity.Values, tmp_path: Path
) -> None:
    """The draft does not depend on the output projection, so that its own fault shows beside the first."""
    broken = Path(shutil.copytree(artifacts, tmp_path / "broken"))
    rewrite(broken / "base", zero("action_out_proj.bias"))
    assert failed(broken, expected)[0] == "denoise/velocity_0" and "draft" not in failed(broken, expected)
    rewrite(broken / "draft", zero("action_head.bias"))
    assert failed(broken, expected)[0] == "denoise/velocity_0" and "draft" in failed(broken, expected)


# what no tensor holds: a constant or a rule of the engine itself; the stage that it must be blamed on
RULES = {
    "LayerNorm eps of the official kernels": ((vision, "LAYER_NORM_EPS", 1e-5), "vision/layer_0"),
    "RMSNorm eps": ((gemma, "RMS_EPS", 1e-3), "prefix_k/layer_0"),
    "rotary base": ((gemma, "ROPE_THETA", 20_000.0), "prefix_k/layer_0"),
    "shortest period of the time embedding": ((expert, "MIN_PERIOD", 5e-3), "suffix"),
    "erf GELU": ((vision, "gelu", torch.nn.functional.gelu), "vision/layer_0"),
    # where only the arrangement that serves has it wrong
    "rotary layout of the cache that is served from": ((lean, "pairs", lambda x, heads, head_dim: x), "actions"),
    "GELU of what serves": ((lean, "GELU_SHIFT", 1.01 * lean.GELU_SHIFT), "actions"),
    "verification at the official verifier's times": (
        (lean_weights, "time_biases", lambda w, t: time_biases(w, t.clamp(min=0.10))),
        "verify/velocity_t0.05",
    ),
}


@pytest.mark.parametrize("fault", RULES)
def test_a_wrong_rule_is_told_by_its_stage(
    artifacts: Path, expected: parity.Values, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (module, name, value), stage = RULES[fault]
    monkeypatch.setattr(module, name, value)
    assert failed(artifacts, expected)[0] == stage


def test_the_cases_of_decisions_are_many_and_both_rules_agree(expected: parity.Values) -> None:
    cases = parity.decision_cases(expected)
    theirs, ours = parity.source_decisions(expected, cases), parity.our_decisions(expected, cases)
    assert np.array_equal(theirs, ours)
    accepted, stops, cuts = theirs.T
    assert {0, 12} <= set(accepted) and len(set(accepted)) >= 3
    assert 0 < stops.sum() < len(cases) and 0 < cuts.sum() < len(cases)


@pytest.mark.parametrize("rule", ["radius", "radius_prefix", "gripper_stops", "cut_at_switch"])
def test_a_wrong_rule_of_acceptance_shows_in_the_decisions(
    expected: parity.Values, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    wrong = {
        "radius": ("distances", lambda d, x, dims, steps: np.abs(x[:, :steps, :6] - d[None, :steps, :6]).max(axis=-1)),
        "radius_prefix": ("radius_prefix", lambda distance, tau: int((distance <= tau).all(axis=0).sum()) // 2),
        "gripper_stops": ("gripper_stops", lambda *_: False),
        "cut_at_switch": ("cut_at_switch", lambda out, accepted, *_: accepted),
    }[rule]
    cases = parity.decision_cases(expected)
    monkeypatch.setattr(verify, *wrong)
    rows = parity.compare(
        {"decisions": parity.source_decisions(expected, cases)},
        {"decisions": parity.our_decisions(expected, cases)},
        parity.EXACT,
    )
    assert not rows[0]["passed"]


def test_a_divergence_stops_the_run_after_the_report(artifacts: Path, whole_source: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(artifacts / "base", tmp_path / "base"))
    rewrite(broken, transpose("prefix.layers.o.weight", 0))
    with pytest.raises(UserError, match="first stage that diverges is prefix/layer_0") as caught:
        parity.check_parity(whole_source, broken, report=tmp_path / "parity.json")
    assert "\n" not in str(caught.value)
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["passed"] is False
    assert report["first_divergence"] == "prefix/layer_0"


@pytest.fixture
def stem_source(source: Path) -> Path:
    """The golden model with a convolutional stem in place of its patches, as pi0_nano's tree may be."""
    tree = orbax.read_tree(source / "params")
    rng, img = np.random.default_rng(5), "PaliGemma/img/"
    for name in ("kernel", "bias"):
        del tree[f"{img}embedding/{name}"]
    layers, channels = [(5, 4, 16), (3, 2, 24), (3, 2, 48)], 3
    for i, (kernel, _, out) in enumerate(layers):
        tree[f"{img}stem/conv_{i}/kernel"] = rng.normal(0, 0.2, (kernel, kernel, channels, out)).astype(np.float32)
        tree[f"{img}stem/conv_{i}/bias"] = rng.normal(0, 0.2, out).astype(np.float32)
        channels = out
    tree[img + "pos_embedding"] = tree[img + "pos_embedding"][:, :49]
    save_tree(source, tree)
    described = [{"kernel": k, "stride": s, "channels": c} for k, s, c in layers]
    model = {**FACTS, "stem": {"pool": 2, "layers": described, "act": "relu"}, "num_steps": 5, "delta_actions": False}
    (source / facts.FACTS).write_text(json.dumps(model))
    return source


def test_a_model_with_a_stem_and_other_steps_passes(stem_source: Path, tmp_path: Path) -> None:
    manifest = artifact.convert_base(stem_source, tmp_path / "base")
    assert (manifest["dims"]["num_steps"], manifest["transforms"]) == (5, {"delta_actions": False})
    result = parity.check_parity(stem_source, tmp_path / "base")
    assert sum(row["stage"].startswith("denoise") for row in result["stages"]) == 5
    rewrite(tmp_path / "base", lambda t: t["vision.stem.1.weight"].__imul__(-1))
    with pytest.raises(UserError, match="diverges is patches"):
        parity.check_parity(stem_source, tmp_path / "base")


def test_statistics_of_another_source_are_found_first(source: Path, tmp_path: Path) -> None:
    artifact.convert_base(source, tmp_path / "base", fetched=ORIGIN)
    stats = source / "assets/physical-intelligence/libero/norm_stats.json"
    stats.write_text(stats.read_text().replace("0.138817", "0.138818"))
    with pytest.raises(UserError, match="diverges is norm_stats"):
        parity.check_parity(source, tmp_path / "base")


def test_what_no_stage_computes_with_is_compared_too(artifacts: Path, whole_source: Path, tmp_path: Path) -> None:
    """An artifact's digest is of its files and dims: an edited transform would else serve actions of another kind."""
    base = Path(shutil.copytree(artifacts / "base", tmp_path / "base"))
    manifest = artifact.read_manifest(base)
    provenance.json_dump({**manifest, "transforms": {"delta_actions": False}}, base / artifact.MANIFEST)
    with pytest.raises(UserError, match=r"diverges is transforms \(delta_actions False, the source says True"):
        parity.check_parity(whole_source, base)


def test_a_source_without_room_is_refused_before_it_is_restored(
    artifacts: Path, whole_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity.reference, "load_source", lambda *words: pytest.fail("it was restored"))
    monkeypatch.setattr(parity, "total_memory", lambda: 10**6)
    with pytest.raises(UserError, match=r"billion weights .* takes about \d+ GB of memory, this machine has 0 GB"):
        parity.check_parity(whole_source, artifacts / "base")
    monkeypatch.setattr(parity, "total_memory", lambda: 24 * 10**9)
    with pytest.raises(UserError, match=r"comparing 3\.24 billion weights .* takes about 28 GB .* has 24 GB"):
        parity._check_room(PI0_LIBERO.to_dict())


def test_a_tree_that_orbax_cannot_restore_is_one_line(artifacts: Path, source: Path) -> None:
    """Conversion reads the store itself and does without."""
    (source / "params/_METADATA").unlink()
    with pytest.raises(UserError, match=r"params has no _METADATA, by which Orbax restores a tree"):
        parity.check_parity(source, artifacts / "base")


def test_a_draft_without_its_source_is_one_line(artifacts: Path, source: Path) -> None:
    (source / "draft.pt").unlink()
    with pytest.raises(UserError, match=r"has no draft\.pt to compare .*draft with: fetch"):
        parity.check_parity(source, artifacts / "base", artifacts / "draft")


def test_values_that_are_not_finite_never_pass() -> None:
    ones = np.ones((2, 2), np.float32)
    rows = parity.compare({"a": ones, "b": ones}, {"a": ones * np.nan}, {"default": parity.Tolerance(1e9, 1e9)})
    assert [row["passed"] for row in rows] == [False, False]
    assert rows[1]["note"] == "missing"
    json.dumps(rows, allow_nan=False)


def test_fixed_inputs_are_fixed(artifacts: Path) -> None:
    dims = artifact.read_manifest(artifacts / "base")["dims"]
    first, second = parity.fixed_inputs(dims), parity.fixed_inputs(dims)
    assert np.array_equal(first.views, second.views) and np.array_equal(first.noise, second.noise)
    assert float(np.abs(first.views).max()) <= 1
    assert not np.array_equal(first.noise, parity.fixed_inputs(dims, seed=1).noise)
