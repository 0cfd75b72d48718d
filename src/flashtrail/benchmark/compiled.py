"""Both rounds of the same dims through plain torch.compile: what the engine must not be slower than.

The PyTorch stages as they are, with the default settings. On a CPU each round is compiled as one function. On a GPU,
where pi0_libero's 180 layers of denoising would take many minutes, encoder, prefill, draft and one pass of the expert
are compiled, and the pass is called for each Euler step. Needs a C++ compiler on a CPU and Triton on a GPU.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flashtrail.base.errors import UserError
from flashtrail.benchmark.workload import POOL, ROUTES, Workload
from flashtrail.policies.pi0 import draft as draft_head
from flashtrail.policies.pi0 import expert, prefix, vision
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Verdict, judge

COMPILERS = ("g++", "clang++", "c++")


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, by name; None if there is none."""
    named = os.environ.get("CXX")
    return next((c for c in ((named,) if named else COMPILERS) if shutil.which(c)), None)


def why_not(device: str) -> str | None:
    """What keeps torch.compile from working here, in one line."""
    if device == "cpu" and cpp_compiler() is None:
        return "no C++ compiler was found (apt-get install g++, or set CXX)"
    return None


class CompiledRounds:
    """The first calls compile; UserError where that fails. A draft is verified against one full round's cache."""

    name = "torch.compile"

    def __init__(
        self,
        runtime: TorchRuntime,
        workload: Workload,
        compiler: Callable[..., Any] = torch.compile,
        in_pieces: bool | None = None,
    ) -> None:
        self._runtime, dims = runtime, runtime.dims
        w, wd, draft_dims = runtime._w, runtime._wd, runtime.draft_dims
        wide = torch.promote_types(runtime.dtype, torch.float32)
        self._settings = FlashSettings()
        self.routes = ROUTES if runtime.has_draft else ROUTES[:1]
        in_pieces = runtime.device.type == "cuda" if in_pieces is None else in_pieces

        def whole(function: Callable[..., Any]) -> Callable[..., Any]:
            return function if in_pieces else compiler(function, dynamic=False)

        def piece(function: Callable[..., Any]) -> Callable[..., Any]:
            return compiler(function, dynamic=False) if in_pieces else function

        @piece
        def encode(images: Tensor, token_ids: Tensor) -> Tensor:
            return torch.cat((vision.encode_images(w, dims, images), prefix.embed_prompt(w, token_ids)), dim=1)

        @piece
        def prefill(embeddings: Tensor) -> tuple[Tensor, Tensor]:
            cache = prefix.prefill(w, dims, embeddings, None)
            return cache.k, cache.v

        @piece
        def velocity(k: Tensor, v: Tensor, state: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            return expert.velocity(w, dims, prefix.PrefixCache(k, v, None), state, x_t, t)

        @piece
        def propose(embeddings: Tensor, state: Tensor) -> Tensor:
            assert draft_dims is not None
            head = draft_head.draft(wd, draft_dims, embeddings, None, state).to(wide)
            return torch.nn.functional.pad(head, (0, dims.action_dim - draft_dims.out_dim))

        def denoise(k: Tensor, v: Tensor, state: Tensor, noise: Tensor) -> Tensor:
            if not in_pieces:
                return expert.denoise(w, dims, prefix.PrefixCache(k, v, None), state, noise, dims.num_steps)
            for t in self._times:
                noise = noise - velocity(k, v, state, noise, t) / dims.num_steps
            return noise

        @whole
        def full(images: Tensor, token_ids: Tensor, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            k, v = prefill(encode(images, token_ids))
            return denoise(k, v, state, noise), k, v

        @whole
        def draft(
            images: Tensor, token_ids: Tensor, state: Tensor, noise: Tensor, k: Tensor, v: Tensor
        ) -> tuple[Tensor, Tensor]:
            proposal = propose(encode(images, token_ids), state)
            mix = self._mix[:, None, None]
            x_t = mix * noise + (1.0 - mix) * proposal
            return proposal, x_t - mix * velocity(k, v, state, x_t, self._mix)

        self._full, self._draft = full, draft
        self._times = torch.from_numpy(expert.euler_times(dims.num_steps)).to(runtime.device)[:, None]
        self._mix = torch.tensor(self._settings.t_list, dtype=torch.float32, device=runtime.device)
        self._placed = [TorchRuntime.place_many(runtime, [seen]) for seen in workload.inputs()]
        self._noises = [torch.from_numpy(n).to(runtime.device, wide)[None] for n in workload.noises()]
        try:
            self.chunk(0)
            if runtime.has_draft:
                self.verdict(0)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"torch.compile failed ({first}); use --no-compiled to go without it") from error

    def _inputs(self, at: int) -> tuple[Tensor, ...]:
        p = self._placed[at]
        return p.images[None], p.token_ids[None], p.state, self._noises[at]

    @torch.no_grad()
    def chunk(self, at: int) -> Any:
        """A full round's answer [1, H, D], float32 on the host."""
        chunk, *self._cache = self._full(*self._inputs(at))
        return chunk.float().cpu().numpy()

    @torch.no_grad()
    def verdict(self, at: int) -> Verdict:
        """A draft round's answer."""
        proposal, x0_hat = (t.float().cpu().numpy() for t in self._draft(*self._inputs(at), *self._cache))
        return judge(proposal[0], x0_hat, 0.0, self._settings)

    def round(self, route: str, index: int) -> dict[str, float]:
        """Inputs lie on the device before the clock starts, as in the engine's `round`."""
        answer = self.chunk if route == "full" else self.verdict
        self._runtime.synchronize()
        start = time.perf_counter()
        answer(index % POOL)
        self._runtime.synchronize()
        return {"round": (time.perf_counter() - start) * 1e3}
