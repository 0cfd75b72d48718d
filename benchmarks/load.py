"""Load on a policy server from the outside: sessions that ask without pause, sessions that come and go.

Each session plays episodes as a simulator would: it executes what was accepted, asks again at once, and begins anew
after `EPISODE_ROUNDS` rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from flashtrail.serving.protocol import EXECUTED_STEPS_KEY, NOISE_SEED_KEY, RESET_KEY, packb, parse_reply

EPISODE_ROUNDS = 25
_MAX_REPLY_BYTES = 16 * 2**20
_REPLY_S = 60.0


@dataclass
class Load:
    """What a load gave: rounds by route and by batch size, round-trip times in ms, errors in words."""

    sessions: int
    seconds: float = 0.0
    routes: Counter[str] = field(default_factory=Counter)
    batches: Counter[int] = field(default_factory=Counter)
    times_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def rounds_per_s(self) -> float:
        """Answered rounds per second."""
        return len(self.times_ms) / self.seconds if self.seconds else 0.0

    def line(self) -> str:
        """One line for a person."""
        p50, p95, p99 = np.percentile(self.times_ms or [np.nan], (50, 95, 99))
        routes = ", ".join(f"{count} {route}" for route, count in sorted(self.routes.items()))
        together = sum(size * count for size, count in self.batches.items()) / max(1, sum(self.batches.values()))
        return (
            f"{self.sessions:3d} sessions, {self.seconds:.0f} s: {self.rounds_per_s:.1f} rounds/s "
            f"({routes}; {together:.1f} in a pass); "
            f"round trip p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms; errors {len(self.errors)}"
        )


def synthetic_observations(count: int, prompts: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Return observations with drifting colour blocks for views: what they show is no matter, their size is."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        blocks = rng.integers(0, 256, (2, 14, 14, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)
        found.append(
            {
                "observation/image": blocks[0],
                "observation/wrist_image": blocks[1],
                "observation/state": rng.normal(0.0, 0.3, 8),
                "prompt": prompts[index % len(prompts)],
            }
        )
    return found


async def ask_for(url: str, sessions: int, seconds: float, observations: Sequence[Mapping[str, Any]]) -> Load:
    """Let `sessions` sessions ask without pause for `seconds`; an error ends its session and is counted."""
    load = Load(sessions)
    started = time.perf_counter()
    until = started + seconds
    await asyncio.gather(*(_session(url, number, until, observations, load) for number in range(sessions)))
    load.seconds = time.perf_counter() - started
    return load


async def _session(url: str, number: int, until: float, observations: Sequence[Mapping[str, Any]], load: Load) -> None:
    try:
        async with _connection(url) as connection:
            executed = 0
            for index in itertools.count():
                if time.perf_counter() >= until:
                    return
                request = {
                    **observations[(number + index) % len(observations)],
                    EXECUTED_STEPS_KEY: executed,
                    RESET_KEY: index % EPISODE_ROUNDS == 0,
                    NOISE_SEED_KEY: [number, index],
                }
                executed = await _round(connection, request, load)
    except (OSError, TimeoutError, WebSocketException, ValueError) as error:
        load.errors.append(f"session {number}: {type(error).__name__}: {error}")


async def _round(connection: ClientConnection, request: Mapping[str, Any], load: Load) -> int:
    start = time.perf_counter()
    await connection.send(packb(request))
    answer = await asyncio.wait_for(connection.recv(), _REPLY_S)
    if isinstance(answer, str):
        raise ValueError(answer)
    reply = parse_reply(answer, _MAX_REPLY_BYTES)
    if not np.isfinite(reply["actions"]).all():
        raise ValueError("an action is not finite")
    load.times_ms.append((time.perf_counter() - start) * 1000)
    load.routes[str(reply["policy_timing"].get("route_type", "full"))] += 1
    load.batches[int(reply["policy_timing"].get("batch_size", 1))] += 1
    return min(12, int(reply["accepted_prefix_len"]))


@contextlib.asynccontextmanager
async def _connection(url: str) -> AsyncIterator[ClientConnection]:
    async with connect(url, compression=None, proxy=None, max_size=_MAX_REPLY_BYTES, open_timeout=30) as connection:
        await asyncio.wait_for(connection.recv(), _REPLY_S)  # the handshake frame
        yield connection


async def come_and_go(url: str, cycles: int, observation: Mapping[str, Any], at_once: int = 8) -> list[str]:
    """Connect and disconnect `cycles` times; return what went wrong.

    Of every four one closes properly, one is cut off, one asks for a round first, and one leaves before the answer.
    """
    errors: list[str] = []
    request = packb({**observation, RESET_KEY: True})

    async def cycle(number: int) -> None:
        try:
            async with _connection(url) as connection:
                if number % 4 >= 2:
                    await connection.send(request)
                if number % 4 == 2:
                    await asyncio.wait_for(connection.recv(), _REPLY_S)
                elif number % 4 in (1, 3):
                    connection.transport.abort()
        except (OSError, TimeoutError, WebSocketException) as error:
            errors.append(f"cycle {number}: {type(error).__name__}: {error}")

    for first in range(0, cycles, at_once):
        await asyncio.gather(*(cycle(number) for number in range(first, min(cycles, first + at_once))))
    return errors


@dataclass(frozen=True)
class Held:
    """What a process holds: resident memory in MB, open files, threads. Linux only."""

    memory_mb: float
    files: int
    threads: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """Look at a process; OSError where there is none (or no /proc)."""
        place = Path("/proc") / str(pid)
        pages = int((place / "statm").read_text(encoding="utf-8").split()[1])
        files, threads = (sum(1 for _ in (place / name).iterdir()) for name in ("fd", "task"))
        return cls(pages * resource.getpagesize() / 1e6, files, threads)


async def let_go(pid: int, before: Held, seconds: float = 5.0) -> Held:
    """Return what the process holds once its files are back to `before`, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while (held := Held.by(pid)).files > before.files and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return held
