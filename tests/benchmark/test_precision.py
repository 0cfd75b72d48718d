"""Number formats and runtimes: what is measured of each, and that an error which was made is found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from policies.fluid import made as fluids
from policies.lift_vla import test_policy as lifts
from policies.pi0.conftest import artifact, tokenizer_model  # noqa: F401

from flashtrail.base.errors import UserError
from flashtrail.benchmark import precision, variants
from flashtrail.policies.parts.errors import OptionError
from flashtrail.policies.parts.formats import PRECISIONS
from flashtrail.policies.parts.precision import lowered, rounded
from flashtrail.policies.pi0.policy import FlashPolicy
from flashtrail.rollouts import recordings
from flashtrail.rollouts.recordings import Recorded
from flashtrail.simulators.observation import Observation
from flashtrail.tables import measurements

MADE = {"lift_vla": lifts.made, "fluid": fluids.made}
PROMPT = {"lift_vla": "Lift the red cube", "fluid": "open the middle drawer of the cabinet"}
HALVES = ("bfloat16", "float16")


def recorded(prompt: str, episodes: int = 6, queries: int = 2) -> list[Recorded]:
    rng = np.random.default_rng(0)
    state = np.array([0.1, 0.0, 0.9, 3.1, 0.1, 0.0, 0.04, -0.04])
    return [
        Recorded((0, episode), Observation(*rng.integers(0, 256, (2, 224, 224, 3), np.uint8), state, prompt))
        for episode in range(episodes)
        for _ in range(queries)
    ]


def error(policy, reference, seen) -> float:
    pairs = zip(precision.asked(policy, seen), precision.asked(reference, seen), strict=True)
    return max(float(np.abs(own - other).max()) for (own, _), (other, _) in pairs)


@pytest.mark.parametrize("family", MADE)
def test_each_format_is_another_network_and_a_near_one(family, tmp_path) -> None:
    made = variants.variants(MADE[family](tmp_path / "artifact"))
    assert list(made)[: len(PRECISIONS)] == list(PRECISIONS)
    seen = recorded(PROMPT[family])
    reference = made["float32"]()
    assert reference.metadata["dtype"] == "float32" and error(made["float32"](), reference, seen) == 0
    for name in PRECISIONS[1:]:
        policy = made[name]()
        assert policy.metadata["dtype"] == name == policy.metadata["settings"]["precision"]
        assert policy.metadata["parameters"] == reference.metadata["parameters"]
        assert 0 < error(policy, reference, seen) < 0.1, name
    assert any(weight.dtype == torch.bfloat16 for weight in made["bfloat16"]().model.parameters())


def test_weights_are_rounded_to_255_levels_of_their_own_channel() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.25], [100.0, 3.0, -7.0]])
    found = rounded(weight, [1])
    scale = torch.tensor([[1.0], [100.0]]) / 127
    assert torch.allclose(found / scale, (found / scale).round(), atol=1e-4)
    assert (found - weight).abs().le(scale / 2 + 1e-6).all() and not torch.equal(found, weight)


def test_8_bit_products_are_of_every_linear_layer_and_float32_is_left_as_it_is() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    assert lowered(model, "float32") is model
    kinds = {type(layer).__module__ for layer in lowered(model, "int8_dynamic")}
    assert kinds == {"torch.ao.nn.quantized.dynamic.modules.linear"} and type(model[0]) is torch.nn.Linear
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert 0 < float((lowered(model, "int8_dynamic")(x) - model(x)).abs().max()) < 0.1


def test_an_unknown_precision_is_one_line(tmp_path) -> None:
    with pytest.raises(OptionError, match="precision 'int4' is none of float32, bfloat16") as refused:
        fluids.served(fluids.made(tmp_path / "artifact"), {"precision": "int4"})
    assert "\n" not in str(refused.value)


def test_pi0s_own_products_are_near_float32_in_each_format(artifact) -> None:  # noqa: F811
    made = variants.variants(artifact[0])
    seen = recorded("open the drawer", 2, 1)
    reference = made["float32"]()
    assert isinstance(reference, FlashPolicy) and error(made["float32_plain"](), reference, seen) < 1e-4
    for name in ("bfloat16", "float16", "int8_dynamic", "int8_weight"):
        assert 0 < error(made[name](), reference, seen) < 1.0, name
    stages = made["int8_dynamic"]().engine.runtime._stages
    assert isinstance(stages._w.expert[0].gate_up, variants.Int8Weight) and len(stages._w.expert[0].gate_up.packed) == 2
    with pytest.raises(NotImplementedError, match="of weights in 8 bits"):
        torch.add(stages._w.expert[0].o, 1)


def test_products_in_8_bits_are_those_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 16, generator=generator), torch.randn(2, 16, 8, generator=generator)
    one, two = variants.Int8Weight.of(weight[0].clone()), variants.Int8Weight.of(weight.clone())
    near = {"rtol": 0, "atol": 0.2}
    out = torch.empty(2, 5, 8)
    both = torch.bmm(x.expand(2, 5, 16), two, out=out)
    torch.testing.assert_close(both, torch.stack([x @ w for w in weight]), **near)
    torch.testing.assert_close(torch.addmm(torch.ones(8), x, one), 1 + x @ weight[0], **near)
    torch.testing.assert_close(torch.ones(5, 8).addmm_(x, one), 1 + x @ weight[0], **near)
    assert float((x @ one - x @ weight[0]).abs().max()) > 0


def test_an_error_that_was_made_is_found_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=(5, 7)) for _ in range(20)]
    moved = [part + np.array([0.1] * 6 + [0.0]) for part in reference]
    moved[3] = moved[3] * np.array([1.0] * 6 + [-1.0])  # one query's gripper is told the other way
    moved[7] = moved[7] + np.array([0.4] + [0.0] * 6)
    episodes = [(0, place // 2) for place in range(20)]
    found = {figure.name: figure for figure in precision.errors_of("bfloat16", "b", moved, reference, episodes)}
    assert found["bfloat16_max"].value == pytest.approx(0.5) and found["bfloat16_max"].low is None
    rms = found["bfloat16_rms"]
    exact = np.sqrt((99 * 6 * 0.01 + 5 * (0.25 - 0.01) + 6 * 0.01) / 600)
    assert rms.value == pytest.approx(exact) and rms.low < exact < rms.high
    own = np.sqrt(np.mean([(part[:, :-1] ** 2).mean() for part in reference]))
    assert found["bfloat16_relative"].value == pytest.approx(exact / own)
    flips = found["bfloat16_flips"]
    assert flips.value == pytest.approx(5 / 100) and flips.n == 100 and flips.of == "actions of 10 episodes"


def test_a_speed_up_is_that_within_each_repetition() -> None:
    """The machine slows down tenfold half way: the quotient does not see it."""
    slow = [1.0, 1.1, 0.9, 10.0, 11.0, 9.0]
    found = precision.faster("onnx", "t", [2 * ms for ms in slow], slow)
    assert found.value == pytest.approx(2.0) and (found.n, found.of) == (6, "repetitions")
    assert precision.faster("onnx", "t", [2.0, 4.0], [1.0, 1.0]).low is None
    wide = precision.faster("onnx", "t", [2.0, 4.0, 2.0, 4.0, 2.0, 4.0], [1.0] * 6)
    assert 2 < wide.low < wide.value < wide.high < 4 and wide.value == pytest.approx(8**0.5)


def test_what_cannot_be_had_is_said_and_the_rest_is_measured(tmp_path, monkeypatch, capsys) -> None:
    path, out = fluids.made(tmp_path / "field"), tmp_path / "precision_field.json"
    recordings.save(recorded(PROMPT["fluid"]), tmp_path / "seen.npz")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    words = ["--artifact", str(path), "--observations", str(tmp_path / "seen.npz"), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["precision", *words, "--repetitions", "5", "--rounds", "2"])
    precision.main()
    found = measurements.read(out)
    assert "torch.compile: not measured, no C++ compiler no-such-compiler" in found.method
    assert "float32, ONNX Runtime: not measured, ONNX Runtime is not installed: make setup" in found.method
    assert torch.backends.cpu.get_cpu_capability() in found.method and found.title.endswith("field")
    names = {figure.name for figure in found.figures}
    assert {"float32_p50", "bfloat16_speedup", "int8_dynamic_flips", "control_relative"} <= names
    assert not {name for name in names if name.startswith(("compile", "onnx"))} and "control_speedup" not in names
    assert "bfloat16_speedup: " in capsys.readouterr().out


def test_products_have_a_speed_up_and_an_error_in_each_format(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(precision, "SIZES", {"tiny": (4, 32, 16)})
    found = {figure.name: figure for figure in precision.products(5)}
    assert set(found) == {f"tiny_{name}_{what}" for name in precision.FORMATS[1:] for what in ("speedup", "relative")}
    sizes = [found[f"tiny_{name}_relative"].value for name in ("float16", "bfloat16", "int8_dynamic")]
    assert 1e-5 < sizes[0] < sizes[1] < sizes[2] < 0.1


@pytest.mark.parametrize("words", [[], ["--products", "--artifact", "x"], ["--artifact", "x"]])
def test_a_command_line_that_does_not_fit_is_one_line(words, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["precision", *words, "--out", "x.json"])
    with pytest.raises(UserError, match="give --artifact and --observations, or --products alone"):
        precision.main()


def test_a_family_without_number_formats_is_named(tmp_path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"family": "scripted"}))
    with pytest.raises(UserError, match="the family scripted has no number formats: take one of pi0, lift_vla, fluid"):
        variants.variants(tmp_path)


@pytest.mark.parametrize("family", MADE)
@pytest.mark.parametrize("name", ["onnx", "onnx_int8"])
def test_onnx_runtime_gives_the_same_actions(family, name, tmp_path) -> None:
    made = variants.variants(MADE[family](tmp_path / "artifact"))
    seen = recorded(PROMPT[family], 3, 2)
    found = error(made[name](), made["float32"](), seen)
    assert found < 1e-4 if name == "onnx" else 0 < found < 0.2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_gives_the_same_actions(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    made = variants.variants(MADE["lift_vla"](tmp_path / "artifact"))
    counters.clear()
    policy = variants.tried(made["compile"], recorded(PROMPT["lift_vla"])[0].observation.request())
    assert not isinstance(policy, str), policy
    assert error(policy, made["float32"](), recorded(PROMPT["lift_vla"], 2, 1)) < 1e-4
    assert counters["stats"]["unique_graphs"] >= len(variants.STAGES["lift_vla"]), "each stage is compiled, and asked"
