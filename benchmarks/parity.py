"""The parity gate at pi0_libero's widths: how far each stage stays below its bound, with random weights.

    python benchmarks/parity.py --scale 6        # a sixth of the layers: 3 of 18, 540 M values, 7 GB of disk, 2 min

Writes the synthetic checkpoint of convert.py, converts it in both dtypes and runs `check_parity` on each, source in JAX
against artifact in PyTorch. The golden model that the tests use is 64 numbers wide; sums grow with the width. Memory is
some 9 GB for each 1 B values, so that a whole model (`--scale 1`) needs 28 GB.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import convert  # the synthetic checkpoint of benchmarks/convert.py, beside this file

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, layouts, parity
from flashtrail.policies.pi0.dims import PI0_LIBERO


def write_source(source: Path, scale: int) -> int:
    """Write the tree, draft, statistics and tokenizer as a fetched checkpoint; return how many values the tree has."""
    dims = convert.scaled(PI0_LIBERO, scale)
    count = convert.write_tree(source / "params", layouts.source_shapes(dims.to_dict()), "leaf", "")
    convert.write_draft(source / "draft.pt", dims)
    convert.write_rest(source)
    return count


def judge(source: Path, target: Path, dtype: str) -> dict[str, Any]:
    """Convert and compare; the gate's record, also of an artifact that it refuses."""
    artifact.convert_base(source, target / "base", dtype)
    artifact.convert_draft(source / "draft.pt", target / "draft", dtype, target / "base")
    record = target / "parity.json"
    try:
        return parity.check_parity(source, target / "base", target / "draft", report=record)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        found: dict[str, Any] = provenance.json_load(record)
        return found


def table(record: dict[str, Any]) -> str:
    """The worst row of each group of stages, by its share of its bound."""
    worst: dict[str, tuple[float, dict[str, Any]]] = {}
    for row in record["stages"]:
        if row.get("peak") is None or not row["tolerance"]["peak"]:
            continue
        group = row["stage"].split("/layer")[0].split("/velocity_")[0]
        share = max(row[kind] / row["tolerance"][kind] for kind in ("peak", "mean"))
        if share > worst.get(group, (-1.0, {}))[0]:
            worst[group] = share, row
    lines = [f"{'stage, its worst layer':34}{'peak':>10}{'mean':>10}{'of its bound':>14}"]
    for share, row in worst.values():
        lines.append(f"{row['stage']:34}{row['peak']:10.1e}{row['mean']:10.1e}{share:14.2f}")
    return "\n".join(lines)


def main() -> int:
    """Write, convert, compare, remove; 1 where a stage is over its bound."""
    parser = commands.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("results/bench_parity"), help="removed afterwards")
    parser.add_argument(
        "--scale", type=int, default=6, metavar="N", help="one N-th of the layers and of the vocabulary"
    )
    options = parser.parse_args()
    passed = True
    try:
        shutil.rmtree(options.directory, ignore_errors=True)
        print(f"{write_source(options.directory / 'source', options.scale):,} random values", flush=True)
        for dtype in sorted(artifact.DTYPES, reverse=True):
            record = judge(options.directory / "source", options.directory / dtype, dtype)
            shutil.rmtree(options.directory / dtype)
            print(f"\n{dtype} artifact: {'passed' if record['passed'] else 'refused'}\n{table(record)}", flush=True)
            passed &= record["passed"]
    finally:
        shutil.rmtree(options.directory, ignore_errors=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(commands.run(main, "parity"))
