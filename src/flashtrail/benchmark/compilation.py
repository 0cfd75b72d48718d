"""`python -m flashtrail.benchmark compile`: every kernel that a policy would launch, compiled for cards not at hand.

    python -m flashtrail.benchmark compile                                    # pi0_libero and pi0_nano, L40S and H200
    python -m flashtrail.benchmark compile --policy pi0_libero --card H200 --dtype bfloat16 --together 1

Needs no GPU and runs no kernel. The runtime's own warm-up runs over meta tensors, and every launch is caught at
Triton's JITFunction, after the launcher has chosen tile and grid and Triton's binder has specialised the arguments; so
this cannot drift from the code. The exit status is 1 where a kernel does not compile, takes more shared memory than
the card has, spills, makes a 16-bit product without matrix instructions or a float32 one through tf32, or asks for
scratch memory, and where a program does what a CUDA graph cannot hold. TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.backends import interpreted
from flashtrail.policies.pi0.dims import PRESETS, DraftDims, Pi0Dims

DTYPES = ("bfloat16", "float32")
MOST_VIEWS, MOST_TOGETHER = 3, 16
ALIGNED = 512  # bytes: where PyTorch's CUDA allocator begins a block
_TILE = ("BM", "BN", "BC", "BK", "BD", "BH", "ROWS", "BLOCK", "SPLIT")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][\w.]*)")
MATRIX = ("HMMA", "HGMMA", "QGMMA", "QMMA")


@dataclass(frozen=True)
class Card:
    """A CUDA device as its data sheet describes it."""

    name: str
    capability: int
    processors: int
    shared: int  # most bytes of shared memory of a block


CARDS = {"L40S": Card("L40S", 89, 142, 99 << 10), "H200": Card("H200", 90, 132, 227 << 10)}


# --- which kernels are launched ---


class StandIn:
    """A tensor as Triton's binder sees one: its dtype and the alignment of its first byte."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype = tensor.dtype
        self._at = ALIGNED + int(tensor.storage_offset()) * tensor.element_size()

    def data_ptr(self) -> int:
        return self._at


@dataclass(frozen=True)
class Launch:
    """One specialisation of a kernel: what would be compiled."""

    function: Any  # triton's JITFunction
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]  # tensors as StandIn
    constants: dict[str, Any]  # with num_warps and num_stages

    @property
    def kernel(self) -> str:
        return str(self.function.fn.__name__).removesuffix("_kernel")


@contextlib.contextmanager
def driver_of(card: Card) -> Iterator[None]:
    """Triton compiles for this card; nothing can be started. UserError where Triton is absent or interprets."""
    if interpreted():
        raise UserError("TRITON_INTERPRET=1 is set, so that there is nothing to compile; unset it")
    try:
        from triton.backends.compiler import GPUTarget
        from triton.runtime import driver
    except ImportError:
        raise UserError("the package triton is not installed; make setup installs it") from None
    before, target = driver._active, GPUTarget("cuda", card.capability, 32)
    asked = {"get_current_device": lambda: card.capability, "get_current_stream": lambda _device: 0}
    driver.set_active(SimpleNamespace(**asked, get_current_target=lambda: target))
    try:
        yield
    finally:
        driver._active = before


class _Answers(TorchFunctionMode):
    """What is copied back from a meta tensor is zeros."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.cpu and args[0].is_meta:
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        return func(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Collects operations that a captured program must not have: host memory, a synchronisation, random numbers."""

    _FORBIDDEN = (
        (torch.Tag.data_dependent_output, "waits for a number from the device"),
        (torch.Tag.dynamic_output_shape, "has an output whose shape the host must wait for"),
        (torch.Tag.nondeterministic_seeded, "draws random numbers"),
    )

    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # In inference mode composite operations arrive whole: look inside.
        with self:
            inner = func.decompose(*args, **(kwargs or {}))
        if inner is not NotImplemented:
            return inner
        given = _tensors((args, kwargs))
        # Indexing has a shape that depends on data only where the index is a mask.
        by_numbers = func is torch.ops.aten.index.Tensor and not any(t.dtype == torch.bool for t in given)
        self._found |= {f"{func} {why}" for tag, why in self._FORBIDDEN if tag in func.tags and not by_numbers}
        out = func(*args, **(kwargs or {}))
        # A number in a 0-dim CPU tensor is passed by value.
        if any(not t.is_meta and t.dim() for t in [*given, *_tensors(out)]):
            self._found.add(f"{func} touches host memory")
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


class Watched:
    """A recorder for the runtime's programs: each body runs as it is, and what capture would refuse is collected."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with _Watch(self.forbidden):
                body()

        return run


def launches_of(
    card: Card, dims: Pi0Dims, dtype: str, together: int = 1
) -> tuple[dict[tuple[str, ...], Launch], set[str]]:
    """What warming up for `together` sessions would launch on this card, each specialisation once, by Triton's key.

    Beside them the operations that no captured program may have.
    """
    number, draft = weights.resolve_dtype(dtype), DraftDims.like(dims)
    found: dict[tuple[str, ...], Launch] = {}
    with driver_of(card):
        from triton.runtime.jit import JITFunction

        from flashtrail.policies.pi0.kernels import launch
        from flashtrail.policies.pi0.kernels.runtime import TritonRuntime
        from flashtrail.policies.pi0.kernels.tiles import Chip

        def start(function: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **constants: Any) -> None:
            stand_ins = tuple(StandIn(a) if isinstance(a, Tensor) else a for a in arguments)
            *_, binder = function.device_caches[card.capability]
            _, specialization, options = binder(*stand_ins, **constants)
            key = (function.fn.__name__, str(specialization), str(options))
            found.setdefault(key, Launch(function, grid, stand_ins, constants))

        def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
            return {name: torch.empty(shape, dtype=number, device="meta") for name, shape in shapes.items()}

        recorder, chip = Watched(), Chip(card.processors, card.shared, wgmma=card.capability // 10 == 9)
        with (
            mock.patch.object(JITFunction, "run", start),
            mock.patch.object(launch, "chip", lambda device: chip),
            _Answers(),
        ):
            policy = meta(weights.base_shapes(dims)), dims, meta(weights.draft_shapes(draft)), draft
            TritonRuntime(*policy, recorder=recorder).warm_up(None, together)
    return found, recorder.forbidden


def thin(dims: Pi0Dims) -> Pi0Dims:
    """Two layers of each stack and two Euler steps: the others launch the same kernels at the same alignments."""
    stacks = {name: getattr(dims, name) for name in ("vision", "prefix", "expert")}
    cut = {name: replace(d, depth=min(2, d.depth)) for name, d in stacks.items()}
    return replace(dims, **cut, num_steps=min(2, dims.num_steps))


# --- what comes of compiling them ---


@dataclass(frozen=True)
class Resources:
    """What one specialisation takes of one card, read from its binary."""

    registers: int  # a thread
    spilled: int  # bytes of local memory a thread, and 4 for each instruction that touches any
    shared: int  # bytes a block
    scratch: int  # bytes of global memory that a launch would ask an allocator for
    instructions: dict[str, int]  # matrix instructions and copies to shared memory, as they stand in the code
    dots: list[str]  # operand types and precision of each product, from Triton's code

    def faults(self, card: Card) -> list[str]:
        """What must not be, in words; none is fine."""
        found = []
        if self.shared > card.shared:
            found.append(f"{self.shared / 1024:.0f} KiB of shared memory, {card.name} has {card.shared >> 10}")
        if self.spilled:
            found.append(f"spills {self.spilled} bytes")
        matrix = any(name.startswith(MATRIX) for name in self.instructions)
        if any(dot.startswith(("bf16", "f16")) for dot in self.dots) and not matrix:
            found.append("a 16-bit product without matrix instructions")
        if any(dot.startswith("?") for dot in self.dots):
            found.append("a product whose types could not be read from Triton's code")
        if any("tf32" in dot for dot in self.dots):
            found.append("a float32 product goes through tf32")
        if self.scratch:
            found.append(f"asks for {self.scratch} bytes of scratch memory, for which nothing allocates")
        return found


def compiled(card: Card, launch: Launch) -> dict[str, Any]:
    """Compile as the launch itself would (Triton's cache on disk is used); JSON-ready: resources and faults."""
    constants = {k: v for k, v in launch.constants.items() if v is not None}
    record: dict[str, Any] = {"kernel": launch.kernel, "constants": constants, "resources": None}
    try:
        kernel = launch.function.run(*launch.arguments, grid=launch.grid, warmup=True, **launch.constants)
        resources = _resources(kernel)
    except Exception as error:  # of any of Triton's passes, LLVM or ptxas: what they raise has no common class
        lines = [line for line in str(error).splitlines() if line.strip()]
        return record | {"faults": [f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"]}
    return record | {"resources": asdict(resources), "faults": resources.faults(card)}


def _resources(kernel: Any) -> Resources:
    from triton import knobs

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert usage is not None, text[:200]
    names = Counter(_INSTRUCTION.findall(text))
    local = sum(n for name, n in names.items() if name.startswith(("STL", "LDL")))
    kept = {name: n for name, n in sorted(names.items()) if name.startswith((*MATRIX, "LDGSTS"))}
    metadata = kernel.metadata
    scratch = int(metadata.global_scratch_size) + int(metadata.profile_scratch_size)
    shared = int(metadata.shared)
    return Resources(int(usage[1]), int(usage[2]) + 4 * local, shared, scratch, kept, products(kernel.asm["ttgir"]))


def products(ttgir: str) -> list[str]:
    """Operand type and precision of every product in Triton's GPU code, as 'bf16 ieee'."""
    found = []
    for line in ttgir.splitlines():
        if "tt.dot " in line or "warp_group_dot " in line:
            kind = re.search(r": (?:tensor|!ttg.memdesc)<[\dx]*x(\w+)", line)
            precision = re.search(r"inputPrecision = (\w+)", line)
            found.append(f"{kind[1] if kind else '?'} {precision[1] if precision else 'ieee'}")
    return found


# --- the command ---


def parser() -> commands.Parser:
    """The flags; each of the first four may be given more than once."""
    found = commands.Parser(prog="python -m flashtrail.benchmark compile", description=(__doc__ or "").split("\n")[0])
    add = found.add_argument
    add("--policy", action="append", choices=tuple(PRESETS), help="default: all")
    add("--card", action="append", choices=tuple(CARDS), help="default: all")
    add("--dtype", action="append", choices=DTYPES, help="default: both")
    add("--kernel", action="append", metavar="NAME", help="only this kernel, as the table calls it")
    add("--views", type=int, default=MOST_VIEWS, help=f"1 to so many views (default: {MOST_VIEWS})")
    add("--together", type=int, default=MOST_TOGETHER, help=f"sessions in a pass (default: {MOST_TOGETHER})")
    add("--json", type=Path, metavar="FILE", help="write the record there")
    return found


def main(words: Sequence[str]) -> int:
    """Compile and print; 1 if anything is at fault. Raises UserError."""
    given = parser().parse_args(words)
    if not 1 <= given.views <= MOST_VIEWS or not 1 <= given.together <= MOST_TOGETHER:
        raise UserError(f"--views is 1 to {MOST_VIEWS}, --together 1 to {MOST_TOGETHER}")
    records, faults = [], []
    for name in given.policy or PRESETS:
        for card in (CARDS[c] for c in given.card or CARDS):
            for dtype in given.dtype or DTYPES:
                about = f"{name}, {dtype}, {card.name} (sm_{card.capability})"
                print(f"\n{about}", flush=True)
                dims = thin(replace(PRESETS[name], num_views=given.views))
                launches, forbidden = launches_of(card, dims, dtype, given.together)
                kernels = _compile_all(card, list(launches.values()), given.kernel)
                found = [f"{line(one)}: {why}" for one in kernels for why in one["faults"]]
                faults += [f"{about}: {why}" for why in [*sorted(forbidden), *found]]
                print(f"{len(kernels)} specialisations, {len(faults)} faults so far", flush=True)
                records.append({"policy": name, "dtype": dtype, "card": card.name, "kernels": kernels})
    print("\n".join(["", *faults, f"{len(faults)} faults"]))
    if given.json is not None:
        import triton

        provenance.json_dump({"triton": triton.__version__, "compiled": records, "faults": faults}, given.json)
    return 1 if faults else 0


def _compile_all(card: Card, launches: Sequence[Launch], only: Sequence[str] | None) -> list[dict[str, Any]]:
    known = {one.kernel for one in launches}
    if unknown := set(only or ()) - known:
        raise UserError(f"--kernel {min(unknown)}: nothing of that name is launched{nearest(min(unknown), known)}")
    found = []
    with driver_of(card):
        for one in sorted((one for one in launches if one.kernel in (only or known)), key=lambda one: one.kernel):
            found.append(compiled(card, one))
            print(line(found[-1]), flush=True)
    return found


def line(one: dict[str, Any]) -> str:
    """A compiled kernel with its tile, in a line."""
    tile = " ".join(f"{k}{one['constants'][k]}" for k in _TILE if k in one["constants"])
    if (r := one["resources"]) is None:
        return f"{one['kernel']:16} {tile}"
    return f"{one['kernel']:16} {tile:34} {r['registers']:4} registers {r['shared'] / 1024:4.0f} KiB"
