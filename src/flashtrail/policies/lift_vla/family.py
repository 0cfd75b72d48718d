"""lift_vla as the registry has it: settings, errors, and how a policy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flashtrail.policies.lift_vla.errors import LiftError as Error
from flashtrail.policies.lift_vla.errors import OptionError
from flashtrail.policies.lift_vla.settings import Settings

if TYPE_CHECKING:
    from flashtrail.policies.lift_vla.policy import LiftPolicy

__all__ = ["SHORT_FLAGS", "Error", "Settings", "load", "set_threads"]
SHORT_FLAGS: dict[str, str] = {}


def load(
    artifact: Path,
    draft: Path | None,
    *,
    device: str,
    dtype: str,
    backend: str,
    settings: Settings,
    action_stats: Path | None,
    together: int | None,
    sessions: int,
) -> LiftPolicy:
    """See `policies.protocol.Family`; float32 in PyTorch on the CPU or a CUDA device."""
    for flag, value, allowed in (
        ("draft", draft, (None,)),
        ("dtype", dtype, ("float32",)),
        ("backend", backend, ("auto", "torch")),
    ):
        if value not in allowed:
            raise OptionError(f"--{flag} {value}: not an option of the family lift_vla; leave it out")
    from flashtrail.policies.lift_vla.policy import LiftPolicy

    _check_device(device)
    return LiftPolicy.load(artifact, settings, device, action_stats)


def _check_device(name: str) -> None:
    import torch

    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise OptionError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {name!r} is not on this machine; use --device cpu")


def set_threads(count: int) -> None:
    """Give each pass so many CPU threads."""
    import torch

    torch.set_num_threads(count)
