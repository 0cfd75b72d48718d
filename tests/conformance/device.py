"""The golden data through a runtime on a device, in its number format: what `make gpu-day` compares there.

Stages are compared by what a round gives: chunk, draft, estimates from the reference's own cache; in float32 whole
sessions with their decisions too. float32 has the CPU's tolerances; bfloat16's are four times the error of PyTorch's
bfloat16 on a CPU (chunk 0.035 of values up to 4, draft 0.012, estimates 0.017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from conformance import pi0, verification
from conformance.golden import Golden, arrays_of, golden_cache, model_inputs, read_json, read_npz
from conformance.rows import Rows, close

from flashtrail.policies.pi0 import backends
from flashtrail.policies.pi0.prefix import PrefixCache
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.weights import DTYPES

TOLERANCES = {
    "float32": {"chunk": pi0.ACTIONS_JAX, "draft": verification.DRAFT, "x0_hat": verification.X0_HAT},
    "bfloat16": {"chunk": 0.14, "draft": 0.05, "x0_hat": 0.07},
}


@dataclass(frozen=True)
class OnDevice(Golden):
    """Golden data whose runtime is one on a device."""

    own: TorchRuntime

    @property
    def runtime(self) -> TorchRuntime:  # type: ignore[override]
        return self.own


def runtime_of(golden: Golden, backend: str, device: str, dtype: str) -> TorchRuntime:
    """The golden policy on a device; the kernels record programs as they are needed."""
    (base, dims), (draft, draft_dims) = golden.base, golden.draft
    base, draft = ({k: v.to(device, DTYPES[dtype]) for k, v in w.items()} for w in (base, draft))
    return backends.runtime_class(backend)(base, dims, draft, draft_dims)


def rows(golden: Golden, run: TorchRuntime, dtype: str, *, estimates_only: bool = False) -> Rows:
    """One row per comparison; `estimates_only`: one verification alone, for Triton's interpreter."""
    name, atol = f"{run.backend} {dtype}", TOLERANCES[dtype]
    folder = golden.root / "G5_verify"
    cases, arrays = read_json(folder / "cases.json"), read_npz(folder / "cases.npz")
    for key in list(cases)[: 1 if estimates_only else None]:
        case, own = cases[key], arrays_of(arrays, f"{key}/")
        stale = golden_cache(golden.observations[case["prev_obs"]])
        cache = PrefixCache(*(t.to(run.device, run.dtype) for t in (stale.k, stale.v)), None)
        placed = run.place(model_inputs(golden.observations[case["cur_obs"]]))
        settings = FlashSettings(t_list=tuple(case["t_list"]))
        if not estimates_only:
            draft = torch.as_tensor(run.draft(run.encode(placed), placed)).float().cpu()
            yield close(f"{name} {key} draft", draft, own["x0_draft"], atol["draft"])
        x0_hat = run.verify(cache, placed, own["x0_draft"], own["noise"], settings)
        yield close(f"{name} {key} x0_hat", x0_hat, own["out_x0_hat"], atol["x0_hat"])
    if estimates_only:
        return
    for number, obs in enumerate(golden.observations):
        placed = run.place(model_inputs(obs))
        chunk = run.denoise(run.prefill(run.encode(placed)), placed, obs["noise"])
        yield close(f"{name} obs{number} chunk", chunk, obs["out_actions_normalized"], atol["chunk"])
    if dtype == "float32":
        traces, arrays = read_json(folder / "e2e.json"), read_npz(folder / "e2e.npz")
        for number, trace in enumerate(traces):
            own = {k: np.asarray(v) for k, v in arrays_of(arrays, f"trace{number}/").items()}
            yield from verification.whole_session(OnDevice(golden.root, run), trace, own, number)
