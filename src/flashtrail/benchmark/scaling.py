"""Memory and time by the number of tokens: a field, and attention of its width, depth, patch and parameters beside it.

Each model, mode and size has a process for its peaks and one for its times, with one pass after another: batch 1, no
optimiser. A peak is the kernel's high-water mark of the process (Linux) or the CUDA allocator's, beyond what was held
before the pass.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrail.base import machine
from flashtrail.base.errors import UserError
from flashtrail.benchmark.device import wait
from flashtrail.experiment.sections import Scaling
from flashtrail.policies.fluid.dims import FluidDims
from flashtrail.policies.fluid.model import FluidVLA
from flashtrail.statistics import resampling
from flashtrail.statistics.intervals import Interval
from flashtrail.tables import measurements
from flashtrail.tables.measurements import Figure

TITLE = "Memory and time by the number of tokens"
MODES = ("forward", "training")
MODELS: dict[str, dict[str, Any]] = {
    "fluid_12": {"core": "ours", "steps": 12},
    "fluid_3": {"core": "ours", "steps": 3},
    "vit_plain": {"core": "vit", "attention": "plain"},
    "vit_fused": {"core": "vit", "attention": "fused"},
}
WORDS = {"fluid_12": "field of 12 steps", "fluid_3": "field of 3 steps"}
WORDS |= {"vit_plain": "plain attention", "vit_fused": "fused attention"}
FLUIDS = {"fluid_12": "", "fluid_3": "_3_steps"}  # how the names of their figures end
SIZES: dict[str, Any] = {"views": 1, "prompt": None, "width": 96, "layers": 2, "heads": 4, "dilations": (1, 2)}
SIZES |= {"lags": (1, 2)}
_QUANTITIES = {"memory": "peak_bytes", "time": "seconds"}
_PROC = Path("/proc/self")
_M_MMAP_THRESHOLD, _OWN_MAP = -3, 32 << 10  # glibc's malloc.h; bytes from which a block has pages of its own


class Point(NamedTuple):
    """One model in one mode at one size: what a process measures."""

    model: str
    mode: str
    pixels: int
    frames: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.model} {self.mode}, {self.pixels} px x {self.frames} frames ({self.tokens} tokens)"


# --- measuring ---


def measured(
    settings: Scaling, threads: int, report: Callable[[str], None] = print
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one row a repeat (`schemas.SCALING`), and a sentence for each point that is left out, and why.

    UserError where the device is not there, does not say its memory, or has too little.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("measured.scaling.device: this machine has no CUDA device: leave it out, for cpu")
    free = machine.free_memory() if settings.device == "cpu" else _in_process("CUDA", torch.cuda.mem_get_info)[0]
    if free is None or (settings.device == "cpu" and not (_PROC / "clear_refs").exists()):
        raise UserError("measured.scaling: this system does not say what memory a process takes: run it on Linux")
    rows, left_out = [], []
    for size in settings.sizes:
        for point in (Point(model, mode, *size) for mode in MODES for model in MODELS):
            needed = predicted(point)
            if needed > free / 2:
                left_out.append(f"{point}: left out, {needed / 1e9:.1f} GB are over half of the free {free / 1e9:.1f}")
                report(left_out[-1])
                continue
            job = (point, settings.patch, settings.repeats, threads, settings.device)
            peaks, times = (_in_process(str(point), passes, *job, measure) for measure in (peak, seconds))
            if min(peaks) <= 0:
                raise UserError(f"{point}: needs too little memory to be told: take more pixels or frames")
            for repeat, (most, taken) in enumerate(zip(peaks, times, strict=True)):
                rows.append({**point._asdict(), "repeat": repeat, "peak_bytes": most, "seconds": taken})
            report(f"{point}: {np.median(peaks) / 1e6:.1f} MB, {1e3 * np.median(times):.1f} ms")
    return rows, left_out


def predicted(point: Point) -> int:
    """Return the bytes that plain attention needs at the least: its matrices, heads x tokens x tokens of 4 bytes.

    Two at once in a forward pass (scores and their softmax); in training each layer keeps one, and two are the
    gradients. 0 for the other models, which have none.
    """
    matrices = 2 if point.mode == "forward" else SIZES["layers"] + 2
    return 4 * SIZES["heads"] * point.tokens**2 * matrices if point.model == "vit_plain" else 0


def _in_process(name: str, work: Callable[..., Any], *given: Any) -> Any:
    """Return what a function returns in a new process, forked from one that has imported torch and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, given), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise UserError(f"{name}: its process was killed, for want of memory perhaps: take a smaller size") from None
    finally:
        process.join()


def _answer(sender: Connection, work: Callable[..., Any], given: Sequence[Any]) -> None:
    sender.send(work(*given))


def passes(
    point: Point, patch: int, repeats: int, threads: int, device: str, measure: Callable[..., float]
) -> list[float]:
    """Return what `measure`, peak or seconds, says of each repeat, after a pass that counts for nothing.

    The dims are not checked: the pixels of a served policy must divide the wire's, these need not.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if measure is peak:
        own_maps()
    sizes = SIZES | MODELS[point.model] | {"pixels": point.pixels, "frames": point.frames, "patch": patch}
    model = FluidVLA(FluidDims.model_construct(**sizes)).to(device)
    pictures = torch.rand(1, 1, point.frames, 3, point.pixels, point.pixels, device=device) * 2 - 1
    work = partial(_forward if point.mode == "forward" else _training, model, pictures)
    return [measure(work, torch.device(device)) for _ in range(repeats + 1)][1:]


def _forward(model: FluidVLA, pictures: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.evolve(model.embed(pictures, None)).u


def _training(model: FluidVLA, pictures: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model.evolve(model.embed(pictures, None)).u.square().mean().backward()


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return the time of a pass, from edge to edge of the device's work."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def own_maps() -> None:
    """Give each block of this process pages of its own from now on, so that what is freed is gone.

    glibc keeps freed blocks in its heap, and an aligned request often does not fit into one of its own size, which made
    peaks up to four times too large. It takes time, so times are those of another process.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _OWN_MAP)


def peak(work: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes that a pass held at once, its result included, beyond what was held before."""
    gc.collect()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        ctypes.CDLL(None).malloc_trim(0)
        (_PROC / "clear_refs").write_text("5", encoding="ascii")
        before = _resident("VmRSS")
    kept = work()
    wait(device)
    most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")
    del kept  # not earlier: it is part of the peak
    return most - before


def _resident(field: str) -> int:
    """Return a field of this process's status, bytes: memory that is resident now (VmRSS) or was at most (VmHWM)."""
    line = next(
        line for line in (_PROC / "status").read_text(encoding="ascii").splitlines() if line.startswith(f"{field}:")
    )
    return int(line.split()[1]) << 10


# --- what is made of the rows ---

Logs = dict[tuple[int, int, int], NDArray[Any]]  # tokens, pixels, frames, ascending -> logarithms


def logarithms(rows: Sequence[Mapping[str, Any]], quantity: str) -> dict[tuple[str, str], Logs]:
    """Return the mean logarithm of a quantity over the repeats of each point, by model and mode.

    Behind it stand those of RESAMPLES resamples of the repeats within their point.
    """
    values: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        key = row["model"], row["mode"], (row["tokens"], row["pixels"], row["frames"])
        values.setdefault(key, []).append(math.log(row[quantity]))
    out: dict[tuple[str, str], Logs] = {}
    for seed, ((model, mode, size), found) in enumerate(sorted(values.items())):
        resampled = resampling.draws(len(found), seed=seed) @ np.array(found) / len(found)
        out.setdefault((model, mode), {})[size] = np.concatenate([[np.mean(found)], resampled])
    return out


def slope(tokens: Sequence[int], logs: NDArray[Any]) -> NDArray[Any]:
    """Return the least-squares slopes of logarithms (sizes, n) over log tokens: (n,). 1 is linear, 2 quadratic."""
    x = np.log(tokens) - np.mean(np.log(tokens))
    slopes: NDArray[Any] = x @ logs / (x @ x)
    return slopes


def crossing(tokens: Sequence[int], differences: NDArray[Any]) -> NDArray[Any]:
    """Return the number of tokens beyond which differences (sizes, n) stay below zero: (n,).

    Linear in log tokens between two sizes; 0 where all are below zero, infinite where the last one is not.
    """
    x, out = np.log(tokens), np.zeros(differences.shape[1])
    for column, d in enumerate(differences.T):
        last = max(np.flatnonzero(d >= 0), default=None)
        if last is not None:
            ends = last == len(x) - 1
            out[column] = math.inf if ends else math.exp(np.interp(0, [-d[last], -d[last + 1]], x[last : last + 2]))
    return out


def figures(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Figure], list[str]]:
    """Return slopes, ratios at the largest and the smallest common size, crossings; a sentence where none is seen."""
    found: list[Figure] = []
    sentences: list[str] = []
    repeats = len({row["repeat"] for row in rows})
    logs = {what: logarithms(rows, column) for what, column in _QUANTITIES.items()}
    for what, of_model in logs.items():
        for (model, mode), sizes in of_model.items():
            if len({size[0] for size in sizes}) > 1:
                values = slope([size[0] for size in sizes], np.array(list(sizes.values())))
                title = f"{what}, slope of log over log tokens: {WORDS[model]}, {mode}"
                found.append(_figure(f"{what}_slope_{model}_{mode}", title, values, repeats * len(sizes), "passes"))
    for mode, fluid, other in itertools.product(MODES, FLUIDS, ("plain", "fused")):
        pair = f"{WORDS[fluid]}, and {WORDS[f'vit_{other}']}, {mode}"
        for what, of_model in logs.items():
            mine, theirs = (of_model.get((model, mode), {}) for model in (fluid, f"vit_{other}"))
            if not (over := {size: mine[size] - theirs[size] for size in mine if size in theirs}):
                continue
            name = f"{other}_{mode}{FLUIDS[fluid]}"
            found += _ratios(what, name, pair, over, repeats)
            if what == "time":
                seen = _crossing(name, pair, over, repeats)
                found += [seen] if isinstance(seen, Figure) else []
                sentences += [seen] if isinstance(seen, str) else []
    return found, sentences


def _ratios(what: str, name: str, pair: str, over: Logs, repeats: int) -> Iterator[Figure]:
    """Yield how many times the field's is attention's; of plain attention's memory, how many times it is below."""
    below = what == "memory" and name.startswith("plain")
    title = f"{what} of {'attention over that of the field' if below else 'the field over that of attention'}"
    for place, size in (("", max(over)), ("_smallest", min(over))):
        values = np.exp(-over[size] if below else over[size])
        own = f"{what}_{'below' if below else 'against'}_{name}{place}"
        yield _figure(own, f"{title}, {size[0]} tokens: {pair}", values, repeats, "repeats")


def _crossing(name: str, pair: str, over: Logs, repeats: int) -> Figure | str:
    tokens = sorted({size[0] for size in over})
    means = [np.mean([values for size, values in over.items() if size[0] == count], axis=0) for count in tokens]
    beyond = crossing(tokens, np.array(means))
    if 0 < beyond[0] < math.inf:
        title = f"tokens beyond which the field is faster, of {tokens[0]} to {tokens[-1]} tried: {pair}"
        inside = beyond.clip(tokens[0], tokens[-1])
        return _figure(f"tokens_faster_than_{name}", title, inside, 2 * repeats * len(over), "passes")
    size = f"slower at the largest size, {tokens[-1]}" if beyond[0] else f"faster at each size from {tokens[0]}"
    return f"{pair}: the field is {size} tokens"


def _figure(name: str, title: str, values: NDArray[Any], n: int, of: str) -> Figure:
    """Return a figure of a value and its resamples; where all repeats agree to the byte the interval is that value."""
    value, interval = float(values[0]), resampling.percentile_interval(values[1:])
    return measurements.figure(name, title, value, interval or Interval(value, value), n, of)


def method(settings: Scaling, where: str, sentences: Sequence[str]) -> str:
    """Return what was done, where, and what of it is no figure."""
    sizes = f"width {SIZES['width']}, {SIZES['layers']} layers, patch {settings.patch}, {SIZES['heads']} heads, batch 1"
    said = (
        f"{sizes}, float32, random weights; a process a point, a warm-up and {settings.repeats} passes; peak memory "
        "beyond what was held before, time from edge to edge of the device's work; training: a forward and a backward "
        f"pass. On {where}. Intervals: repeats resampled within their point, 95 %"
    )
    return ". ".join([said, *sentences]) + "."
