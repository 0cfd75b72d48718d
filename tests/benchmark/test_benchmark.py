"""The benchmark: turns, percentiles, shares, ratios, targets, the official checkout beside it, and its command line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.benchmark import __main__ as command
from flashtrail.benchmark import compiled, device, official, record
from flashtrail.benchmark.costs import Ceiling, Cost
from flashtrail.benchmark.workload import EngineRounds, Workload, random_runtime, take_turns
from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.dims import PRESETS, DraftDims
from flashtrail.policies.pi0.settings import FlashSettings

STAND_IN = Path(__file__).parent / "stand_in"
NANO = PRESETS["pi0_nano"]


@pytest.fixture(scope="module")
def workload():
    return Workload(NANO, DraftDims.like(NANO), views=2, prompt=7)


@pytest.fixture(scope="module")
def runtime(workload):
    return random_runtime(workload, "cpu", "float32", "auto", FlashSettings())


@pytest.fixture
def checkout():
    """The stand-in, imported anew, and gone again afterwards."""
    yield STAND_IN
    for name in [n for n in sys.modules if n == "scripts" or n.startswith("scripts.")]:
        del sys.modules[name]


class Noted:
    """A contender whose times are the number of the turn."""

    def __init__(self, name, routes, log):
        self.name, self.routes, self.log = name, routes, log

    def round(self, route, index):
        self.log.append((self.name, route))
        return {"round": float(index)}


def test_contenders_take_turns_and_warm_up_is_not_kept():
    log: list = []
    both = [Noted("a", ("full", "draft"), log), Noted("b", ("full",), log)]
    found = take_turns(both, rounds=3, warmup=2)
    assert found == {
        ("a", "full"): {"round": [0.0, 1.0, 2.0]},
        ("a", "draft"): {"round": [0.0, 1.0, 2.0]},
        ("b", "full"): {"round": [0.0, 1.0, 2.0]},
    }
    assert len(log) == 5 * 3
    firsts = {log[3 * turn][0] for turn in range(5)}
    assert firsts == {"a", "b"}


def test_random_weights_have_the_shapes_of_the_policy_and_a_sane_scale():
    found = weights.init_base(NANO, 0, "cpu", "bfloat16")
    assert {k: tuple(v.shape) for k, v in found.items()} == {k: tuple(s) for k, s in weights.base_shapes(NANO).items()}
    wide = found["prefix.layers.o.weight"]
    assert wide.dtype == torch.bfloat16 and wide.float().std().item() == pytest.approx(wide.shape[-2] ** -0.5, rel=0.05)


def test_both_routes_of_the_engine_are_forced_and_stages_add_up(runtime, workload):
    # The defaults would make full rounds of drafts that random weights reject.
    rounds = EngineRounds(runtime, workload, FlashSettings(periodic_full_every_n_draft_rounds=1))
    samples = take_turns([rounds], rounds=3, warmup=1)
    assert set(samples["engine", "full"]) == {"encoder", "prefill", "denoise", "round", "call"}
    assert set(samples["engine", "draft"]) == {"encoder", "draft", "verify", "round", "call"}
    for times in samples.values():
        stages = [v for k, v in times.items() if k not in ("round", "call")]
        for at in range(3):
            assert 0 < sum(s[at] for s in stages) <= times["round"][at] <= times["call"][at]


@pytest.mark.parametrize("in_pieces", [False, True])
def test_what_is_compiled_computes_what_the_engine_does(runtime, workload, in_pieces):
    """With no compiler in between: the functions that torch.compile is given are the two rounds."""
    settings = FlashSettings()
    plain = compiled.CompiledRounds(runtime, workload, lambda function, **options: function, in_pieces)
    for at in (0, 1):
        placed, noise = runtime.place(workload.inputs()[at]), workload.noises()[at]
        embeddings = runtime.encode(placed)
        cache = runtime.prefill(embeddings)
        chunk = runtime.denoise(cache, placed, noise)
        np.testing.assert_allclose(plain.chunk(at)[0], chunk, rtol=0, atol=5e-6)
        draft = runtime.draft(embeddings, placed)
        verdict = runtime.settle(cache, placed, draft, noise, settings, 0.0)[2]
        np.testing.assert_allclose(plain.verdict(at).chunk, verdict.chunk, rtol=0, atol=5e-6)
        assert plain.verdict(at).accepted == verdict.accepted
    assert plain.routes == ("full", "draft") and set(plain.round("draft", 0)) == {"round"}


def test_no_compiler_is_said(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert "no C++ compiler" in compiled.why_not("cpu")
    assert compiled.why_not("cuda") is None

    def broken(function, **options):
        def fail(*words):
            raise RuntimeError("CppCompileError: exit status 1\nlong story")

        return fail

    with pytest.raises(UserError, match=r"torch.compile failed \(CppCompileError: exit status 1\); use --no-compiled"):
        work = Workload(NANO, DraftDims.like(NANO), 1, 3)
        engine = random_runtime(work, "cpu", "float32", "torch", FlashSettings())
        compiled.CompiledRounds(engine, work, compiler=broken)


# --- what is made of the times ---


def test_percentiles_have_intervals_and_p99_needs_rounds():
    few, many = (record.summary(list(np.linspace(1, 2, n))) for n in (100, 2000))
    assert few["n"] == 100 and few["p99"] is None and many["p99"]["value"] == pytest.approx(1.99, abs=1e-3)
    for name, q in record.PERCENTILES.items():
        low, high = many[name]["interval"]
        assert low < 1 + q < high and high - low < 0.05
    assert many["max"] == 2.0 and many["mean"] == pytest.approx(1.5)


@pytest.mark.parametrize(("name", "least"), [("p90", 36), ("p95", 72), ("p99", 500)])
def test_a_percentile_that_so_few_rounds_cannot_bound_is_withheld(name, least):
    """From the binomial itself: the largest of n rounds is below the quantile q with probability q^n."""
    q = record.PERCENTILES[name]
    assert name == "p99" or q**least <= 0.025 < q ** (least - 1)
    times = list(np.linspace(1, 2, least))
    assert record.summary(times)[name]["interval"] is not None
    assert record.summary(times[1:])[name] is None and record.summary(times[1:])["p50"] is not None


@pytest.mark.parametrize("n", [40, 500, 2000])
def test_intervals_are_order_statistics_of_the_binomial(n):
    """Interval [x_(i), x_(j)] holds where i <= Bin(n, q) < j: at least 95 %, and no end could be moved inwards."""
    from scipy.stats import binom

    for name, q in record.PERCENTILES.items():
        found = record.summary([float(i) for i in range(1, n + 1)])[name]
        if found is None:
            continue
        low, high = (int(end) for end in found["interval"])
        below, above = binom.cdf(low - 1, n, q), binom.sf(high - 1, n, q)
        assert max(below, above) <= 0.025 < min(binom.cdf(low, n, q), binom.sf(high - 2, n, q))


def test_shares_are_of_the_sum_of_floors():
    ceiling = Ceiling("x", bytes_per_s=1e9, flops_per_s=1e12)
    stages = {"encoder": Cost(1e9, 1e6), "prefill": Cost(1e9, 2e6), "denoise": Cost(1e9, 4e6)}
    assert record.floors(stages, ceiling) == {"full": pytest.approx(1.0 + 2.0 + 4.0)}
    samples = {("engine", "full"): {"round": [14.0] * 40}}
    assert record.judged(samples, stages, ceiling, "cpu")["demands"]["denoise"]["bound"] == "memory"
    assert record.judged(samples, stages, None, "cpu")["demands"]["denoise"] == {"flops": 1e9, "bytes": 4e6}
    found = record.comparisons(samples, {"full": 7.0})
    assert found["full round, share of the roofline"] == {"value": pytest.approx(0.5), "interval": [0.5, 0.5]}


def test_ratios_and_steadiness():
    rng = np.random.default_rng(0)
    full, other = 10 + rng.random(600), 20 + rng.random(600)
    samples = {
        ("engine", "full"): {"round": list(full)},
        ("engine", "draft"): {"round": list(full / 4)},
        ("official", "full"): {"round": list(other)},
    }
    found = record.comparisons(samples, {})
    assert found["full round, engine / official"]["value"] == pytest.approx(10.5 / 20.5, rel=0.02)
    assert found["draft round / full round"]["value"] == pytest.approx(0.25)
    low, high = found["full round, p99 / p50"]["interval"]
    assert low < np.quantile(full, 0.99) / np.quantile(full, 0.5) < high
    assert "draft round, engine / official" not in found
    samples["engine", "full"]["round"] = list(full[:100])
    assert "full round, p99 / p50" not in record.comparisons(samples, {})


def test_a_target_is_met_only_by_its_whole_interval():
    name = "draft round / full round"  # at most 0.5
    aim = {name: record.TARGETS["cpu"][name]}
    seen = {
        "met": {"value": 0.4, "interval": [0.3, 0.5]},
        "not met": {"value": 0.6, "interval": [0.51, 0.7]},
        "open": {"value": 0.5, "interval": [0.4, 0.6]},
    }
    for verdict, found in seen.items():
        assert record.verdicts({name: found}, aim)[0]["verdict"] == verdict
    assert record.verdicts({name: {"value": 0.1, "interval": None}}, aim)[0]["verdict"] == "open"
    assert record.verdicts({}, aim)[0]["verdict"] == "not measured"
    share = "full round, share of the roofline"  # at least 0.6
    share_aim = {share: record.TARGETS["cuda"][share]}
    assert record.verdicts({share: {"value": 0.7, "interval": [0.65, 0.75]}}, share_aim)[0]["verdict"] == "met"
    assert record.verdicts({share: {"value": 0.5, "interval": [0.45, 0.55]}}, share_aim)[0]["verdict"] == "not met"


# --- the device ---


def test_ceilings_are_of_the_right_order():
    found = device.measured_ceiling("cpu", "float32", scale=0.1)
    assert 1e8 < found.bytes_per_s < 1e13 and 1e8 < found.flops_per_s < 1e15


SMI = """#!/bin/sh
echo "$@" >> {log}
echo "A GPU, 570.1, P0, 1980, 2619, 1980, 2619, 301.5, 700.00, 41, 0x0000000000000000, 3"
"""


def test_clocks_and_power_are_read_and_never_set(tmp_path, monkeypatch):
    program, log = tmp_path / "nvidia-smi", tmp_path / "log"
    program.write_text(SMI.format(log=log))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = device.smi("GPU-1")
    assert found["clocks.sm"] == "1980" and found["power.draw"] == "301.5" and found["pstate"] == "P0"
    asked = log.read_text().split()
    assert asked[0].startswith("--query-gpu=") and asked[1:] == ["--format=csv,noheader,nounits", "--id=GPU-1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert device.smi(None) == {}
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert device.smi(None) == {}


# --- the official checkout ---


def test_a_checkout_takes_turns_with_its_own_stage_times(checkout, workload):
    rounds = official.OfficialRounds(checkout, workload, FlashSettings(), "cpu")
    assert rounds.checkout["stand_in"] == "tests/benchmark/stand_in: made-up times, no model"
    samples = take_turns([rounds], rounds=2, warmup=1)
    full, draft = samples["official", "full"], samples["official", "draft"]
    assert {k: v for k, v in full.items() if k != "round"} == {
        "encoder": [1.5] * 2, "prefill": [2.5] * 2, "denoise": [3.5] * 2
    }  # fmt: skip
    assert {k: v for k, v in draft.items() if k != "round"} == {
        "encoder": [1.5] * 2, "draft": [0.5] * 2, "verify": [0.75] * 2
    }  # fmt: skip
    assert all(ms > 0 for ms in full["round"] + draft["round"])
    calls = dict(sys.modules[official.RUNTIME].calls)
    assert calls["full runtime"]["language_embeds"] == (7, 8) and calls["verify"] == (0.10, 0.05)
    head = workload.draft
    assert calls["draft runtime"]["draft_ffn_gate_w"] == (head.mlp_dim, head.width)
    assert str(checkout) not in sys.path


def test_what_is_no_checkout_is_refused(tmp_path, workload, checkout):
    with pytest.raises(UserError, match="is not a checkout of the official code"):
        official.OfficialRounds(tmp_path, workload, FlashSettings(), "cpu")
    file = tmp_path / "scripts/spec/triton/triton_pi0_runtime.py"
    file.parent.mkdir(parents=True)
    file.write_text("import a_package_that_is_not_there\n")
    with pytest.raises(UserError, match="cannot be imported here"):
        official.OfficialRounds(tmp_path, workload, FlashSettings(), "cpu")


def test_a_second_checkout_is_not_taken_for_the_first(tmp_path, workload, checkout):
    official.OfficialRounds(checkout, workload, FlashSettings(), "cpu")
    shutil.copytree(STAND_IN, tmp_path / "other")
    with pytest.raises(UserError, match="another checkout is imported already"):
        official.OfficialRounds(tmp_path / "other", workload, FlashSettings(), "cpu")


def test_the_real_one_wants_cuda_and_its_own_dims(checkout, workload):
    class Real(official.OfficialRounds):
        def _prepare(self, workload):
            raise AssertionError("refused before")

        def _check(self, checkout, workload):
            self.stand_in = None
            super()._check(checkout, workload)

    with pytest.raises(UserError, match="computes on CUDA only and --device is cpu"):
        Real(checkout, workload, FlashSettings(), "cpu")


# --- the command ---


def test_the_command_prints_a_table_and_writes_a_record(tmp_path, capsys, checkout, monkeypatch):
    monkeypatch.setattr(device, "_COPY_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr(device, "_SIDE", {"cpu": 128})
    words = ["--device", "cpu", "--rounds", "12", "--warmup", "1", "--prompt", "5", "--no-compiled"]
    words += ["--official", str(checkout), "--official-time-bias", "--json", str(tmp_path / "out" / "b.json")]
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    for line in (
        "pi0_nano: 2 views, 5 prompt tokens, chunk 50, 10 steps, float32, batch 1",
        "engine: backend torch (auto: the device is a CPU), verification times clamped as the official verifier does",
        "official checkout: a stand-in: tests/benchmark/stand_in: made-up times, no model",
        "engine, full round, n = 12, ms",
        "official, draft round, n = 12, ms",
        "full round, engine / official: ",
        "target draft round / full round <= 0.5: ",
        "target full round, engine / torch.compile <= 1: -, not measured",
    ):
        assert line in shown
    found = provenance.json_load(tmp_path / "out" / "b.json")
    assert found["rounds"]["engine"]["draft"]["verify"]["n"] == 12
    assert found["rounds"]["engine"]["full"]["round"]["p90"] is None and "round, 95 % intervals" not in shown
    found["rounds"]["engine"] = {"full": {"round": record.summary([float(i) for i in range(40)])}}
    assert "round, 95 % intervals: p90 [31.000, 39.000]" in record.text(found)
    found = provenance.json_load(tmp_path / "out" / "b.json")
    assert found["settings"]["official_time_bias"] is True and found["late"] == {}
    assert found["demands"]["denoise"]["flops"] > found["demands"]["verify"]["flops"] > 0
    assert found["comparisons"]["full round, share of the roofline"]["value"] > 0
    words = [sorted(shown_.replace(",", "").split()) for shown_ in (record.text(found), shown)]
    assert words[0] == words[1]  # JSON sorts its keys


@pytest.mark.parametrize(("words", "message"), [
    (["--random", "pi0_nanno"], "no such policy; did you mean 'pi0_nano'"),
    (["--prompt", "49"], "--prompt 49: this policy takes 1 to 48 tokens"),
    (["--views", "3"], "--views 3: this policy takes 1 to 2 views"),
    (["--rounds", "0"], "--rounds and --threads are at least 1"),
    (["--draft", "x"], "--draft needs --artifact"),
    (["--artifact", "nowhere"], "no artifact directory nowhere"),
    (["--backend", "triton"], "backend triton cannot be used"),
    (["--device", "cuda:9"], "has no CUDA device|does not exist"),
])  # fmt: skip
def test_mistakes_are_one_line(words, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match=message) as caught:
        command.main(["--device", "cpu", "--no-ceiling", "--no-compiled", *words])
    assert "\n" not in str(caught.value)


def test_a_busy_machine_is_said(capsys, monkeypatch):
    monkeypatch.setattr(command, "BUSY", -1.0)
    words = ["--device", "cpu", "--rounds", "8", "--warmup", "0", "--no-ceiling", "--no-compiled"]
    assert command.main(words) == 0
    assert "note: the machine was busy (" in capsys.readouterr().out


def test_what_is_captured_after_warm_up_fails_the_benchmark(capsys, monkeypatch):
    monkeypatch.setattr(command, "_late", lambda runtime: {"captures": 2, "compilations": 0})
    words = ["--device", "cpu", "--rounds", "1", "--warmup", "0", "--no-ceiling", "--no-compiled"]
    assert command.main(words) == 1
    assert "after warm-up there were {'captures': 2" in capsys.readouterr().err
