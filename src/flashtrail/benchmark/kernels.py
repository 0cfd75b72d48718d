"""`python -m flashtrail.benchmark.kernels`: compiles every kernel that a policy would launch, for cards not at hand.

    python -m flashtrail.benchmark.kernels                                    # pi0_libero and pi0_nano, L40S and H200
    python -m flashtrail.benchmark.kernels --policy pi0_libero --card H200 --dtype bfloat16 --together 1

Needs no GPU: Triton compiles to the binary, and nothing is run or timed. Prints what each kernel takes of the card.
The exit status is 1 where one does not compile, takes more shared memory than there is, spills, or makes its products
without matrix instructions or through tf32, and where a program does what cannot be captured in a CUDA graph.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.benchmark import streaming
from flashtrail.benchmark.launches import CARDS, Card, on_paper
from flashtrail.benchmark.presets import preset
from flashtrail.benchmark.resources import Compiled, compile_all
from flashtrail.policies.pi0.dims import Pi0Dims

POLICIES, DTYPES = ("pi0_libero", "pi0_nano"), ("bfloat16", "float32")
MOST_VIEWS, MOST_TOGETHER = 3, 16
_HEADINGS = ("kernel", "shapes", "tile", "w/s", "programs", "regs", "spill", "KiB", "a SM", "occ.", "matrix", "loads")
_TILE = ("BM", "BN", "BC", "BK", "BD", "BH", "ROWS", "BLOCK", "SPLIT")


def parser() -> argparse.ArgumentParser:
    """The flags; each of the first three may be given more than once."""
    found = commands.Parser(prog="python -m flashtrail.benchmark.kernels", description=(__doc__ or "").split("\n")[0])
    add = found.add_argument
    add("--policy", action="append", choices=POLICIES, help="default: both")
    add("--card", action="append", choices=tuple(CARDS), help="default: all")
    add("--dtype", action="append", choices=DTYPES, help="default: both")
    add("--kernel", action="append", metavar="NAME", help="only this kernel, as the table calls it")
    add("--views", type=int, default=MOST_VIEWS, help=f"1 to so many views (default: {MOST_VIEWS})")
    add("--together", type=int, default=MOST_TOGETHER, help=f"sessions in a pass (default: {MOST_TOGETHER})")
    add("--json", type=Path, metavar="FILE", help="write the record there")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Compile and print; errors that a user can mend are one line."""
    try:
        return run(parser().parse_args(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(words: argparse.Namespace) -> int:
    """-> 1 if anything is at fault, else 0."""
    if not 1 <= words.views <= MOST_VIEWS or not 1 <= words.together <= MOST_TOGETHER:
        raise UserError(f"--views is 1 to {MOST_VIEWS}, --together 1 to {MOST_TOGETHER}")
    import triton

    records, faults = [], []
    for name in words.policy or POLICIES:
        for card in (CARDS[c] for c in words.card or CARDS):
            for dtype in words.dtype or DTYPES:
                about = f"{name}, {dtype}, {card.name} (sm_{card.capability}), Triton {triton.__version__}"
                compiled, forbidden = _one(name, card, dtype, words)
                print(f"\n{about}: {len(compiled)} specialisations\n{table(card, compiled)}", flush=True)
                print(streaming.table(card, compiled), flush=True)
                found = [f"{about}: {why}" for why in forbidden] + _faults(about, card, compiled)
                faults += found
                kernels = [one.to_dict(card) for one in compiled]
                records.append({"policy": name, "dtype": dtype, "card": card.name, "kernels": kernels, "faults": found})
    print("\n".join(["", *faults, f"{len(faults)} faults"]))
    if words.json is not None:
        words.json.parent.mkdir(parents=True, exist_ok=True)
        provenance.json_dump({"triton": triton.__version__, "compiled": records}, words.json)
    return 1 if faults else 0


def _one(name: str, card: Card, dtype: str, words: argparse.Namespace) -> tuple[list[Compiled], list[str]]:
    dims, draft = preset(name)
    paper = on_paper(card, thin(replace(dims, num_views=words.views)), draft, dtype, words.together)
    known = {one.kernel for one in paper.launches}
    if unknown := set(words.kernel or ()) - known:
        raise UserError(f"--kernel {min(unknown)}: nothing of that name is launched{nearest(min(unknown), known)}")
    wanted = [one for one in paper.launches if one.kernel in (words.kernel or known)]
    ordered = sorted(wanted, key=lambda one: (one.kernel, one.shapes))
    return compile_all(card, ordered, lambda line: print(line, file=sys.stderr)), sorted(paper.forbidden)


def thin(dims: Pi0Dims) -> Pi0Dims:
    """Two layers of each stack and two Euler steps: the others launch the same kernels at the same alignments."""
    prefix, expert = (replace(d, depth=min(2, d.depth)) for d in (dims.prefix, dims.expert))
    vision = replace(dims.vision, depth=min(2, dims.vision.depth))
    return replace(dims, prefix=prefix, expert=expert, vision=vision, num_steps=min(2, dims.num_steps))


def _faults(about: str, card: Card, compiled: Sequence[Compiled]) -> list[str]:
    return [f"{about}: {one.launch.kernel} {_tile(one)}: {why}" for one in compiled for why in one.faults(card)]


def table(card: Card, compiled: Sequence[Compiled]) -> str:
    """One row for each kernel and tile: the largest of what its specialisations take, the span of their grids."""
    rows: dict[tuple[str, str, str], list[Compiled]] = {}
    for one in compiled:
        warps = f"{one.launch.constants.get('num_warps')}/{one.launch.constants.get('num_stages', '-')}"
        rows.setdefault((one.launch.kernel, _tile(one), warps), []).append(one)
    cells = [_HEADINGS, *(_row(card, *key, group) for key, group in rows.items())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADINGS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _tile(one: Compiled) -> str:
    return " ".join(f"{k}{one.launch.constants[k]}" for k in _TILE if k in one.launch.constants)


def _row(card: Card, kernel: str, tile: str, warps: str, group: Sequence[Compiled]) -> tuple[str, ...]:
    first = group[0].launch
    shapes = " ".join("x".join(map(str, shape)) for shape in first.shapes[:3])
    counts = sorted(_product(grid) for one in group for grid in one.launch.grids)
    programs = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]}-{counts[-1]}"
    found = [one.resources for one in group if one.resources is not None]
    if not found:
        return (kernel, shapes, tile, warps, programs, "-", "-", "-", "-", "-", "-", group[0].error[:60])
    worst = max(found, key=lambda r: (r.spilled, r.registers, r.shared))
    matrix = " ".join(sorted({name for name in worst.matrix}))
    loads = [f"{n}x{width}" for width, n in worst.loads.items()] + [f"{n}x{w}a" for w, n in worst.copies.items()]
    return (
        *(kernel, shapes, tile, warps, programs),
        str(max(r.registers for r in found)),
        str(max(r.spilled for r in found)),
        f"{max(r.shared for r in found) / 1024:.0f}",
        str(min(r.blocks(card) for r in found)),
        f"{min(r.occupancy(card) for r in found):.0%}",
        matrix or "-",
        " ".join(loads),
    )


def _product(grid: tuple[Any, ...]) -> int:
    total = 1
    for n in grid:
        total *= int(n)
    return total


if __name__ == "__main__":
    sys.exit(commands.run(main, "kernels"))
