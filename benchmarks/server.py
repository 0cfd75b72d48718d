"""The policy server under load, over loopback: what batching gives, what 32 sessions get, whether anything leaks.

    make bench-server          # or: python benchmarks/server.py --artifact DIR --draft DIR

Starts the server with its own defaults, a worker for each core; `--workers 1` is what a shard gets. Prints rounds per
second of eight sessions against one (taken in turns in the same run, medians), a load of 32 sessions with percentiles,
errors and memory, and 1,000 connections that come and go. Client and server share the cores.
Latency of a single round is not measured here: `profile_routes` does that, alone on the device.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

import load

from flashtrail.base import commands
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import PolicyServerProcess, free_port

PROMPTS = [
    "open the middle drawer of the cabinet",
    "put the bowl on the stove",
    "put the wine bottle on top of the cabinet",
]
MAX_GROWTH_MB = 20.0


async def measure(server: PolicyServerProcess, words: argparse.Namespace) -> list[str]:
    """Run the three parts; return what is not as it must be."""
    observations, troubles = load.synthetic_observations(24, PROMPTS), []
    await load.ask_for(server.url, words.sessions, words.warm_up, observations)
    pace: dict[int, list[float]] = {1: [], 8: []}
    for _ in range(words.turns):
        for sessions, seen in pace.items():
            found = await load.ask_for(server.url, sessions, words.turn, observations)
            print(found.line(), flush=True)
            seen.append(found.rounds_per_s)
            troubles += found.errors
    ratio = statistics.median(pace[8]) / statistics.median(pace[1])
    print(f"eight sessions against one: {ratio:.2f}x the rounds per second (median of {words.turns} turns each)")

    before = load.Held.by(server.pid)
    found = await load.ask_for(server.url, words.sessions, words.seconds, observations)
    held = await load.let_go(server.pid, before)
    print(f"{found.line()}, memory growth {held.memory_mb - before.memory_mb:.1f} MB", flush=True)
    troubles += found.errors + leaks("load", before, held)

    await load.come_and_go(server.url, 100, observations[0])
    before = load.Held.by(server.pid)
    errors = await load.come_and_go(server.url, words.cycles, observations[0])
    held = await load.let_go(server.pid, before)
    print(
        f"{words.cycles} connections came and went: errors {len(errors)}, memory growth "
        f"{held.memory_mb - before.memory_mb:.1f} MB, open files {before.files} -> {held.files}, "
        f"threads {before.threads} -> {held.threads}"
    )
    return troubles + errors + leaks("come and go", before, held)


def leaks(what: str, before: load.Held, after: load.Held) -> list[str]:
    """Return what was not given back."""
    found = [name for name in ("files", "threads") if getattr(after, name) > getattr(before, name)]
    found += ["memory"] if after.memory_mb - before.memory_mb > MAX_GROWTH_MB else []
    return [f"{what}: {name} leaked" for name in found]


def main() -> int:
    """Exit code 1 where there was an error or a leak; the ratio is printed, not judged: machines differ."""
    parser = commands.Parser(prog="benchmarks/server.py")
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1, help="of one pass")
    parser.add_argument("--workers", type=int, help="passes at once (default: the server's own)")
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3, help="of one and of eight sessions")
    parser.add_argument("--turn", type=float, default=8, help="seconds")
    parser.add_argument("--warm-up", type=float, default=15, help="seconds; the allocator must have seen every size")
    words = parser.parse_args()
    port = free_port()
    command = serve_command(
        words.artifact,
        port=port,
        draft=words.draft,
        device=words.device,
        dtype=words.dtype,
        threads=words.threads,
        workers=words.workers,
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        PolicyServerProcess(command, Path(directory) / "server.log", port, 300) as server,
    ):
        troubles = asyncio.run(measure(server, words))
        server.check()
    for trouble in troubles:
        print(f"error: {trouble}", file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "server"))
