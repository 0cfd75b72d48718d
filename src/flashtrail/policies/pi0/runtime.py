"""The five stages over real weights: PyTorch on one device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.batch import MAX_BATCH, BatchedStages
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.stages import choose

# Of a small policy on a CPU: passes at once, which share Python's lock between their operations (measured with two),
# and rounds in a pass, where more no longer fit a core's cache (docs/serving.md).
SMALL_WORKERS, SMALL_BATCH = 4, 8


class TorchRuntime(BatchedStages):
    """Weights on a device, and the stages over them.

    `draft` None: there is no draft route.
    """

    backend = "torch"
    backend_why = ""  # why this one was taken, where there was a choice

    def __init__(
        self,
        base: Mapping[str, Tensor],
        dims: Pi0Dims,
        draft: Mapping[str, Tensor] | None = None,
        draft_dims: DraftDims | None = None,
        manifests: Mapping[str, Any] | None = None,
        directory: Path | None = None,
    ) -> None:
        if draft_dims is not None:
            draft_dims.check_fits(dims)
        self.dims, self.draft_dims = dims, draft_dims
        self.has_draft = draft is not None
        self._w = weights.prepare(base)
        self._wd = dict(draft or {})
        embed = base["embed.weight"]
        self.device, self.dtype = embed.device, embed.dtype
        if self.device.type == "cuda" and self.dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # a stem's convolutions; products are exact by PyTorch's default
        self._stages = choose(base, self._w, dims, self._wd, draft_dims)
        self.manifests = dict(manifests or {})
        self.directory = directory  # of the base artifact: its norm statistics and tokenizer lie there

    @classmethod
    def load(
        cls, base_dir: str | Path, draft_dir: str | Path | None, device: str = "cpu", dtype: str = "float32"
    ) -> TorchRuntime:
        """From artifact directories. Raises ArtifactError (also for a draft of other dims) or DeviceError."""
        if draft_dir is None:
            base, dims, manifest = weights.load_base(base_dir, device, dtype)
            return cls(base, dims, manifests={"base": manifest}, directory=Path(base_dir))
        # The small one first: a draft for other dims is then refused before gigabytes are read.
        draft, draft_dims, draft_manifest = weights.load_draft(draft_dir, device, dtype)
        draft_dims.check_fits(weights.read_dims(base_dir))
        base, dims, manifest = weights.load_base(base_dir, device, dtype)
        manifests = {"base": manifest, "draft": draft_manifest}
        return cls(base, dims, draft, draft_dims, manifests, Path(base_dir))

    def describe(self) -> dict[str, Any]:
        """Artifact digests, device, number format, which backend and arrangement of the stages compute, and why."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        digests = {f"{kind}_digest": m.get("digest") for kind, m in self.manifests.items()}
        facts = {"device": str(self.device), "device_name": name, "dtype": str(self.dtype).split(".")[-1]}
        return digests | facts | {"backend": self.backend, "backend_why": self.backend_why, "stages": self._stages.name}

    @property
    def reentrant(self) -> bool:
        """Whether several threads may compute at once: on a CPU, where every call has buffers of its own."""
        return self.backend == "torch" and self.device.type == "cpu"

    @property
    def workers(self) -> int:
        """How many passes at once are worth while, one core each: a small policy's do not fill more than one."""
        return SMALL_WORKERS if self._small else 1

    @property
    def max_batch(self) -> int:
        """How many rounds in one pass are worth while."""
        return SMALL_BATCH if self._small else MAX_BATCH

    @property
    def _small(self) -> bool:
        return self.reentrant and self._stages.name == "lean"

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
