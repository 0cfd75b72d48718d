"""Are the kernels right on this device, and worth while? Asked once for each policy and device, before it is served.

    python -m flashtrail.benchmark examine --artifact DIR --draft DIR --device cuda --dtype bfloat16 --json FILE

The same rounds go through the PyTorch stages in a wider number format, in the one that is to serve, and through the
kernels: every number of views, short and long prompts, one session and several in a pass. The kernels may be as far
from the wider format as PyTorch itself is, times a leeway; decisions must follow from the device's own estimates,
nothing may be recorded or compiled late, and the rounds must be shorter. Whatever is wrong, the answer is PyTorch, with
the reason: the kernels have to earn their place on each device. Run it in a process of its own, which a wrong kernel
can take with it.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import statistics
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashtrail.base import commands, provenance
from flashtrail.benchmark.by_kernel import watched
from flashtrail.benchmark.compilation import thin
from flashtrail.policies.pi0 import backends, weights
from flashtrail.policies.pi0.batch import ModelInputs
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.engine import Call, Engine, RoundResult
from flashtrail.policies.pi0.errors import DeviceError
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Floats, distances, judge

WIDER = {"bfloat16": "float32", "float32": "float64"}
# Quantile of the rounds -> how many times PyTorch's own error the kernels' may be. Sums in another order err as much;
# single rounds of a trained flow part further by chance; a fault is a hundred times either, or of some rounds only.
LEEWAY = {0.5: 2.0, 0.75: 3.0, 1.0: 10.0}
FLOOR = 1e-6  # of the largest value: below it last digits are compared
# Nothing sends a session back to a full round. The first draft round accepts all, the later ones judge.
ACCEPT = FlashSettings(
    tau_radius=1e6, enable_gripper_verify=False, enable_gripper_post_verify=False, full_fallback=False
)
WARM_UP, TIMED = 10, 50


@dataclass(frozen=True)
class Case:
    """One shape of input: views, prompt tokens, sessions in a pass."""

    views: int
    prompt: int
    together: int

    def __str__(self) -> str:
        return f"{self.views} views, {self.prompt} tokens, {self.together} in a pass"


@dataclass(frozen=True)
class Observed:
    """What one backend did: the rounds of each case under the settings that judged them, and times."""

    rounds: dict[Case, list[tuple[FlashSettings, RoundResult]]]
    ms: dict[str, float]  # route -> median of a lone round
    late: dict[str, int]


def cases(dims: Pi0Dims, together: int) -> list[Case]:
    """All numbers of views and prompts of three lengths alone; batches up to `together` sessions."""
    most, middle = dims.max_token_len, min(20, dims.max_token_len)
    alone = [Case(v, p, 1) for v in range(1, dims.num_views + 1) for p in sorted({1, middle, most})]
    sizes = sorted({n for n in (2, 3, together) if 1 < n <= together})
    return alone + [Case(dims.num_views, middle, n) for n in sizes]


def judging(seen: Observed) -> list[FlashSettings]:
    """Settings under which the drafts of `seen` would be accepted in part, by the radius alone and with the gripper."""
    steps = ACCEPT.max_exec_steps
    gaps = [
        distances(r.draft, r.x0_hat, ACCEPT.dist_dims, min(steps, len(r.draft)))
        for rounds in seen.rounds.values()
        for _, r in rounds
        if r.draft is not None and r.x0_hat is not None
    ]
    if not gaps:
        return []
    # Half of the drafts stay within it for half of their steps.
    halves = [gap.max(axis=0)[: max(1, gap.shape[-1] // 2)].max() for gap in gaps]
    radius = replace(ACCEPT, tau_radius=float(np.median(halves)))
    return [radius, replace(radius, enable_gripper_verify=True, enable_gripper_post_verify=True)]


def observe(
    runtime: TorchRuntime, asked: Sequence[Case], judged: Sequence[FlashSettings] = (), timed: int = TIMED
) -> Observed:
    """Run every case: each session's full round, a draft round that accepts all, and one under each of `judged`.

    Then `timed` lone rounds of each route (0: none, as in the interpreter).
    """
    engine = Engine(runtime, ACCEPT)
    engines = [engine, *([engine, *(Engine(runtime, s) for s in judged)] if runtime.has_draft else [])]
    rounds = {case: _rounds(engines, case) for case in asked}
    ms = _times(engine, max(asked, key=lambda c: (c.together == 1, c.views, c.prompt == 20)), timed) if timed else {}
    counters = getattr(runtime, "counters", None)
    late = {} if counters is None or runtime.device.type != "cuda" else dict(counters.late)
    return Observed(rounds, ms, late)


def _rounds(engines: Sequence[Engine], case: Case) -> list[tuple[FlashSettings, RoundResult]]:
    sessions = [engines[0].new_session() for _ in range(case.together)]
    found: list[tuple[FlashSettings, RoundResult]] = []
    for turn, engine in enumerate(engines):
        calls = []
        for n, session in enumerate(sessions):
            inputs, noise = _inputs(engine, case, [turn, n])
            calls.append(Call(session, inputs, noise, executed_steps=12 if turn else 0, reset=turn == 0))
        answers = dict(engine.infer_many(calls, case.together))
        for n in range(len(calls)):
            answer = answers[n]
            if isinstance(answer, Exception):
                raise answer
            if answer.batch != case.together:
                raise RuntimeError(f"{case.together} sessions did not share a pass ({case})")
            found.append((engine.settings, answer))
    return found


def _inputs(engine: Engine, case: Case, seed: list[int]) -> tuple[ModelInputs, Floats]:
    runtime = engine.runtime
    assert isinstance(runtime, TorchRuntime)
    d, rng = runtime.dims, np.random.default_rng([case.views, case.prompt, case.together, *seed])
    side = d.vision.image_size
    images = rng.uniform(-1, 1, (case.views, side, side, 3)).astype(np.float32)
    state = rng.standard_normal(d.action_dim).astype(np.float32)
    noise = rng.standard_normal((d.action_horizon, d.action_dim)).astype(np.float32)
    return ModelInputs(images, rng.integers(0, d.vocab_size, case.prompt), state), noise


def _times(engine: Engine, case: Case, timed: int) -> dict[str, float]:
    inputs, noise = _inputs(engine, case, [0])
    session, ms = engine.new_session(), {}
    for route, reset in [("full", True), ("draft", False)][: 2 if engine.runtime.has_draft else 1]:
        walls = [
            engine.infer(session, inputs, noise, executed_steps=12, reset=reset).wall_ms for _ in range(WARM_UP + timed)
        ]
        ms[route] = statistics.median(walls[WARM_UP:])
    return ms


# --- the verdict ---


def verdict(wider: Observed, expected: Observed, found: Observed) -> tuple[str, str, dict[str, float]]:
    """Return the backend to take, why, and each quantity's largest error as a share of what it may be.

    `wider`: PyTorch in a wider format, `expected`: in the one that serves, `found`: the kernels.
    """
    for case, rounds in found.rounds.items():
        for (settings, ours), (_, theirs) in zip(rounds, expected.rounds[case], strict=True):
            if trouble := _decided_wrongly(ours, theirs, settings):
                return "torch", f"the kernels are wrong on this device: {trouble} ({case})", {}
    shares = _shares(_errors(found, wider), _errors(expected, wider))
    name = max(shares, key=lambda key: shares[key])
    if not shares[name] <= 1:
        said = f"{name} is {shares[name]:.3g} times as far from PyTorch in a wider format as it may be"
        return "torch", f"the kernels are wrong on this device: {said}", shares
    if any(found.late.values()):
        return "torch", f"after warm-up there were still {found.late}", shares
    count = sum(len(rounds) for rounds in found.rounds.values())
    agreed = f"{count} rounds agree with PyTorch's (errors at most {shares[name]:.2f} of what they may be)"
    if not found.ms:
        return "torch", f"{agreed}, but were not timed", shares
    times = ", ".join(f"{route} {found.ms[route]:.2f} for {expected.ms[route]:.2f} ms" for route in found.ms)
    if any(found.ms[route] >= expected.ms[route] for route in found.ms):
        return "torch", f"{agreed}, but the kernels do not make each route shorter: {times}", shares
    return "triton", f"{agreed} and are shorter: {times}", shares


def _decided_wrongly(ours: RoundResult, theirs: RoundResult, settings: FlashSettings) -> str | None:
    if ours.route != theirs.route:
        return f"a {ours.route} round where PyTorch has a {theirs.route} round"
    if ours.draft is None or ours.x0_hat is None or ours.verdict is None:
        return None
    if not (np.isfinite(ours.draft).all() and np.isfinite(ours.x0_hat).all()):
        return "a draft or estimate is not finite"
    should = judge(ours.draft, ours.x0_hat, ours.last_gripper, settings)
    decided = [(v.accepted, v.gripper_stop, v.gripper_cut) for v in (ours.verdict, should)]
    if decided[0] != decided[1]:
        return f"decided {decided[0]} (steps, gripper stop, cut) where its own estimates say {decided[1]}"
    return None


def _errors(found: Observed, wider: Observed) -> dict[str, list[tuple[float, float]]]:
    """Quantity -> of each round that has it: mean and largest distance from `wider`, relative to the largest value."""
    out: dict[str, list[tuple[float, float]]] = {}
    for case, rounds in found.rounds.items():
        for (_, ours), (_, reference) in zip(rounds, wider.rounds[case], strict=True):
            for name in ("chunk",) if ours.route == "full" else ("draft", "x0_hat"):
                gap = np.abs(getattr(ours, name).astype(np.float64) - getattr(reference, name))
                gap = np.where(np.isfinite(gap), gap, np.inf) / max(
                    float(np.abs(getattr(reference, name)).max()), 1e-30
                )
                out.setdefault(name, []).append((float(gap.mean()), float(gap.max())))
    return out


def _shares(
    ours: Mapping[str, Sequence[tuple[float, float]]], theirs: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[str, float]:
    """The kernels' errors as a share of what PyTorch's allow: the worst quantile of mean and of largest distances."""
    shares = {}
    for name, errors in ours.items():
        of_both = [
            np.quantile(np.array(values), list(LEEWAY), axis=0, method="higher") for values in (errors, theirs[name])
        ]
        allowed = np.maximum(of_both[1], FLOOR) * np.array(list(LEEWAY.values()))[:, None]
        shares[name] = float((of_both[0] / allowed).max())
    return shares


# --- from the command line ---


def by_kernel(dims: Pi0Dims, device: str, dtype: str, together: int) -> dict[str, float]:
    """Each kernel's largest error beside its own reference, as a share of the tolerance; see benchmark/by_kernel.py.

    In rounds of a policy with these widths, two layers of each stack, two steps and random weights, alone and together.
    """
    from flashtrail.policies.pi0.kernels import graphs
    from flashtrail.policies.pi0.kernels.runtime import TritonRuntime

    dims, draft = thin(dims), DraftDims.like(dims)
    base, head = weights.init_base(dims, 0, device, dtype), weights.init_draft(draft, 1, device, dtype)
    for name, tensor in [*base.items(), *head.items()]:
        if name.endswith((".bias", ".scale")):  # zeros and ones would hide one that is not applied
            tensor.add_(torch.randn_like(tensor), alpha=0.2)
    runtime = TritonRuntime(base, dims, head, draft, recorder=graphs.Eager())
    with watched() as shares:
        prompt = min(20, dims.max_token_len)
        observe(runtime, [Case(dims.num_views, prompt, n) for n in sorted({1, together})], [FlashSettings()], 0)
    return shares


def check(base: Path, draft: Path | None, device: str, dtype: str, together: int = 1) -> dict[str, Any]:
    """Run one after the other, each with the memory to itself, and return the record.

    Raises FlashError where PyTorch cannot run either; what the kernels raise is a reason not to take them.
    """
    asked = cases(weights.read_dims(base), together)
    timed = TIMED if device.startswith("cuda") else 0  # Triton's interpreter says nothing of times
    if reason := backends.why_not_triton(device, dtype):
        return _record(device, dtype, "torch", reason, {}, {})
    if reason := _no_room_beside(base, device, WIDER[dtype]):
        return _record(device, dtype, "torch", f"nothing to hold the kernels against: {reason}", {}, {})
    wider = backends.load_runtime(base, draft, _where_it_fits(base, device, WIDER[dtype]), WIDER[dtype], "torch")
    judged = judging(observe(wider, asked, timed=0))
    reference = observe(wider, asked, judged, timed=0)
    del wider
    _free(device)
    runtime = backends.load_runtime(base, draft, device, dtype, "torch")
    expected = observe(runtime, asked, judged, timed)
    del runtime
    _free(device)
    apart: dict[str, float] = {}
    try:
        apart = by_kernel(weights.read_dims(base), device, dtype, together)
        kernels = backends.load_runtime(base, draft, device, dtype, "triton", None, together)
        found = observe(kernels, asked, judged, timed)
    except Exception as error:  # whatever compiling, capturing or running them raises: no common class
        traceback.print_exc()
        lines = str(error).splitlines() or [""]
        why = f"the kernels failed: {type(error).__name__}: {lines[0]}"
        return _record(device, dtype, "torch", why, {}, {}) | {"kernels": apart}
    backend, why, worst = verdict(reference, expected, found)
    if wrong := [f"{name} ({share:.3g} times its tolerance)" for name, share in apart.items() if not share <= 1]:
        backend, why = "torch", f"wrong on this device by itself: {', '.join(wrong)}; {why}"
    return _record(device, dtype, backend, why, worst, {"torch": expected.ms, "triton": found.ms}) | {
        "cases": [asdict(case) for case in asked],
        "kernels": apart,
    }


def _no_room_beside(base: Path, device: str, dtype: str) -> str | None:
    """What keeps this policy in a wider format from both device and host; None where one has room."""
    try:
        backends.check_device(_where_it_fits(base, device, dtype), dtype, weights.read_dims(base))
    except DeviceError as error:
        return str(error)
    return None


def _where_it_fits(base: Path, device: str, dtype: str) -> str:
    """The device if it has room for this policy in a wider format, else the CPU, slowly."""
    try:
        backends.check_device(device, dtype, weights.read_dims(base))
    except DeviceError:
        return "cpu"
    return device


def _free(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _record(
    device: str, dtype: str, backend: str, why: str, worst: dict[str, float], ms: dict[str, Any]
) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else device
    triton = importlib.metadata.version("triton") if importlib.util.find_spec("triton") else None
    versions = {"torch": torch.__version__, "triton": triton}
    return {"version": 1, "backend": backend, "why": why, "device": device, "device_name": name, "dtype": dtype} | {
        "versions": versions,
        "worst_share_of_leeway": worst,
        "median_ms": ms,
    }


def main(words: Sequence[str]) -> int:
    """Print the verdict and write the record; FlashError where not even PyTorch can run."""
    parser = commands.Parser(
        prog="python -m flashtrail.benchmark examine", description="Are the kernels right on this device, and faster?"
    )
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR")
    add("--draft", type=Path, metavar="DIR")
    add("--device", default="cuda")
    add("--dtype", default="bfloat16", choices=sorted(WIDER))
    add("--together", type=int, default=1, metavar="N", help="sessions that may share a pass (default: 1)")
    add("--json", type=Path, metavar="FILE")
    found = parser.parse_args(words)
    record = check(found.artifact, found.draft, found.device, found.dtype, found.together)
    print(f"backend {record['backend']}: {record['why']}")
    if found.json is not None:
        provenance.json_dump(record, found.json)
    return 0
