"""lift_vla as the registry has it: settings, errors, and how a policy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flashtrail.policies.lift_vla.errors import LiftError as Error
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.policies.parts import options
from flashtrail.policies.parts.options import set_threads

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
    options.check("lift_vla", draft, device, dtype, backend)
    from flashtrail.policies.lift_vla.policy import LiftPolicy

    return LiftPolicy.load(artifact, settings, device, action_stats)
