"""The kernels' examination: right ones pass it, and whatever is wrong keeps PyTorch in place and is named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from policies.pi0.kernels.small import DEVICE, SMALL, SMALL_DRAFT, base_weights, draft_weights
from serving.test_cli import write_artifact

from flashtrail.base.errors import UserError
from flashtrail.benchmark import __main__ as command
from flashtrail.benchmark import by_kernel, examine
from flashtrail.policies.pi0.kernels import launch
from flashtrail.policies.pi0.kernels.runtime import TritonRuntime
from flashtrail.policies.pi0.runtime import TorchRuntime

ASKED = [examine.Case(2, 5, 1), examine.Case(1, 1, 1), examine.Case(2, 5, 3)]


@pytest.fixture(scope="module")
def runtimes():
    base, head = base_weights(), draft_weights(seed=1)
    return [cls(base, SMALL, head, SMALL_DRAFT) for cls in (TorchRuntime, TritonRuntime)]


@pytest.fixture(scope="module")
def wider():
    parts = ({k: v.double() for k, v in w.items()} for w in (base_weights(), draft_weights(seed=1)))
    base, head = parts
    runtime = TorchRuntime(base, SMALL, head, SMALL_DRAFT)
    judged = examine.judging(examine.observe(runtime, ASKED, timed=0))
    assert len(judged) == 2
    return judged, examine.observe(runtime, ASKED, judged, timed=0)


@pytest.fixture(scope="module")
def expected(runtimes, wider):
    return wider[0], examine.observe(runtimes[0], ASKED, wider[0], timed=0)


@pytest.fixture(scope="module")
def conclude(wider):
    """The verdict on what PyTorch and the kernels did."""
    return lambda theirs, ours, apart={}: examine.verdict(wider[1], theirs, ours, apart)


@pytest.fixture(scope="module")
def found(runtimes, expected):
    return examine.observe(runtimes[1], ASKED, expected[0], timed=0)


def timed(observed, full, draft):
    return dataclasses.replace(observed, ms={"full": full, "draft": draft})


def test_right_kernels_are_taken_where_they_are_faster(conclude, expected, found):
    backend, why, worst = conclude(timed(expected[1], 9.0, 4.0), timed(found, 5.0, 3.0))
    assert backend == "triton" and "20 rounds agree" in why and "full 5.00 for 9.00 ms" in why
    assert set(worst) == {"chunk", "draft", "x0_hat"} and max(worst.values()) < 1
    accepted = {r.accepted for rounds in found.rounds.values() for s, r in rounds[2:] if s in expected[0]}
    assert len(accepted) > 1  # the radius accepts drafts in part: a decision that ignores it would show


@pytest.mark.parametrize(("full", "draft"), [(9.5, 3.0), (5.0, 4.0)])
def test_right_kernels_that_are_not_faster_are_not_taken(conclude, expected, found, full, draft):
    backend, why, _ = conclude(timed(expected[1], 9.0, 4.0), timed(found, full, draft))
    assert backend == "torch" and "do not make each route shorter" in why


def test_late_compilations_are_a_reason_and_so_is_no_timing(conclude, expected, found):
    late = dataclasses.replace(timed(found, 1, 1), late={"captures": 0, "compilations": 2})
    assert conclude(expected[1], late)[:2] == (
        "torch",
        "after warm-up there were still {'captures': 0, 'compilations': 2}",
    )
    assert conclude(expected[1], found)[0] == "torch"


@pytest.mark.parametrize("name", ["chunk", "draft", "x0_hat"])
@pytest.mark.parametrize("how", ["a hundredth off", "one entry", "not finite"])
def test_a_wrong_value_is_named(conclude, expected, found, name, how):
    """In the last round that has it, of the last case."""
    case = ASKED[-1]
    rounds = list(found.rounds[case])
    at = max(
        i for i, (_, r) in enumerate(rounds) if getattr(r, name) is not None and (name != "chunk" or r.route == "full")
    )
    settings, result = rounds[at]
    value = getattr(result, name).copy()
    if how == "a hundredth off":
        value *= 1.01
    else:
        value.flat[7] = np.nan if how == "not finite" else value.flat[7] + 1
    rounds[at] = settings, dataclasses.replace(result, **{name: value})
    wrong = dataclasses.replace(found, rounds=found.rounds | {case: rounds}, ms={"full": 1, "draft": 1})
    backend, why, _ = conclude(timed(expected[1], 9, 9), wrong)
    assert backend == "torch" and "wrong on this device: " in why
    assert f"{name} is" in why or "not finite" in why


def test_a_wrong_decision_is_named(conclude, expected, found):
    case = ASKED[0]
    rounds = [
        (s, r if r.verdict is None else dataclasses.replace(r, verdict=dataclasses.replace(r.verdict, accepted=2)))
        for s, r in found.rounds[case]
    ]
    wrong = dataclasses.replace(found, rounds={case: rounds})
    assert "decided (2, False, False)" in conclude(expected[1], wrong)[1]


def test_a_kernel_that_is_wrong_by_itself_is_named(conclude, expected, found, monkeypatch):
    right, gate_up = launch.gated_gelu, torch.randn(4, 32, device=DEVICE)
    with by_kernel.watched() as shares:
        launch.gated_gelu(gate_up)
    assert 0 <= shares["gated_gelu"] < 1
    monkeypatch.setattr(launch, "gated_gelu", lambda x, out=None: right(x, out=out) * 1.01)
    with by_kernel.watched() as shares:
        launch.gated_gelu(gate_up)
    assert shares["gated_gelu"] > 1
    backend, why, _ = conclude(timed(expected[1], 9, 9), timed(found, 1, 1), shares)
    assert backend == "torch" and "wrong on this device: gated_gelu (" in why


def test_a_stage_that_leaves_its_last_row_alone_is_found(conclude, runtimes, expected, monkeypatch):
    kernels = runtimes[1]
    settle = kernels.settle_many

    def wrong(*words, **options):
        drafts, hats, verdicts = settle(*words, **options)
        hats = hats.copy()
        hats[:, -1] = hats[:, 0]
        return drafts, hats, verdicts

    monkeypatch.setattr(kernels, "settle_many", wrong)
    seen = examine.observe(kernels, ASKED[-1:], expected[0], timed=0)
    backend, why, _ = conclude(expected[1], seen)
    assert backend == "torch" and "x0_hat" in why


def test_cases_cover_views_prompts_and_batches():
    asked = examine.cases(SMALL, 4)
    assert {c.views for c in asked} == {1, 2} and {c.prompt for c in asked} == {1, 20, SMALL.max_token_len}
    assert [c.together for c in asked][-3:] == [2, 3, 4] and len(set(asked)) == len(asked)
    assert all(c.together == 1 for c in examine.cases(SMALL, 1))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    root = tmp_path_factory.mktemp("artifact")
    base, head = ({k: v.cpu() for k, v in w.items()} for w in (base_weights(), draft_weights(seed=1)))
    return (
        write_artifact(root / "base", "base", SMALL.to_dict(), base, {}),
        write_artifact(root / "draft", "draft", SMALL_DRAFT.to_dict(), head, {}),
    )


def words(artifact, *more):
    device = ["--device", DEVICE, "--dtype", "float32"]
    return ["--artifact", str(artifact[0]), "--draft", str(artifact[1]), *device, *more]


def test_the_examination_of_an_artifact(artifact, tmp_path, capsys):
    assert examine.main(words(artifact, "--json", str(tmp_path / "record.json"))) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert capsys.readouterr().out == f"backend {record['backend']}: {record['why']}\n"
    assert "24 rounds agree with PyTorch's" in record["why"] and len(record["cases"]) == 6
    assert max(record["worst_share_of_leeway"].values()) < 1
    if DEVICE == "cpu":  # the interpreter: right, and nothing to gain
        assert record["backend"] == "torch" and record["why"].endswith("but were not timed")


def test_kernels_that_fail_are_a_verdict(artifact, tmp_path, capsys, monkeypatch):
    def fail(*words):
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(TritonRuntime, "prefill", fail)
    assert examine.main(words(artifact, "--json", str(tmp_path / "record.json"))) == 0
    why = "the kernels failed: RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered"
    shown = capsys.readouterr()
    assert shown.out == f"backend torch: {why}\n" and "in fail" in shown.err  # where, for the log
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["backend"], record["why"], record["device"]) == ("torch", why, DEVICE)


@pytest.mark.skipif(DEVICE != "cpu", reason="of a machine without a device")
def test_where_kernels_cannot_run_pytorch_is_taken_unasked(artifact, capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    assert examine.main(words(artifact)) == 0
    assert capsys.readouterr().out == "backend torch: it needs a CUDA device and device is cpu\n"


def test_without_room_for_a_wider_format_pytorch_stays_and_the_run_goes_on(artifact, capsys, monkeypatch):
    check_device = examine.backends.check_device

    def full(device, dtype, dims=None):
        if dtype == "float64":
            raise examine.DeviceError(f"{device} has 1.0 GB free")
        check_device(device, dtype, dims)

    monkeypatch.setattr(examine.backends, "check_device", full)
    assert examine.main(words(artifact)) == 0
    assert capsys.readouterr().out == "backend torch: nothing to hold the kernels against: cpu has 1.0 GB free\n"


def test_a_missing_artifact_is_one_line(tmp_path):
    words = ["--artifact", str(tmp_path / "nowhere"), "--device", DEVICE, "--dtype", "float32"]
    with pytest.raises(UserError, match="nowhere") as caught:  # commands.run ends with 2 and this line
        command.main(["examine", *words])
    assert "\n" not in str(caught.value)
