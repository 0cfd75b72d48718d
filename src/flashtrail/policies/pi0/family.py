"""pi0 with FLASH as the registry has it: settings, their short flags, errors, and how a policy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flashtrail.policies.pi0.errors import FlashError as Error
from flashtrail.policies.pi0.settings import FlashSettings as Settings

if TYPE_CHECKING:
    from flashtrail.policies.pi0.policy import FlashPolicy

__all__ = ["SHORT_FLAGS", "Error", "Settings", "load", "set_threads"]
SHORT_FLAGS = {"tau_radius": "--tau"}


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
) -> FlashPolicy:
    """See `policies.protocol.Family`. Passes are of open sessions: programs for more of them would never run."""
    from flashtrail.policies.pi0.batch import MAX_BATCH
    from flashtrail.policies.pi0.policy import FlashPolicy

    return FlashPolicy.load(
        artifact,
        draft,
        device,
        dtype,
        settings,
        backend=backend,
        action_stats=action_stats,
        together=min(together or MAX_BATCH, sessions),
    )


def set_threads(count: int) -> None:
    """Give each pass so many CPU threads."""
    import torch

    torch.set_num_threads(count)
