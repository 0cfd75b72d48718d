"""A stand-in for an official checkout, for tests of the benchmark: the same calls, next to no work. It times nothing.

Its times are made up (STAGE_MS), so that a test can tell whether the benchmark reads them; a record of it says so.
"""

from __future__ import annotations

import types

import torch

STAND_IN = "tests/benchmark/stand_in: made-up times, no model"
STAGE_MS = {"encoder_ms": 1.5, "vlm_prefill_ms": 2.5, "decoder_ms": 3.5, "draft_ms": 0.5, "action_verify_ms": 0.75}
calls: list[tuple[str, object]] = []


def _empty_pi0_triton_weights(prompt_len: int) -> dict[str, torch.Tensor]:
    return {"language_embeds": torch.zeros(prompt_len, 8), "decoder_action_mlp_w": torch.zeros(4, 4)}


def create_pi0_inference(*, checkpoint, num_views, chunk_size):
    calls.append(("full runtime", {k: tuple(v.shape) for k, v in checkpoint.items()}))
    return types.SimpleNamespace(views=num_views, chunk=chunk_size)


def create_pi0_spec_inference(*, checkpoint, draft_checkpoint, num_views, chunk_size):
    calls.append(("draft runtime", {k: tuple(v.shape) for k, v in draft_checkpoint.items() if k != "meta"}))
    return types.SimpleNamespace(meta=draft_checkpoint["meta"])


class SpecTritonRuntimeSession:
    def __init__(self, *, prompt, runtime, draft_runtime):
        self.runtime, self.snapshot = runtime, object()

    def prepare_observation(self, *, images, state):
        assert images.shape[0] == self.runtime.views and images.dtype == torch.bfloat16
        return types.SimpleNamespace(images=images, state=state)

    def run_full_with_timing(self, *, prepared, noise):
        assert noise.shape[0] == self.runtime.chunk
        calls.append(("full", noise))
        return noise, {k: STAGE_MS[k] for k in ("encoder_ms", "vlm_prefill_ms", "decoder_ms")} | {"total_ms": 7.5}

    def capture_full_cache_snapshot(self):
        return self.snapshot

    def run_draft_with_timing(self, *, prepared):
        return prepared.state, {k: STAGE_MS[k] for k in ("encoder_ms", "draft_ms")}

    def run_verify_semantics_with_timing(self, *, cache_snapshot, prepared, noise, x0_draft, t_list, **rules):
        assert cache_snapshot is self.snapshot and x0_draft is prepared.state
        calls.append(("verify", t_list))
        return None, {"action_verify_ms": STAGE_MS["action_verify_ms"]}
