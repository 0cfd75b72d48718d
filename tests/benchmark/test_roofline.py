"""The roofline's tables: batches cost what their observations cost, and what batching can give is bounded."""

import pytest

from flashtrail.benchmark import roofline
from flashtrail.benchmark.costs import H200, L40S, stage_costs
from flashtrail.benchmark.presets import preset

SHAPE = {"views": 2, "prompt": 20, "width": 2}


@pytest.mark.parametrize("policy", ["pi0_libero", "pi0_nano"])
def test_a_batch_computes_for_each_and_reads_weights_once(policy):
    dims, draft = preset(policy)
    one, eight = (stage_costs(dims, draft, **SHAPE, batch=n) for n in (1, 8))
    cache = 2 * dims.expert.depth * (2 * dims.vision.tokens + 20) * dims.kv_width * 2
    caches = {"denoise": dims.num_steps * cache, "verify": cache}
    for stage, cost in one.items():
        assert eight[stage].flops == pytest.approx(8 * cost.flops)
        assert eight[stage].bytes == pytest.approx(cost.bytes + 7 * caches.get(stage, 0))


def test_the_gain_of_a_batch_by_hand():
    """pi0_libero on an L40S: encoder and prefill are bound by arithmetic alone already, so their time is eightfold."""
    dims, draft = preset("pi0_libero")
    assert roofline.gain(dims, draft, SHAPE, L40S, "full", 1) == 1
    one, eight = (stage_costs(dims, draft, **SHAPE, batch=n) for n in (1, 8))
    alone = sum(one[s].floor_ms(L40S) for s in ("encoder", "prefill", "denoise"))
    together = 8 * (one["encoder"].floor_ms(L40S) + one["prefill"].floor_ms(L40S)) + eight["denoise"].floor_ms(L40S)
    assert one["prefill"].bound(L40S) == one["encoder"].bound(L40S) == "compute"
    assert roofline.gain(dims, draft, SHAPE, L40S, "full", 8) == pytest.approx(8 * alone / together)
    assert 1.7 < 8 * alone / together < 1.9
    assert roofline.gain(dims, draft, SHAPE, H200, "draft", 8) < roofline.gain(dims, draft, SHAPE, L40S, "draft", 8)


def test_the_tables(capsys):
    assert roofline.main(["--batch", "1", "8", "--device", "mine", "1000", "100"]) == 0
    printed = capsys.readouterr().out.splitlines()
    stages = {line.split()[0]: line.split() for line in printed[3:8]}
    assert set(stages) == {"encoder", "prefill", "denoise", "draft", "verify"}
    # 2,032 GFLOP at 100 TFLOP/s, 6,391 MB at 1 TB/s.
    assert float(stages["prefill"][3]) == pytest.approx(20.3, abs=0.1) and stages["prefill"][4] == "compute"
    assert float(stages["denoise"][3]) == pytest.approx(6.39, abs=0.01) and stages["denoise"][4] == "memory"
    assert [line.split()[-2] for line in printed[-2:]] == ["1.00", "1.00"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "pi0_libre"], "pi0_libero"),
        (["--batch", "0"], "at least 1"),
        (["--device", "mine", "fast", "1"], "two numbers"),
        (["--device", "mine", "0", "1"], "more than 0"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, message):
    assert roofline.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
