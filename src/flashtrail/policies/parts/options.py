"""What a trained family without draft, kernels or half precision takes of a server's command line."""

from __future__ import annotations

from pathlib import Path

from flashtrail.policies.parts.errors import OptionError


def check(family: str, draft: Path | None, device: str, dtype: str, backend: str) -> None:
    """Raise OptionError for a flag that such a family does not take, or a device that is not there."""
    for flag, value, allowed in (
        ("draft", draft, (None,)),
        ("dtype", dtype, ("float32",)),
        ("backend", backend, ("auto", "torch")),
    ):
        if value not in allowed:
            raise OptionError(f"--{flag} {value}: not an option of the family {family}; leave it out")
    import torch

    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise OptionError(f"device {device!r} is not supported; use cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {device!r} is not on this machine; use --device cpu")


def set_threads(count: int) -> None:
    """Give each pass so many CPU threads."""
    import torch

    torch.set_num_threads(count)
