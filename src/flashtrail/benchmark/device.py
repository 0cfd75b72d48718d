"""The device itself: what it can do at most, measured, and its clocks and power, read and never set.

The ceilings are one large copy and one large matrix product of this machine, now; a shared or throttled device shows a
lower ceiling, and shares of it then flatter.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from flashtrail.benchmark.costs import Ceiling
from flashtrail.policies.pi0 import weights

REPEATS = 7
_COPY_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}  # far beyond any cache
_SIDE = {"cuda": 8192, "cpu": 2048}
_QUERIES = (
    *("name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.draw", "power.limit", "temperature.gpu", "clocks_throttle_reasons.active", "utilization.gpu"),
)


def measured_ceiling(device: str, dtype: str, scale: float = 1.0) -> Ceiling:
    """Best of a few repeats: a large copy (bytes read and written) and a large square product in `dtype`.

    `scale` shrinks both, for tests.
    """
    where, number = weights.resolve_device(device), weights.resolve_dtype(dtype)
    size, side = int(_COPY_BYTES[where.type] * scale), int(_SIDE[where.type] * scale)
    copy_s, product_s = _copy(size, where), _product(side, where, number)
    return Ceiling(f"measured on this {where.type}", 2 * size / copy_s, 2.0 * side**3 / product_s)


def _copy(size: int, where: torch.device) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    return _best(lambda: target.copy_(source), where)


def _product(side: int, where: torch.device, number: torch.dtype) -> float:
    generator = torch.Generator(where).manual_seed(0)
    a, b = (torch.empty(side, side, dtype=number, device=where).normal_(generator=generator) for _ in range(2))
    return _best(lambda: torch.mm(a, b), where)


def _best(work: Callable[[], Any], where: torch.device) -> float:
    """Seconds of the fastest of REPEATS runs, after two that are not counted."""
    times = []
    for _ in range(REPEATS + 2):
        wait(where)
        start = time.perf_counter()
        work()
        wait(where)
        times.append(time.perf_counter() - start)
    return min(times[2:])


def wait(where: torch.device) -> None:
    """Wait for what the device still has to do."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def clocks(device: str) -> dict[str, Any]:
    """Clocks, power and temperature of a GPU as nvidia-smi reads them; {} for a CPU."""
    where = weights.resolve_device(device)
    return smi(_uuid(where)) if where.type == "cuda" else {}


def _uuid(where: torch.device) -> str | None:
    """What nvidia-smi calls this device, which CUDA_VISIBLE_DEVICES may have renumbered; None if torch cannot say."""
    uuid = getattr(torch.cuda.get_device_properties(where), "uuid", None)
    return None if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"


def smi(uuid: str | None) -> dict[str, Any]:
    """One reading of nvidia-smi, by query name; {} where there is none or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader,nounits"]
    if uuid:
        command.append(f"--id={uuid}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return {}
    values = [value.strip() for value in answer.splitlines()[0].split(",")] if answer.strip() else []
    return dict(zip(_QUERIES, values, strict=True)) if len(values) == len(_QUERIES) else {}


def about(device: str) -> dict[str, Any]:
    """Name of the device and versions of what computes on it."""
    where = weights.resolve_device(device)
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["triton"] = importlib.metadata.version("triton")
    if where.type == "cuda":
        name = torch.cuda.get_device_name(where)
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    else:
        name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return {"device": str(where), "name": name, "versions": versions}
