"""Whole rounds on the kernels against PyTorch: routes, decisions and chunks, alone and together, on poisoned memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from policies.pi0.kernels.small import DEVICE, SMALL, SMALL_DRAFT, base_weights, draft_weights

from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.engine import Call, Engine
from flashtrail.policies.pi0.errors import ObservationError
from flashtrail.policies.pi0.kernels import graphs
from flashtrail.policies.pi0.kernels.buffers import Kind
from flashtrail.policies.pi0.kernels.runtime import TritonRuntime
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings

ACCEPT_ALL = FlashSettings(tau_radius=1e6, enable_gripper_verify=False, enable_gripper_post_verify=False)
# With this policy the distances lie between 0.06 and 0.3, and the gripper's values around 0.
CUTS = FlashSettings(tau_radius=0.8, enable_gripper_verify=False)
PARTS = FlashSettings(tau_radius=0.2, gripper_switch_threshold=-50.0)
ALL = FlashSettings(tau_radius=1.0, gripper_switch_threshold=-50.0)
STOPS = FlashSettings(tau_radius=1.0)


@pytest.fixture(autouse=True)
def poison():
    """Memory that nobody wrote holds NaN, and the largest integer: buffers, outputs of kernels, parts of sums."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def inputs(seed, views=2, tokens=5):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (views, 224, 224, 3)).astype(np.float32)
    state = np.pad(rng.standard_normal(8), (0, 24)).astype(np.float32)
    return ModelInputs(images, rng.integers(0, 64, tokens), state)


def noise(seed):
    return np.random.default_rng([9, seed]).standard_normal((6, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def runtimes():
    base, head = base_weights(), draft_weights(seed=1)
    return [cls(base, SMALL, head, SMALL_DRAFT) for cls in (TorchRuntime, TritonRuntime)]


def agree(ours, theirs):
    """One round's results on the kernels and in PyTorch -> what was decided."""
    decided = [(r.route, r.accepted, r.cause, r.scheduled, r.last_gripper > 0) for r in (ours, theirs)]
    assert decided[0] == decided[1]
    np.testing.assert_allclose(ours.chunk, theirs.chunk, rtol=0, atol=2e-5)
    assert set(ours.stage_ms) == set(theirs.stage_ms)
    if ours.route == "full":
        return "full", ours.cause
    np.testing.assert_allclose(ours.draft, theirs.draft, rtol=0, atol=2e-5)
    np.testing.assert_allclose(ours.x0_hat, theirs.x0_hat, rtol=0, atol=2e-5)
    verdicts = [(v.accepted, v.gripper_stop, v.gripper_cut) for v in (ours.verdict, theirs.verdict)]
    assert verdicts[0] == verdicts[1]
    assert ours.verdict.radius == pytest.approx(theirs.verdict.radius, rel=1e-4)
    return "draft", verdicts[0]


def test_further_noises_of_a_full_round(runtimes):
    several = np.stack([noise(n) for n in range(3)])
    theirs, ours = (Engine(r, ACCEPT_ALL).infer(Engine(r).new_session(), inputs(0), several) for r in runtimes)
    agree(ours, theirs)
    np.testing.assert_allclose(ours.samples, theirs.samples, rtol=0, atol=2e-5)
    for index in (1, 2):
        alone = Engine(runtimes[1], ACCEPT_ALL).infer(Engine(runtimes[1]).new_session(), inputs(0), noise(index))
        np.testing.assert_allclose(ours.samples[index - 1], alone.chunk, rtol=0, atol=2e-5)


def test_rounds_of_two_sessions_with_prompts_and_views_that_change(runtimes):
    """Full and draft rounds, interleaved, so that snapshots of one session meet another's buffers."""
    engines = [Engine(r, CUTS) for r in runtimes]
    sessions = [[e.new_session() for _ in range(2)] for e in engines]
    routes = set()
    for number, (which, views, tokens) in enumerate([(0, 2, 5), (1, 3, 17), (0, 1, 5), (1, 2, 16), (0, 2, 48)]):
        theirs, ours = (
            e.infer(s[which], inputs(number, views, tokens), noise(number), executed_steps=2)
            for e, s in zip(engines, sessions, strict=True)
        )
        routes.add(agree(ours, theirs)[0])
    assert routes == {"full", "draft"}


def test_every_decision_is_made_on_the_device_as_on_the_host(runtimes):
    """Radius, both gripper rules and the schedule they set; other prompts, 1-3 views; every outcome is met."""
    met = set()
    for case, (settings, views, tokens) in enumerate([(CUTS, 2, 13), (PARTS, 3, 47), (ALL, 1, 1), (STOPS, 2, 7)]):
        engines = [Engine(r, replace(settings, full_fallback=settings is STOPS)) for r in runtimes]
        sessions = [e.new_session() for e in engines]
        for number in range(3):
            seen = inputs(10 * case + number, views, tokens), noise(10 * case + number)
            theirs, ours = (e.infer(s, *seen, executed_steps=number) for e, s in zip(engines, sessions, strict=True))
            met.add(agree(ours, theirs))
    drafts = [what for route, what in met if route == "draft"]
    assert {cause for route, cause in met if route == "full"} >= {"first", "gripper"}
    assert any(stop for _, stop, _ in drafts) and any(cut for _, _, cut in drafts)
    assert any(0 < accepted < 6 for accepted, _, _ in drafts) and any(accepted == 6 for accepted, _, _ in drafts)


@pytest.mark.parametrize("count", [3, 8])
def test_rounds_of_several_sessions_in_one_pass(runtimes, count):
    """Prompts of other lengths; a batch that is no power of two has rows that nobody reads."""
    engines = [Engine(r, PARTS) for r in runtimes]
    sessions = [[e.new_session() for _ in range(count)] for e in engines]
    met = set()
    for number in range(2):
        both = []
        for engine, own in zip(engines, sessions, strict=True):
            seen = [inputs(10 * n + number, 1 if count == 8 else 2, 1 + 5 * n % 16) for n in range(count)]
            calls = [Call(s, o, noise(n), number) for n, (s, o) in enumerate(zip(own, seen, strict=True))]
            both.append(dict(engine.infer_many(calls)))
        for n in range(count):
            assert both[1][n].batch == count, both[1][n]
            met.add(agree(both[1][n], both[0][n]))
    assert len({what for route, what in met if route == "draft"}) > 1 and ("full", "first") in met


def test_what_the_kernels_are_not_made_for_goes_to_pytorch(runtimes, monkeypatch):
    """Sessions with other numbers of views, and more of them than a program takes."""
    from flashtrail.policies.pi0.kernels import runtime as module

    engines = [Engine(r, ACCEPT_ALL) for r in runtimes]
    for views, most in (([1, 2, 2], 16), ([2, 2, 2], 2)):
        monkeypatch.setattr(module, "MOST_TOGETHER", most)
        sessions = [[e.new_session() for _ in views] for e in engines]
        for number in range(2):
            both = []
            for engine, own in zip(engines, sessions, strict=True):
                calls = [Call(s, inputs(n + number, v, 3 + n), noise(n)) for n, (s, v) in enumerate(zip(own, views))]  # noqa: B905
                both.append(dict(engine.infer_many(calls)))
            for n in range(3):
                assert both[1][n].batch == 3, both[1][n]
                assert agree(both[1][n], both[0][n])[0] == ("full", "draft")[number]


def test_a_round_ends_in_one_copy_from_the_device(runtimes, monkeypatch):
    engine = Engine(runtimes[1], ACCEPT_ALL)
    session = engine.new_session()
    copies = []
    for name in ("cpu", "item", "tolist", "__bool__", "__float__", "__int__"):
        plain = getattr(torch.Tensor, name)

        def counted(self, *words, plain=plain, name=name):
            copies.append((name, self.numel()))
            return plain(self, *words)

        monkeypatch.setattr(torch.Tensor, name, counted)
    for route, size in (("full", 6 * 32), ("draft", 4 + 6 * 32 * 4)):
        # The interpreter itself asks for numbers inside a kernel: none of these is a copy that a program would make.
        monkeypatch.setattr("flashtrail.policies.pi0.kernels.launch._start", lambda *words, **more: None)
        copies.clear()
        assert engine.infer(session, inputs(1), noise(1)).route == route
        assert copies == [("cpu", size)]


def test_the_official_time_bias_is_an_option(runtimes):
    found = [], []
    for run, own in zip(runtimes, found, strict=True):
        placed = run.place(inputs(3))
        embeddings = run.encode(placed)
        snapshot, draft = run.prefill(embeddings), run.draft(embeddings, placed)
        for official in (False, True):
            settings = FlashSettings(official_time_bias=official)
            own.append(run.verify(snapshot, placed, draft, noise(1), settings))
    theirs, ours = found
    for at in (0, 1):
        np.testing.assert_allclose(ours[at], theirs[at], rtol=0, atol=2e-5)
    assert np.array_equal(ours[0][0], ours[1][0])  # t = 0.10 has its own embedding either way
    assert np.abs(ours[0][1] - ours[1][1]).max() > 1e-4


def test_a_snapshot_from_the_pytorch_stages_serves(runtimes):
    torch_run, triton_run = runtimes
    placed = torch_run.place(inputs(4, tokens=7))
    cache = torch_run.prefill(torch_run.encode(placed))
    ours = triton_run.denoise(cache, triton_run.place(inputs(4, tokens=7)), noise(2))
    np.testing.assert_allclose(ours, torch_run.denoise(cache, placed, noise(2)), rtol=0, atol=2e-5)


@pytest.fixture
def zeros(monkeypatch):
    """Buffers of zeros, for programs that compute nothing."""
    plain = Kind.new
    monkeypatch.setattr(Kind, "new", lambda self, *shape, dtype=None: plain(self, *shape, dtype=dtype).zero_())


class Counted:
    """Records and does nothing: what is computed is tested above."""

    def record(self, body):
        return lambda: None


def test_after_warm_up_no_prompt_and_no_view_records_anything(zeros):
    run = TritonRuntime(base_weights(), SMALL, recorder=Counted())
    run.warm_up(ACCEPT_ALL)
    recorded = run.counters.captures
    assert recorded > 0 and run.counters.late == {"captures": 0, "compilations": 0}
    engine = Engine(run, ACCEPT_ALL)
    for tokens in (1, 13, 48):
        engine.infer(engine.new_session(), inputs(0, 1 + tokens % 2, tokens), noise(0))
    assert run.counters.captures == recorded
    engine.infer(engine.new_session(), inputs(0, 3, 4), noise(0))  # more views than the policy has: counted
    # Encoder and prefill; its 28 prefix slots are also those of one view and 24 tokens, which denoise knows.
    assert run.counters.late["captures"] == run.describe()["captures"] == 2


def test_warm_up_for_company_covers_every_batch_up_to_it(zeros):
    run = TritonRuntime(base_weights(), SMALL, draft_weights(), SMALL_DRAFT, recorder=Counted())
    run.warm_up(ACCEPT_ALL, together=3)
    engine = Engine(run, ACCEPT_ALL)
    for count in (2, 3, 4):
        sessions = [engine.new_session() for _ in range(count)]
        for _ in range(2):
            list(engine.infer_many([Call(s, inputs(n, 2, 1 + 9 * n), noise(n)) for n, s in enumerate(sessions)]))
    assert run.counters.late["captures"] == 0
    sessions = [engine.new_session() for _ in range(5)]
    list(engine.infer_many([Call(s, inputs(n), noise(n)) for n, s in enumerate(sessions)]))
    assert run.counters.late["captures"] == 3  # encoder, prefill, denoise of eight


def test_a_prompt_too_long_is_one_line(runtimes):
    with pytest.raises(ObservationError, match="49 tokens is longer than this policy's 48"):
        runtimes[1].place(inputs(0, tokens=49))


def test_buckets():
    assert graphs.buckets_for(48) == (16, 24, 32, 48) and graphs.buckets_for(20) == (16, 20)
    assert [graphs.bucket_of(n, (16, 24)) for n in (1, 16, 17, 24)] == [16, 16, 24, 24]


def test_a_program_is_recorded_once_and_reads_its_buffers_each_time():
    counters = graphs.Counters()
    programs = graphs.Programs(graphs.Eager(), counters)
    source, out = torch.zeros(2, device=DEVICE), torch.zeros(2, device=DEVICE)
    for value in (1.0, 2.0):
        graphs.fill(source, np.full(2, value))
        programs.run("double", lambda: torch.mul(source, 2, out=out))
        assert out.tolist() == [2 * value] * 2
    assert (counters.captures, len(programs)) == (1, 1)
    with pytest.raises(ValueError, match="shape"):
        graphs.fill(source, np.zeros(3))
