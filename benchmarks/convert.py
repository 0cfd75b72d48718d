"""Conversion of a checkpoint of pi0_libero's size: seconds, peak memory, and whether a second run gives the same bytes.

    make bench-convert         # or: python benchmarks/convert.py --scale 10    for a tenth of the size (1 min)

Writes a synthetic Orbax tree (OCDBT, zstd, float32) with the exact names and shapes of pi0_libero and random values,
13 GB, and a draft head of 110 M; one leaf at a time, so that this script stays small too. Converts both in fresh
processes, twice, and removes everything again. Peak memory is the kernel's high-water mark of each process (VmHWM).
`--chunks leaf` stores each leaf in one piece, which is hardest to read with little memory; `layer` cuts the layers
apart, `shards` cuts the last axis in eight, as a save from eight devices does.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, facts, layouts
from flashtrail.policies.pi0.dims import PI0_LIBERO, DraftDims, Pi0Dims

LIMIT_GB, LIMIT_S = 4.0, 600.0
BLOCK_VALUES = 16 * 2**20
PROMPTS = ["open the middle drawer of the cabinet", "put the bowl on the stove", "put the wine bottle on the cabinet"]


def scaled(dims: Pi0Dims, share: int) -> Pi0Dims:
    """The same widths with one `share`-th of the layers and of the vocabulary."""
    if share == 1:
        return dims
    cut = {
        name: dataclasses.replace(getattr(dims, name), depth=max(1, round(getattr(dims, name).depth / share)))
        for name in ("vision", "prefix", "expert")
    }
    return dataclasses.replace(dims, vocab_size=dims.vocab_size // share, **cut)


# --- the synthetic checkpoint ---


def values(seed: int, count: int) -> Iterator[np.ndarray]:
    """`count` normal float32 values of standard deviation 0.02, in blocks; the same for a seed everywhere."""
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed)))
    while count:
        block = rng.standard_normal(min(count, BLOCK_VALUES), dtype=np.float32)
        yield block * np.float32(0.02)
        count -= len(block)


def write_tree(params: Path, shapes: layouts.Shapes, cut: str, suffix: str) -> int:
    """Write an Orbax tree leaf by leaf, chunk by chunk; return its number of values."""
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{params.resolve()}/"}).result()
    seed = 0
    for leaf, shape in shapes.items():
        path = "params." + leaf.replace("/", ".") + suffix
        grid = _cut(shape, cut)
        meta = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": grid,
            "dtype": "<f4",
            "fill_value": None,
            "order": "C",
            "filters": None,
            "compressor": {"id": "zstd", "level": 1},
            "dimension_separator": ".",
        }
        store.write(f"{path}/.zarray", json.dumps(meta).encode()).result()
        for at in np.ndindex(*(-(-n // c) for n, c in zip(shape, grid, strict=True))):
            store.write(f"{path}/{'.'.join(map(str, at))}", _compressed(seed, math.prod(grid))).result()
            seed += 1
    (params / "_METADATA").write_text(json.dumps(described(shapes, suffix)), encoding="utf-8")
    return sum(math.prod(shape) for shape in shapes.values())


def described(shapes: layouts.Shapes, suffix: str) -> dict[str, Any]:
    """What Orbax keeps beside a tree and restores it by: each leaf's path. Conversion does without, parity does not."""
    leaves = {}
    for leaf in shapes:
        keys = ("params", *leaf.split("/"), *filter(None, suffix.split(".")))
        leaves[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    return {"tree_metadata": leaves, "use_zarr3": False, "store_array_data_equal_to_fill_value": True}


def _cut(shape: tuple[int, ...], cut: str) -> tuple[int, ...]:
    if cut == "layer" and len(shape) > 1:
        return (1 if len(shape) > 2 else -(-shape[0] // 8), *shape[1:])
    if cut == "shards" and shape[-1] % 8 == 0:
        return (*shape[:-1], shape[-1] // 8)
    return shape


class _Sink(io.BytesIO):
    """Keeps its bytes when the compressor closes it, so that they can be had without a copy."""

    def close(self) -> None:
        pass


def _compressed(seed: int, count: int) -> bytes:
    import pyarrow

    sink = _Sink()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        for block in values(seed, count):
            stream.write(memoryview(block).cast("B"))
    return sink.getvalue()


def write_draft(path: Path, dims: Pi0Dims) -> int:
    """Write a draft head's .pt as the trainer does: float32, its two norms bfloat16; return its number of values."""
    import torch

    draft = DraftDims.like(dims)
    shapes, head = layouts.draft_shapes(draft.to_dict()), {}
    for seed, (name, (key, transposed)) in enumerate(layouts.DRAFT_RULES.items()):
        shape = shapes[name][::-1] if transposed else shapes[name]
        flat = np.concatenate(list(values(1_000_000 + seed, math.prod(shape))))
        tensor = torch.from_numpy(flat.reshape(shape))
        head[key] = tensor.bfloat16() if "layernorm" in key else tensor
    meta = {f"draft_{name}": getattr(draft, name) for name in ("num_heads", "num_kv_heads", "head_dim")}
    torch.save({"draft_head": head, "meta": meta}, path)
    return sum(math.prod(shape) for shape in shapes.values())


def write_rest(source: Path) -> None:
    """Statistics and a small tokenizer, which a tree needs beside its parameters."""
    import sentencepiece

    stats = {key: {"mean": [0.0] * n, "std": [1.0] * n} for key, n in (("state", 8), ("actions", 7))}
    path = source / "assets/physical-intelligence/libero/norm_stats.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"norm_stats": stats}), encoding="utf-8")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS * 5), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2
    )
    (source / artifact.TOKENIZER).write_bytes(model.getvalue())
    described = {"action_horizon": 50, "delta_actions": True, "num_views": 2, "num_steps": 10, "max_token_len": 48}
    (source / facts.FACTS).write_text(json.dumps(described), encoding="utf-8")


# --- converting it ---


def convert(kind: str, source: Path, target: Path, dtype: str) -> dict[str, Any]:
    """Convert in this process and return seconds, peak memory and digest."""
    started, worked = time.perf_counter(), time.process_time()
    if kind == "base":
        manifest = artifact.convert_base(source, target, dtype)
    else:
        manifest = artifact.convert_draft(source / "draft.pt", target, dtype)
    peak = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - worked,
        "peak_gb": int(peak.split()[1]) * 1024 / 1e9,
        "sha256": manifest["files"][artifact.MODEL]["sha256"],
        "bytes": manifest["files"][artifact.MODEL]["bytes"],
        "digest": manifest["digest"],
    }


def measure(kind: str, source: Path, scratch: Path, dtype: str) -> list[str]:
    """Convert twice in fresh processes, print both; return what is not as it must be."""
    runs = []
    for turn in (1, 2):
        target = scratch / f"{kind}_{turn}"
        argv = [sys.executable, __file__, "--convert", kind, "--source", str(source), "--target", str(target)]
        done = subprocess.run([*argv, "--dtype", dtype], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(f"the conversion of {source} failed with exit code {done.returncode}")
        run = json.loads(done.stdout.splitlines()[-1])
        shutil.rmtree(target)
        runs.append(run)
        pace = f"{run['seconds']:.0f} s ({run['cpu_seconds']:.0f} s of one core)"
        print(
            f"{kind}, run {turn}: {pace}, peak memory {run['peak_gb']:.2f} GB, {run['bytes'] / 1e9:.2f} GB of {dtype}, "
            f"sha256 {run['sha256']}, artifact {run['digest']}",
            flush=True,
        )
    problems = []
    if len({(run["sha256"], run["digest"]) for run in runs}) > 1:
        problems.append(f"{kind}: the second run gave other bytes")
    if (peak := max(run["peak_gb"] for run in runs)) > LIMIT_GB:
        problems.append(f"{kind}: peak memory {peak:.2f} GB is over {LIMIT_GB} GB")
    if (slowest := max(run["seconds"] for run in runs)) > LIMIT_S:
        problems.append(f"{kind}: {slowest:.0f} s is over {LIMIT_S:.0f} s")
    return problems


def main() -> int:
    """Write, convert twice, remove; 1 if bytes, memory or time are not as they must be."""
    parser = commands.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--directory", type=Path, default=Path("results/bench_convert"), help="where 20 GB fit; removed afterwards")
    add("--scale", type=int, default=1, metavar="N", help="one N-th of the layers and of the vocabulary")
    add("--chunks", choices=("leaf", "layer", "shards"), default="leaf", help="how a leaf is cut in storage")
    add("--value-suffix", action="store_true", help="leaf names end in .value, as openpi's newer saves do")
    add("--dtype", choices=sorted(artifact.DTYPES), default="bfloat16")
    add("--keep", action="store_true", help="leave the synthetic checkpoint there")
    for name in ("--convert", "--source", "--target"):
        add(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert:
        print(json.dumps(convert(options.convert, Path(options.source), Path(options.target), options.dtype)))
        return 0
    dims = scaled(PI0_LIBERO, options.scale)
    shapes = layouts.source_shapes(dims.to_dict())
    source = options.directory / "source"
    options.directory.mkdir(parents=True, exist_ok=True)
    need = 6.5 * sum(math.prod(shape) for shape in shapes.values())
    if (free := shutil.disk_usage(options.directory).free) < need:
        raise UserError(f"{options.directory} has {free / 1e9:.0f} GB free, {need / 1e9:.0f} GB needed: --directory")
    try:
        shutil.rmtree(source, ignore_errors=True)
        started = time.perf_counter()
        suffix = ".value" if options.value_suffix else ""
        count = write_tree(source / "params", shapes, options.chunks, suffix)
        drafted = write_draft(source / "draft.pt", dims)
        write_rest(source)
        stored = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        print(
            f"wrote {count:,} base values in {len(shapes)} leaves, {drafted:,} draft values: "
            f"{stored / 1e9:.2f} GB in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        problems = measure("base", source, options.directory, options.dtype)
        problems += measure("draft", source, options.directory, options.dtype)
    finally:
        if not options.keep:
            shutil.rmtree(options.directory, ignore_errors=True)
    print("\n".join(problems) or f"within {LIMIT_GB:.0f} GB and {LIMIT_S:.0f} s, the second run identical")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "convert"))
