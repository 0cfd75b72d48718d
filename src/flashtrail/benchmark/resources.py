"""What one compiled kernel takes of a device, read from its binary: registers, spills, shared memory, instructions.

Compiles for a card that need not be there, and disassembles with the tools that come in Triton's package. Knows no
policy (launches.py has what is launched) and no time.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashtrail.benchmark.launches import Card, Launch, driver_of

REGISTERS = 65536  # of a processor, on every card listed
RESERVED = 1024  # bytes of shared memory that the system takes of each block
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][\w.]*)")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
_BITS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


@dataclass(frozen=True)
class Resources:
    """Of one specialisation on one card. Loads are counted as they stand in the code, not as they are executed."""

    registers: int  # a thread
    spilled: int  # bytes of local memory a thread, and 4 for each instruction that touches any
    shared: int  # bytes a block
    warps: int
    matrix: dict[str, int]  # matrix instructions by name
    loads: dict[int, int]  # global loads into registers: bytes a thread -> instructions
    copies: dict[int, int]  # global to shared memory without registers: the same
    dots: tuple[str, ...]  # operand types and precision of each product, from Triton's code
    scratch: int = 0  # bytes of global memory that a launch would ask an allocator for

    def blocks(self, card: Card) -> int:
        """Blocks that fit a processor at once, by registers, shared memory, warps and blocks."""
        warp = -(-max(self.registers, 1) * 32 // 256) * 256
        by_registers = REGISTERS // (warp * self.warps)
        by_shared = card.shared_processor // (self.shared + RESERVED)
        return min(card.blocks, card.warps // self.warps, by_registers, by_shared)

    def occupancy(self, card: Card) -> float:
        """Share of a processor's warps that can be resident."""
        return self.blocks(card) * self.warps / card.warps

    def faults(self, card: Card) -> list[str]:
        """What must not be, in words; none is fine."""
        found = []
        if self.shared > card.shared_block:
            found.append(f"{self.shared / 1024:.0f} KiB of shared memory, {card.name} has {card.shared_block >> 10}")
        if self.spilled:
            found.append(f"spills {self.spilled} bytes")
        if any(dot.startswith(("bf16", "f16")) for dot in self.dots) and not self.matrix:
            found.append("a 16-bit product without matrix instructions")
        if any(dot.startswith("?") for dot in self.dots):
            found.append("a product whose types could not be read from Triton's code")
        if any("tf32" in dot for dot in self.dots):
            found.append("a float32 product goes through tf32")
        if self.scratch:
            found.append(f"asks for {self.scratch} bytes of scratch memory, for which nothing allocates")
        return found


@dataclass(frozen=True)
class Compiled:
    """A launch with what came of compiling it: resources, or the compiler's complaint."""

    launch: Launch
    resources: Resources | None
    error: str = ""

    def faults(self, card: Card) -> list[str]:
        return [self.error] if self.resources is None else self.resources.faults(card)

    def to_dict(self, card: Card) -> dict[str, Any]:
        """JSON-ready."""
        found: dict[str, Any] = {
            "kernel": self.launch.kernel,
            "card": card.name,
            "shapes": self.launch.shapes,
            "constants": {k: v for k, v in self.launch.constants.items() if v is not None},
            "grids": [{"grid": list(grid), "launches": n} for grid, n in self.launch.grids.items()],
            "faults": self.faults(card),
        }
        if self.resources is not None:
            found["resources"] = asdict(self.resources)
            found["blocks_a_processor"] = self.resources.blocks(card)
            found["occupancy"] = self.resources.occupancy(card)
        return found


def compile_all(
    card: Card, launches: Sequence[Launch], say: Callable[[str], None] = lambda line: None
) -> list[Compiled]:
    """Every launch compiled for the card, as the launch itself would compile it (Triton's cache on disk is used)."""
    found = []
    with driver_of(card):
        for number, launch in enumerate(launches, 1):
            say(f"{card.name}: {launch.kernel} ({number} of {len(launches)})")
            found.append(_compile(launch))
    return found


def _compile(launch: Launch) -> Compiled:
    grid = next(iter(launch.grids))
    try:
        kernel = launch.function.run(*launch.arguments, grid=grid, warmup=True, **launch.constants)
        return Compiled(launch, _resources(kernel))
    except Exception as error:  # of any of Triton's passes, LLVM or ptxas: what they raise has no common class
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Compiled(launch, None, f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}")


def _resources(kernel: Any) -> Resources:
    text = _disassembled(kernel.asm["cubin"])
    registers, stack = (int(n) for n in _USAGE.findall(text)[0])
    names = Counter(_INSTRUCTION.findall(text))
    local = sum(n for name, n in names.items() if name.split(".")[0] in ("STL", "LDL"))
    matrix = {name: n for name, n in names.items() if name.split(".")[0] in ("HMMA", "HGMMA", "QGMMA", "QMMA")}
    return Resources(
        registers,
        stack + 4 * local,
        int(kernel.metadata.shared),
        int(kernel.metadata.num_warps),
        matrix,
        _widths(names, "LDG"),
        _widths(names, "LDGSTS"),
        tuple(_dots(kernel.asm["ttgir"])),
        int(kernel.metadata.global_scratch_size) + int(kernel.metadata.profile_scratch_size),
    )


def _widths(names: Counter[str], opcode: str) -> dict[int, int]:
    found: Counter[int] = Counter()
    for name, count in names.items():
        first, *parts = name.split(".")
        if first == opcode:
            found[next((_BITS[part] for part in parts if part in _BITS), 4)] += count
    return dict(sorted(found.items(), reverse=True))


def _dots(ttgir: str) -> list[str]:
    """Types of a and b and the precision of every product in Triton's GPU code, as 'bf16 ieee'."""
    found = []
    for line in ttgir.splitlines():
        if "tt.dot " in line or "warp_group_dot " in line:
            kind = re.search(r": (?:tensor|!ttg.memdesc)<[\dx]*x(\w+)", line)
            precision = re.search(r"inputPrecision = (\w+)", line)
            found.append(f"{kind.group(1) if kind else '?'} {precision.group(1) if precision else 'ieee'}")
    return found


def _disassembled(cubin: bytes) -> str:
    from triton import knobs

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
