"""Which kernel launches a policy's recorded programs make, found on paper: without a device, memory or weights.

The runtime itself is run over meta tensors, and every launch is caught at Triton's JITFunction, after the launcher has
chosen tile and grid and Triton's own binder has specialised the arguments; so this cannot drift from the code. It
knows no compiled kernel (resources.py) and makes no table (kernels.py). TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from flashtrail.base.errors import UserError
from flashtrail.policies.pi0 import weights
from flashtrail.policies.pi0.backends import interpreted
from flashtrail.policies.pi0.dims import DraftDims, Pi0Dims
from flashtrail.policies.pi0.settings import FlashSettings

ALIGNED = 512  # bytes: where PyTorch's CUDA allocator begins a block


@dataclass(frozen=True)
class Card:
    """A CUDA device as data sheet and programming guide describe it; sizes in bytes, times in seconds."""

    name: str
    capability: int
    processors: int
    shared_block: int  # most shared memory of a block
    shared_processor: int
    warps: int  # most warps of a processor
    blocks: int  # most blocks of a processor
    bandwidth: float  # bytes/s
    latency: float  # s, from asking memory to having: an assumption, not a measurement
    cache_bandwidth: float  # bytes/s that the L2 cache gives all processors together: an assumption too

    @property
    def in_flight(self) -> float:
        """Bytes that must be on their way at any time for the full bandwidth (Little's law)."""
        return self.bandwidth * self.latency


CARDS = {
    "L40S": Card("L40S", 89, 142, 99 << 10, 100 << 10, 48, 24, 864e9, 700e-9, 4.0e12),
    "H200": Card("H200", 90, 132, 227 << 10, 228 << 10, 64, 32, 4.8e12, 800e-9, 5.5e12),
}


class StandIn:
    """A tensor as Triton's binder sees one: its dtype and the alignment of its first byte."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype, self.shape = tensor.dtype, tuple(tensor.shape)
        self._at = ALIGNED + int(tensor.storage_offset()) * tensor.element_size()

    def data_ptr(self) -> int:
        return self._at


@dataclass
class Launch:
    """One specialisation of a kernel: what would be compiled, and the grids it is started with."""

    function: Any  # triton's JITFunction
    arguments: tuple[Any, ...]  # of its first launch, tensors as StandIn
    constants: dict[str, Any]  # with num_warps and num_stages
    grids: dict[tuple[int, ...], int] = field(default_factory=dict)  # -> launches
    key: tuple[str, ...] = ()  # kernel, specialisation and options, as Triton tells them apart

    @property
    def kernel(self) -> str:
        return str(self.function.fn.__name__).removesuffix("_kernel")

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors of its first launch."""
        return [a.shape for a in self.arguments if isinstance(a, StandIn)]


class Driver:
    """What Triton asks of a device before it compiles: a number (here the capability), a stream, a target."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def get_current_device(self) -> int:
        return self._card.capability

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._card.capability, 32)


@contextlib.contextmanager
def driver_of(card: Card) -> Iterator[None]:
    """Triton compiles for this card; nothing can be started. UserError where Triton is absent or interprets."""
    if interpreted():
        raise UserError("TRITON_INTERPRET=1 is set, so that there is nothing to compile; unset it")
    try:
        from triton.runtime import driver
    except ImportError:
        raise UserError("the package triton is not installed; make setup installs it") from None
    before = driver._active
    driver.set_active(Driver(card))
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
        given = [*_tensors(args), *_tensors(kwargs)]
        # Indexing has a shape that depends on data only where the index is a mask.
        by_numbers = func is torch.ops.aten.index.Tensor and not any(t.dtype == torch.bool for t in given)
        self._found |= {f"{func} {why}" for tag, why in self._FORBIDDEN if tag in func.tags and not by_numbers}
        out = func(*args, **(kwargs or {}))
        tensors = [*given, *_tensors(out)]
        # A number in a 0-dim CPU tensor is passed by value.
        if any(not t.is_meta and t.dim() for t in tensors):
            self._found.add(f"{func} touches host memory")
        return out


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict):
        yield from _tensors(list(found.values()))
    elif isinstance(found, (list, tuple)):
        for part in found:
            yield from _tensors(part)


class Watched:
    """A recorder for the runtime's programs: each body runs as it is, and what capture would refuse is collected."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with _Watch(self.forbidden):
                body()

        return run


@dataclass
class Paper:
    """What was found: every launch, and the operations that no captured program may have."""

    launches: list[Launch]
    forbidden: set[str]


def on_paper(
    card: Card,
    dims: Pi0Dims,
    draft: DraftDims,
    dtype: str,
    together: int = 1,
    settings: FlashSettings | None = None,
) -> Paper:
    """Everything that warming up for `together` sessions would launch on this card, each specialisation once."""
    number = weights.resolve_dtype(dtype)
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
            one = found.setdefault(key, Launch(function, stand_ins, constants, key=key))
            one.grids[grid] = one.grids.get(grid, 0) + 1

        def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
            return {name: torch.empty(shape, dtype=number, device="meta") for name, shape in shapes.items()}

        recorder, chip = Watched(), Chip(card.processors, card.shared_block, wgmma=card.capability // 10 == 9)
        with (
            mock.patch.object(JITFunction, "run", start),
            mock.patch.object(launch, "chip", lambda device: chip),
            _Answers(),
        ):
            policy = meta(weights.base_shapes(dims)), dims, meta(weights.draft_shapes(draft)), draft
            runtime = TritonRuntime(*policy, recorder=recorder)
            runtime.warm_up(settings, together)
    return Paper(list(found.values()), recorder.forbidden)
