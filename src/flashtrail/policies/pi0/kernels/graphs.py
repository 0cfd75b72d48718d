"""Stages recorded once and replayed: CUDA graphs over static buffers, and what a benchmark needs to know of them.

A program is a body that reads static input buffers and writes static output buffers; a recorder makes of it something
that replays. Importing this needs no CUDA: `Eager` runs the body anew each time, which is the same program without a
graph, and what the tests run.

What only a device can run was checked by reading, in Triton 3.6.0 and 3.7.1 and PyTorch 2.13 (2.11's interfaces are the
same where named); (test): a CPU test holds it, (the command): `make kernels-compile` does.
- a body touches host memory, waits for a number, or draws random ones during capture: none does: every body is run
  over meta tensors and its operations inspected (test, and the command).
- a kernel is compiled or loaded during capture: two warm-up runs of the same body come first, with the same
  alignments: PyTorch's blocks begin at 512 bytes in the pool too (test).
- Triton compiles for and starts on the *current* device; PyTorch's default capture stream belongs to the device
  current at the process's first capture: capture runs under the runtime's device, on its own streams (test).
- cuBLAS's workspace is cached by stream: a library that drops PyTorch's workspaces (torch.compile's graphs do) would
  leave the graph with freed memory: the capture stream is not the warm-up's, so the workspace comes out of the pool
  (test: two streams).
- one pool for all graphs: replays run one after another on one stream; only buffers allocated outside pass between
  graphs; each writes its temporary memory before reading it.
- another thread uses CUDA during capture: `capture_error_mode="thread_local"`.
- the first launch builds a C module: needs a compiler and Python.h (3.6 builds one for each signature, 3.7 one):
  ``backend: triton`` says so in one line beforehand (test).
- the counter's hook, `knobs.runtime.jit_post_compile_hook`: called after each new specialisation, found on disk or
  not, with the same keywords but `target` in 3.7; it takes any.
- a kernel asks Triton for scratch memory, for which a capture has no allocator: none does (the command).
- `non_blocking` copies from pageable arrays whose memory is then freed: the driver stages them before it returns, on
  hosts whose memory the GPU does not read itself (a Grace Hopper would).
- dtype conversion in such a copy: on the device: images cross as float32, 1.2 MB for two views.
- inference tensors changed in place outside inference mode: each entry point of the runtime enters it.
- attention's choice of kernel: flash attention for views (head size 72), memory-efficient or cuDNN under the prefix
  mask (last side a multiple of 8 in all buckets); chosen in warm-up, the same in capture.
- 32-bit offsets: the largest is gated_gelu's, 16 x 816 rows x 32,768 = 4.3e8.
- a program for a batch with unread rows: rows do not meet; lengths are 1 and token ids 0 there.
- float32 through TF32: kernels: no (the command looks at each product); matrix products of PyTorch: off by default;
  convolutions of a stem (pi0_nano): on by default, switched off for float32 on CUDA.
- bfloat16 sums in cuBLAS: `allow_bf16_reduced_precision_reduction` is on, PyTorch's default, for both backends; the
  examination compares them with float32.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from flashtrail.policies.pi0.errors import ObservationError

PROMPT_BUCKETS = (16, 24, 32, 48)
WARM_UP_RUNS = 2  # before capture: kernels compile and libraries choose their algorithms


def buckets_for(max_tokens: int) -> tuple[int, ...]:
    """Prompt buckets up to a policy's max_token_len, which is always the last."""
    return (*(b for b in PROMPT_BUCKETS if b < max_tokens), max_tokens)


def bucket_of(tokens: int, buckets: Sequence[int]) -> int:
    """The least bucket that holds so many prompt tokens; ObservationError when none does."""
    for bucket in buckets:
        if tokens <= bucket:
            return bucket
    raise ObservationError(f"a prompt of {tokens} tokens is longer than this policy's {buckets[-1]}; shorten it")


@dataclass
class Counters:
    """Graph captures and kernel compilations of this process; what happens after `settle` should have happened before.

    Compilations are counted by Triton's own hook. In the interpreter there are none.
    """

    captures: int = 0
    compilations: int = 0
    _settled: tuple[int, int] = field(default=(0, 0), repr=False)

    def settle(self) -> None:
        """Warm-up is over."""
        self._settled = (self.captures, self.compilations)

    @property
    def late(self) -> dict[str, int]:
        """Captures and compilations since `settle`."""
        return {"captures": self.captures - self._settled[0], "compilations": self.compilations - self._settled[1]}

    def watch_compilations(self) -> None:
        """Count from here on whatever Triton compiles in this process; an earlier hook is still called."""
        from triton import knobs

        earlier = knobs.runtime.jit_post_compile_hook

        def count(**facts: Any) -> Any:
            self.compilations += 1
            return earlier(**facts) if earlier is not None else None

        knobs.runtime.jit_post_compile_hook = count


class Recorder(Protocol):
    """Makes a replay of a body that only touches tensors of one device."""

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Return what runs `body`'s work again on the same tensors."""


class Eager:
    """No graph: the body itself is the replay."""

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        return body


class CudaGraphs:
    """Captures bodies on one CUDA device. All graphs share one memory pool: they run one after another on a stream.

    What a body leaves behind must lie in buffers allocated outside it; temporary memory is the next graph's too.
    A failed capture raises; nothing falls back in silence. Not yet run on a device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._made: tuple[Any, Any, Any] | None = None

    def _own(self) -> tuple[Any, Any, Any]:
        """Memory pool, stream of warm-up, stream of capture, made on this device when first needed.

        PyTorch's own capture stream belongs to the device that was current when the process first captured anything.
        Warm-up has another stream than capture, so that cuBLAS takes its workspace for the capture stream out of the
        pool, where it stays even if another library drops PyTorch's workspaces (torch.compile's graphs do).
        """
        if self._made is None:
            self._made = torch.cuda.graph_pool_handle(), torch.cuda.Stream(), torch.cuda.Stream()
        return self._made

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        # Triton compiles for and starts on the current device, whatever device its arguments lie on.
        with torch.cuda.device(self.device):
            pool, side, capture = self._own()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP_RUNS):
                    body()
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Only this thread's doings can spoil the capture: a server has others.
            with torch.cuda.graph(graph, pool=pool, stream=capture, capture_error_mode="thread_local"):
                body()
        return graph.replay


class Programs:
    """Recorded programs by key; each is recorded when first asked for, and counted."""

    def __init__(self, recorder: Recorder, counters: Counters) -> None:
        self.recorder, self.counters = recorder, counters
        self._replays: dict[Hashable, Callable[[], None]] = {}

    def run(self, key: Hashable, body: Callable[[], None]) -> None:
        """Run the program `key`, recording `body` if there is none yet: later bodies must be the same program.

        A body runs in warm-up too, so it must not change what it reads.
        """
        replay = self._replays.get(key)
        if replay is None:
            replay = self._replays[key] = self.recorder.record(body)
            self.counters.captures += 1
        replay()

    def __len__(self) -> int:
        return len(self._replays)


def fill(buffer: Tensor, value: Any) -> None:
    """Copy an array or tensor into a static buffer of its shape, converting the dtype; asynchronous on CUDA."""
    source = torch.as_tensor(value)
    if tuple(source.shape) != tuple(buffer.shape):
        raise ValueError(f"a buffer of shape {tuple(buffer.shape)} was given {tuple(source.shape)}")
    buffer.copy_(source, non_blocking=True)
