"""Memory and time by the number of tokens: peaks of known passes, and slopes, ratios and crossings of known rows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from flashtrail.base import documents, machine
from flashtrail.base.errors import UserError
from flashtrail.benchmark import scaling
from flashtrail.experiment import config
from flashtrail.experiment.sections import Scaling
from flashtrail.tables import measurements, schemas

SMALL = Scaling(pixels=(40,), frames=(3, 24), repeats=5)  # 75 and 600 tokens
SIZES = [(64, 4, 256), (64, 16, 1024), (256, 4, 4096)]


@pytest.fixture(scope="module")
def small():
    return scaling.measured(SMALL, 1, lambda line: None)


# --- measuring ---


def held(work: str, before: str = "None") -> list[int]:
    """Peaks of a pass, in a process of its own as a point has: the heap of a used one has room that malloc takes."""
    code = (
        f"import torch; from flashtrail.benchmark import scaling; scaling.own_maps(); before = {before}; "
        f"print([scaling.peak(lambda: {work}, torch.device('cpu')) for _ in range(5)][1:])"  # the first warms up
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("n", [512, 2048])
def test_the_peak_of_a_known_pass_is_its_matrix_in_every_repeat(n):
    """Whatever was held before, and whatever malloc kept of the pass before."""
    assert held(f"torch.ones({n}, {n})", f"torch.ones({n}, {n})") == pytest.approx([4 * n * n] * 4, rel=0.1)


def test_what_is_freed_within_a_pass_is_counted_once():
    """In the heap a freed matrix is not used again for an aligned one of its size: four of five were counted."""
    assert held("[torch.ones(2048, 2048).sum() for _ in range(5)]") == pytest.approx([4 * 2048**2] * 4, rel=0.1)
    assert held("torch.ones(2048, 2048).exp().exp().exp()") == pytest.approx([8 * 2048**2] * 4, rel=0.1)


def test_small_blocks_of_the_heap_are_counted_again_in_the_next_pass():
    peaks = held("[torch.ones(4 * 1024) for _ in range(1000)]")  # 16 KiB each
    assert peaks == pytest.approx([1000 * 16 << 10] * 4, rel=0.1)


def test_one_real_point_of_each_model_and_mode(small, tmp_path):
    rows, left_out = small
    assert left_out == [] and len(rows) == 4 * 2 * 2 * 5
    schemas.write_table(tmp_path / "rows.parquet", rows, schemas.SCALING)
    assert schemas.read_table(tmp_path / "rows.parquet", schemas.SCALING).to_pylist() == rows
    assert {(row["model"], row["mode"]) for row in rows} == {(m, o) for m in scaling.MODELS for o in scaling.MODES}
    counted = {(row["model"], row["mode"]): row["peak_bytes"] for row in rows if row["tokens"] == 600}
    for (model, mode), peak in counted.items():
        assert peak > 600 * 96 * 4, (model, mode)  # the field itself
    assert counted["fluid_12", "training"] > 2 * counted["fluid_3", "training"] > 2 * counted["fluid_3", "forward"]
    assert counted["vit_fused", "forward"] < counted["vit_plain", "forward"] / 3


@pytest.mark.parametrize("mode", scaling.MODES)
def test_what_is_predicted_of_plain_attention_is_what_it_needs(small, mode):
    point = scaling.Point("vit_plain", mode, 40, 24, 600)
    peaks = [row["peak_bytes"] for row in small[0] if (row["model"], row["mode"], row["tokens"]) == (*point[:2], 600)]
    assert scaling.predicted(point) < np.median(peaks) < scaling.predicted(point) + (30 << 20)  # products' own buffers


def test_plain_attention_that_needs_more_than_half_of_the_free_memory_is_left_out_by_name(monkeypatch):
    needed = scaling.predicted(scaling.Point("vit_plain", "training", 40, 24, 600))
    taken = []
    monkeypatch.setattr(machine, "free_memory", lambda: 2 * needed - 1)
    monkeypatch.setattr(scaling, "_in_process", lambda name, *rest: taken.append(name) or [1] * 5)
    _, left_out = scaling.measured(SMALL, 1, lambda line: None)
    (said,) = left_out
    assert said.startswith("vit_plain training, 40 px x 24 frames (600 tokens): left out")
    assert len(taken) == 2 * 15  # one process for the peaks, one for the times
    monkeypatch.setattr(machine, "free_memory", lambda: 2 * needed)
    assert scaling.measured(SMALL, 1, lambda line: None)[1] == []


def test_a_peak_that_cannot_be_told_is_no_row(monkeypatch):
    monkeypatch.setattr(scaling, "_in_process", lambda name, *rest: [1] * 4 + [0])
    with pytest.raises(UserError, match=r"^fluid_12 forward, 40 px x 3 frames \(75 tokens\): needs too little memory"):
        scaling.measured(SMALL, 1, lambda line: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"^measured.scaling.device: this machine has no CUDA device"):
        scaling.measured(SMALL.model_copy(update={"device": "cuda"}), 1)


def test_a_process_that_is_killed_is_said_in_one_line():
    with pytest.raises(
        UserError, match=r"vit: its process was killed, for want of memory perhaps: take a smaller size"
    ):
        scaling._in_process("vit", signal.raise_signal, signal.SIGKILL)


# --- what is made of the rows ---


def made(seconds, peaks, repeats=5, sizes=SIZES):
    """Rows of all models and modes by formulas of the tokens, with a factor that differs from repeat to repeat."""
    generator = np.random.default_rng(0)
    rows = []
    for mode in scaling.MODES:
        for model in scaling.MODELS:
            for pixels, frames, tokens in sizes:
                point = scaling.Point(model, mode, pixels, frames, tokens)._asdict()
                for repeat in range(repeats):
                    off = np.exp(0.01 * generator.standard_normal())
                    values = {"peak_bytes": round(peaks[model](tokens)), "seconds": seconds[model](tokens) * off}
                    rows.append(point | {"repeat": repeat} | values)
    return rows


def power(factor, exponent):
    return lambda tokens: factor * tokens**exponent


TIMES = {
    "fluid_12": power(4e-5, 1),
    "fluid_3": power(2e-5, 1),
    "vit_plain": power(4e-8, 2),
    "vit_fused": power(2e-8, 2),
}
PEAKS = {"fluid_12": power(4000, 1), "fluid_3": power(4000, 1), "vit_plain": power(16, 2), "vit_fused": power(2000, 1)}


@pytest.fixture(scope="module")
def found():
    return scaling.figures(made(TIMES, PEAKS))


def test_slopes_are_the_exponents(found):
    by_name = {one.name: one for one in found[0]}
    for model, exponent in {"fluid_12": 1, "fluid_3": 1, "vit_plain": 2, "vit_fused": 2}.items():
        one = by_name[f"time_slope_{model}_forward"]
        assert one.low < one.value < one.high and one.value == pytest.approx(exponent, abs=0.01), model
        assert one.n == 15 and 0 < one.high - one.low < 0.02
    memory = by_name["memory_slope_vit_plain_training"]
    assert memory.value == memory.low == memory.high == pytest.approx(2)  # to the byte the same in every repeat


def test_ratios_are_those_of_the_smallest_and_the_largest_size(found):
    values = {one.name: one.value for one in found[0]}
    assert values["memory_below_plain_forward"] == pytest.approx(16 * 4096 / 4000, rel=1e-6)
    assert values["memory_below_plain_training_smallest"] == pytest.approx(16 * 256 / 4000, rel=1e-6)
    assert values["memory_against_fused_training_3_steps"] == pytest.approx(2)
    assert values["time_against_fused_forward"] == pytest.approx(4e-5 / 2e-8 / 4096, rel=0.02)
    assert values["time_against_plain_forward_smallest"] == pytest.approx(4e-5 / 4e-8 / 256, rel=0.02)


def test_crossings_are_where_the_laws_meet_and_none_is_a_sentence():
    found, sentences = scaling.figures(made(TIMES, PEAKS))
    by_name = {one.name: one for one in found}
    assert by_name["tokens_faster_than_plain_forward"].value == pytest.approx(1000, rel=0.02)
    fused = by_name["tokens_faster_than_fused_training"]
    assert fused.low < 2000 < fused.high or fused.value == pytest.approx(2000, rel=0.01)
    assert sentences == []
    slower, faster = TIMES | {"fluid_12": power(1, 1)}, TIMES | {"fluid_12": power(1e-9, 1)}
    for times, words in (
        (slower, "slower at the largest size, 4096 tokens"),
        (faster, "faster at each size from 256"),
    ):
        found, sentences = scaling.figures(made(times, PEAKS))
        assert "tokens_faster_than_plain_forward" not in {one.name for one in found}
        assert len(sentences) == 4 and all(words in one and "field of 12 steps" in one for one in sentences)


def test_a_crossing_that_is_left_again_is_none():
    """The last change of sign counts, not the first."""
    tokens, once = [100, 1000, 10_000], np.array([[1.0], [-1.0], [2.0]])
    assert scaling.crossing(tokens, once)[0] == np.inf
    assert scaling.crossing(tokens, -once)[0] == pytest.approx(10 ** (2 + 1 + 1 / 3))
    assert scaling.crossing(tokens, np.array([[-1.0], [-1.0], [-2.0]]))[0] == 0


def test_common_sizes_are_those_that_were_not_left_out(tmp_path):
    rows = [r for r in made(TIMES, PEAKS) if (r["model"], r["tokens"]) != ("vit_plain", 4096)]
    found, sentences = scaling.figures(rows)
    values = {one.name: one for one in found}
    assert values["memory_below_plain_forward"].value == pytest.approx(16 * 1024 / 4000, rel=1e-6)
    assert "1024 tokens" in values["memory_below_plain_forward"].title
    without = [r for r in rows if r["model"] != "vit_plain"]
    assert not any("plain" in one.name for one in scaling.figures(without)[0])
    method = scaling.method(SMALL, "a machine", ["a point: left out", *sentences])
    measurements.write(tmp_path / "scaling.json", scaling.TITLE, method, found)
    assert "a point: left out" in measurements.read(tmp_path / "scaling.json").method


# --- the config ---


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pixels": [64, 100]}, "measured.scaling: pixels: 100 is not five or more whole patches of 8"),
        ({"pixels": [32]}, "pixels: 32 is not five or more whole patches of 8"),
        ({"pixels": [64], "frames": [4]}, "a slope needs two"),
        ({"frames": [2]}, "measured.scaling.frames.0"),
        ({"repeats": 4}, "measured.scaling.repeats"),
        ({"pixel": [64]}, "did you mean 'pixels'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(values, words):
    shipped = documents.mapping(config.PUBLISHED.parents[2] / "config.yaml")
    assert config.parse(shipped).measured.scaling is None
    assert config.parse(config.merge(shipped, {"measured": {"scaling": {}}})).measured.scaling == Scaling()
    with pytest.raises(UserError) as refused:
        config.parse(config.merge(shipped, {"measured": {"scaling": values}}))
    assert words in str(refused.value)


def test_sizes_ascend_and_cover_256_to_16384_tokens():
    tokens = [size[2] for size in Scaling().sizes]
    assert tokens == sorted(tokens) and (tokens[0], tokens[-1]) == (256, 16384)
