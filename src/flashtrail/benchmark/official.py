"""An official checkout (Realtime-VLA FLASH) timed beside the engine: its own runtime, random weights, same shapes.

Imported into this process, so that both share one device context and take turns. Needs what the checkout needs
(CUDA, openpi's packages). Source of the names: scripts/spec/pi0_benchmark.py of the checkout, which this follows, but
for the draft head's true size and random weights in place of zeros, since a product of zeros draws less power.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashtrail.base.errors import UserError
from flashtrail.benchmark.workload import POOL, ROUTES, Workload
from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.dims import PI0_LIBERO, DraftDims
from flashtrail.policies.pi0.settings import FlashSettings

RUNTIME = "scripts.spec.triton.triton_pi0_runtime"
_STAGES = {
    "full": {"encoder_ms": "encoder", "vlm_prefill_ms": "prefill", "decoder_ms": "denoise"},
    "draft": {"encoder_ms": "encoder", "draft_ms": "draft", "action_verify_ms": "verify"},
}


class OfficialRounds:
    """Full and draft rounds of the official Triton runtime.

    A draft round is verified against the snapshot of one full round taken before, so that no copy of it is timed. Its
    times end before the answer is copied to the host; the engine's end after it.
    """

    name = "official"
    routes = ROUTES

    def __init__(self, checkout: Path, workload: Workload, settings: FlashSettings, device: str) -> None:
        self._where = weights.resolve_device(device)
        with _importing(checkout) as module:
            self._module, self.stand_in = module, getattr(module, "STAND_IN", None)
            self._check(checkout, workload)
            self._settings = settings
            try:
                self._prepare(workload)
                for route in self.routes:
                    self.round(route, 0)
            except (AttributeError, TypeError, KeyError) as error:
                raise UserError(f"{checkout}: its runtime is not the one this benchmark knows ({error})") from error
        self.checkout = {"commit": _commit(checkout), "stand_in": self.stand_in}

    def _check(self, checkout: Path, workload: Workload) -> None:
        if workload.draft is None:
            raise UserError("--official times both routes and needs a draft head")
        if self.stand_in:
            return
        if self._where.type != "cuda":
            raise UserError(f"{checkout} computes on CUDA only and --device is {self._where}")
        if (workload.dims, workload.draft.mlp_dim) != (PI0_LIBERO, PI0_LIBERO.prefix.mlp_dim):
            raise UserError(f"{checkout} computes pi0_libero only; use --random pi0_libero, or an artifact of it")

    def _prepare(self, workload: Workload) -> None:
        module, dims, draft = self._module, workload.dims, workload.draft
        assert draft is not None
        generator = torch.Generator().manual_seed(workload.seed)
        base = base_weights(module, workload, generator)
        options = {"num_views": workload.views, "chunk_size": dims.action_horizon}
        full = module.create_pi0_inference(checkpoint=base, **options)
        spec = module.create_pi0_spec_inference(
            checkpoint=base, draft_checkpoint=draft_weights(draft, generator), **options
        )
        self._session = module.SpecTritonRuntimeSession(prompt="benchmark", runtime=full, draft_runtime=spec)
        seen = zip(workload.inputs(), workload.noises(), strict=True)
        self._prepared, self._noises = [], []
        for inputs, noise in seen:
            images, state, start = (self._tensor(x) for x in (inputs.images, inputs.state, noise))
            self._prepared.append(self._session.prepare_observation(images=images, state=state))
            self._noises.append(start)
        self._session.run_full_with_timing(prepared=self._prepared[0], noise=self._noises[0])
        self._snapshot = self._session.capture_full_cache_snapshot()

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self._where, torch.bfloat16)

    def round(self, route: str, index: int) -> dict[str, float]:
        """The stage times that the runtime gives, and `round` from edge to edge of the device's work."""
        prepared, noise = self._prepared[index % POOL], self._noises[index % POOL]
        self._wait()
        start = time.perf_counter()
        timing = self._full(prepared, noise) if route == "full" else self._draft(prepared, noise)
        self._wait()
        round_ms = (time.perf_counter() - start) * 1e3
        stages = {ours: float(timing[theirs]) for theirs, ours in _STAGES[route].items() if theirs in timing}
        return {**stages, "round": round_ms}

    def _full(self, prepared: Any, noise: Tensor) -> dict[str, float]:
        return dict(self._session.run_full_with_timing(prepared=prepared, noise=noise)[1])

    def _draft(self, prepared: Any, noise: Tensor) -> dict[str, float]:
        draft, first = self._session.run_draft_with_timing(prepared=prepared)
        s = self._settings
        _, second = self._session.run_verify_semantics_with_timing(
            cache_snapshot=self._snapshot,
            prepared=prepared,
            noise=noise,
            x0_draft=draft,
            t_list=s.t_list,
            tau_radius=s.tau_radius,
            dist_dims=s.dist_dims,
            max_exec_steps=s.max_exec_steps,
            last_gripper=None,
            gripper_switch_threshold=s.gripper_switch_threshold,
            enable_gripper_verify=s.enable_gripper_verify,
            enable_gripper_post_verify=s.enable_gripper_post_verify,
        )
        return {**first, **second}

    def _wait(self) -> None:
        if self._where.type == "cuda":
            torch.cuda.synchronize(self._where)


def base_weights(module: Any, workload: Workload, generator: torch.Generator) -> dict[str, Tensor]:
    """A base checkpoint of the official names with random bfloat16 values; the shapes are the checkout's own."""
    empty = module._empty_pi0_triton_weights(workload.prompt)
    empty.setdefault("language_embeds", torch.zeros(workload.prompt, workload.dims.prefix.width))
    return {name: _random(tuple(tensor.shape), generator) for name, tensor in empty.items()}


def draft_weights(d: DraftDims, generator: torch.Generator) -> dict[str, Any]:
    """A draft checkpoint of the official names (out x in) with random values."""
    heads = (d.num_heads + 2 * d.num_kv_heads) * d.head_dim
    shapes = {
        "draft_state_in_proj_w": (d.width, d.state_dim),
        "draft_state_in_proj_b": (d.width,),
        "draft_action_queries": (d.chunk, d.width),
        "draft_qkv_w": (heads, d.width),
        "draft_attn_o_w": (d.width, d.num_heads * d.head_dim),
        "draft_ffn_gate_w": (d.mlp_dim, d.width),
        "draft_ffn_up_w": (d.mlp_dim, d.width),
        "draft_ffn_down_w": (d.width, d.mlp_dim),
        "draft_input_layernorm_w": (d.width,),
        "draft_post_attention_layernorm_w": (d.width,),
        "draft_action_head_w": (d.out_dim, d.width),
        "draft_action_head_b": (d.out_dim,),
    }
    meta = {"img_dim": d.width, "chunk_m": d.chunk, "out_dim": d.out_dim, "draft_num_heads": d.num_heads}
    meta |= {"draft_num_kv_heads": d.num_kv_heads, "draft_head_dim": d.head_dim}
    return {"meta": meta, **{name: _random(shape, generator) for name, shape in shapes.items()}}


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)


@contextmanager
def _importing(checkout: Path) -> Iterator[Any]:
    """The checkout's runtime module, with its two source roots on the path; UserError where it cannot be imported."""
    roots = [str(checkout), str(checkout / "src")]
    if not (checkout / (RUNTIME.replace(".", "/") + ".py")).is_file():
        raise UserError(f"{checkout} is not a checkout of the official code: it lacks {RUNTIME.replace('.', '/')}.py")
    sys.path[:0] = roots
    try:
        module = importlib.import_module(RUNTIME)
        if not Path(str(module.__file__)).resolve().is_relative_to(checkout.resolve()):
            raise UserError(f"{checkout}: another checkout is imported already ({module.__file__}); one a process")
        yield module
    except ImportError as error:
        raise UserError(f"{checkout} cannot be imported here ({error}); install what it needs beside torch") from error
    finally:
        for root in roots:
            sys.path.remove(root)


def _commit(checkout: Path) -> str | None:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (subprocess.SubprocessError, OSError):
        return None
