"""The full round of the same dims through plain torch.compile: what the engine must not be slower than.

The PyTorch stages as they are, one function, compiled as a whole with the default settings. Needs a C++ compiler on a
CPU and Triton on a GPU.
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
from flashtrail.benchmark.workload import POOL, Workload
from flashtrail.policies.pi0 import expert, prefix, vision
from flashtrail.policies.pi0.runtime import TorchRuntime

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
    """Full rounds only. The first call compiles; UserError where that fails."""

    name = "torch.compile"
    routes = ("full",)

    def __init__(self, runtime: TorchRuntime, workload: Workload, compiler: Callable[..., Any] = torch.compile) -> None:
        self._runtime, dims = runtime, runtime.dims
        w = runtime._w
        wide = torch.promote_types(runtime.dtype, torch.float32)

        def full(images: Tensor, token_ids: Tensor, state: Tensor, noise: Tensor) -> Tensor:
            language = prefix.embed_prompt(w, token_ids)
            embeddings = torch.cat((vision.encode_images(w, dims, images), language), dim=1)
            cache = prefix.prefill(w, dims, embeddings, None)
            return expert.denoise(w, dims, cache, state, noise, dims.num_steps)

        self._full = compiler(full, dynamic=False)
        self._placed = [TorchRuntime.place_many(runtime, [seen]) for seen in workload.inputs()]
        self._noises = [torch.from_numpy(n).to(runtime.device, wide)[None] for n in workload.noises()]
        try:
            self.chunk(0)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"torch.compile failed ({first}); use --no-compiled to go without it") from error

    @torch.no_grad()
    def chunk(self, at: int) -> Any:
        """The round's answer [1, H, D], float32 on the host."""
        p = self._placed[at]
        return self._full(p.images[None], p.token_ids[None], p.state, self._noises[at]).float().cpu().numpy()

    def round(self, route: str, index: int) -> dict[str, float]:
        """Inputs lie on the device before the clock starts, as in the engine's `round`."""
        self._runtime.synchronize()
        start = time.perf_counter()
        self.chunk(index % POOL)
        self._runtime.synchronize()
        return {"round": (time.perf_counter() - start) * 1e3}
