"""Which runtime computes: PyTorch everywhere, Triton kernels on a CUDA device where they are asked for by name.

`auto` takes PyTorch: kernels have to show on the device itself that they are right and faster (benchmark/examine.py).
The workflow has them examined and then asks by name. Asking is cheap and imports no kernel. Why a backend was taken is
part of the runtime's description.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.dims import Pi0Dims
from flashtrail.policies.pi0.errors import DeviceError, SettingsError
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings

BACKENDS = ("auto", "torch", "triton")
MEMORY = Path("/proc/meminfo")
_SUPPORTED = "float32", "bfloat16"
EXAMINE = "python -m flashtrail.benchmark examine"
ROOM = 1.5  # fused products are built beside their parts (weights.prepare); buffers, activations, libraries


@dataclass(frozen=True)
class Choice:
    """A backend, 'torch' or 'triton', and why it was taken."""

    name: str
    why: str


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a device (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not_triton(device: str, dtype: str) -> str | None:
    """What keeps the kernels from running on this device in this dtype; None if nothing does."""
    where = weights.resolve_device(device)
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (it comes with torch's CUDA build)"
    if where.type != "cuda" and not interpreted():
        return f"it needs a CUDA device and device is {device}"
    if where.type == "cuda" and interpreted():
        return "TRITON_INTERPRET=1 is set, which is for tests on a CPU; unset it"
    if dtype not in _SUPPORTED:
        return f"it computes in {' or '.join(_SUPPORTED)}, not in {dtype}"
    if where.type != "cuda" and dtype == "bfloat16":
        return "Triton's interpreter is wrong in bfloat16; use float32"
    if where.type == "cuda" and torch.cuda.get_device_capability(where)[0] < 8:
        return f"{torch.cuda.get_device_name(where)} is older than compute capability 8.0"
    return missing_build_tool() if where.type == "cuda" else None


def c_compiler() -> str | None:
    """The C compiler that Triton would use: $CC, one on the PATH, or the interpreter's own environment's.

    The last is not on the PATH where a server is started from another environment, as a shard starts it.
    """
    own = sorted((Path(sys.prefix) / "bin").glob("*-linux-gnu-cc"))
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or next(map(str, own), None)


def missing_build_tool() -> str | None:
    """What Triton would miss at the first launch, where it builds its launcher in C; None if nothing."""
    if c_compiler() is None:
        return "Triton builds its launcher with a C compiler and there is none (apt-get install gcc, or set CC)"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    headers = Path(sysconfig.get_paths(scheme=scheme)["include"])
    if not (headers / "Python.h").exists():
        return f"Triton builds its launcher in C and {headers} has no Python.h (apt-get install python3-dev)"
    return None


def choose(backend: str, device: str, dtype: str) -> Choice:
    """The backend for what was asked. DeviceError where 'triton' cannot be had; SettingsError for an unknown name."""
    if backend not in BACKENDS:
        raise SettingsError(f"backend {backend!r} is not known; use one of {', '.join(BACKENDS)}")
    if backend == "torch":
        return Choice("torch", "asked for by name")
    if backend == "auto" and weights.resolve_device(device).type != "cuda":
        return Choice("torch", "auto: the device is a CPU")  # the interpreter is for tests
    reason = why_not_triton(device, dtype)
    if backend == "triton":
        if reason is not None:
            raise DeviceError(f"backend triton cannot be used: {reason}; or use backend torch")
        return Choice("triton", "asked for by name")
    if reason is not None:
        warnings.warn(f"backend auto takes torch: {reason}", stacklevel=2)
        return Choice("torch", f"auto: {reason}")
    return Choice(
        "torch", f"auto: the kernels have not been examined here; `{EXAMINE}` does it, backend triton takes them"
    )


def check_device(device: str, dtype: str, dims: Pi0Dims | None = None) -> None:
    """Raise DeviceError if the device cannot compute in `dtype`, or has no room for weights of these dims."""
    where, number = weights.resolve_device(device), weights.resolve_dtype(dtype)
    if where.type == "cuda" and number == torch.bfloat16 and torch.cuda.get_device_capability(where)[0] < 8:
        raise DeviceError(f"{torch.cuda.get_device_name(where)} does not compute in bfloat16; use --dtype float32")
    if dims is None:
        return
    numbers = sum(torch.Size(shape).numel() for shape in weights.base_shapes(dims).values())
    need, free = ROOM * numbers * number.itemsize, free_memory(where)
    if free is not None and need > free:
        raise DeviceError(
            f"{device} has {free / 1e9:.1f} GB free; {numbers / 1e9:.2f} billion weights in {dtype} need about "
            f"{need / 1e9:.1f} GB: {_what_fits(where, numbers, number.itemsize, free)}"
        )


def _what_fits(where: torch.device, numbers: int, itemsize: int, free: int) -> str:
    need, half = ROOM * numbers * itemsize, ROOM * numbers * 2
    if itemsize > 2 and half <= free:
        return "bfloat16 would fit"
    host = free_memory(torch.device("cpu"))
    if where.type == "cuda" and host is not None and need <= host:
        return "cpu would fit it, slowly; or free some"
    least = f", or {half / 1e9:.1f} GB in bfloat16" if itemsize > 2 else ""
    return f"free some, or use a machine with that much{least}"


def free_memory(where: torch.device) -> int | None:
    """Bytes that can be had now without swapping; None where the system does not say."""
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0])
    try:
        lines = MEMORY.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def load_runtime(
    base_dir: str | Path,
    draft_dir: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    backend: str = "auto",
    settings: FlashSettings | None = None,
    together: int = 1,
) -> TorchRuntime:
    """A runtime from artifact directories. Raises ArtifactError, DeviceError.

    Where it records programs it is warmed up for passes of up to `together` sessions.
    """
    choice = choose(backend, device, dtype)
    cls = runtime_class(choice.name)
    if choice.name == "triton" and (compiler := c_compiler()):
        os.environ.setdefault("CC", compiler)
    check_device(device, dtype, weights.read_dims(base_dir))
    try:
        runtime = cls.load(base_dir, draft_dir, device, dtype)
        warm_up(runtime, settings, together)
    except (MemoryError, RuntimeError) as error:  # others may have taken what was free when it was asked for
        if not out_of_memory(error):
            raise
        check_device(device, dtype, weights.read_dims(base_dir))
        remedies = ["end what else runs there"]
        remedies += ["use bfloat16"] if dtype == "float32" else []
        remedies += [f"let fewer than {together} sessions share a pass (--max-batch)"] if together > 1 else []
        remedies += ["use cpu"] if weights.resolve_device(device).type == "cuda" else []
        raise DeviceError(
            f"{device} ran out of memory while the policy was loaded in {dtype}: {', or '.join(remedies)}"
        ) from None
    runtime.backend_why = choice.why
    return runtime


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: PyTorch has a class for CUDA's, and only a message for the CPU's."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def runtime_class(name: str) -> type[TorchRuntime]:
    """The runtime of a chosen backend; kernels are imported only for 'triton'."""
    if name == "torch":
        return TorchRuntime
    from flashtrail.policies.pi0.kernels.runtime import TritonRuntime

    return TritonRuntime


def warm_up(runtime: Any, settings: FlashSettings | None = None, together: int = 1) -> None:
    """Let a runtime record what it will need, if it records; on a device only, as the interpreter takes its time."""
    if hasattr(runtime, "warm_up") and runtime.device.type == "cuda":
        runtime.warm_up(settings, together)
