"""`python -m flashtrail.benchmark`: both routes timed on random inputs against what the device can do at most.

    python -m flashtrail.benchmark --random pi0_nano                          # a CPU
    python -m flashtrail.benchmark --random pi0_libero --device cuda --rounds 2000
    python -m flashtrail.benchmark --random pi0_libero --device cuda --official ../realtime-vla-flash
    python -m flashtrail.benchmark examine --artifact DIR --draft DIR         # are the kernels right here, and faster?
    python -m flashtrail.benchmark compile                                    # every kernel, for cards not at hand
    python -m flashtrail.benchmark served --artifact DIR --demos DIR          # any family, on a training set's frames

Prints a table and writes JSON. The exit status is 1 where anything was captured or compiled after warm-up.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flashtrail.base import commands, machine, provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.benchmark import compiled, device, record
from flashtrail.benchmark.costs import stage_costs
from flashtrail.benchmark.official import OfficialRounds
from flashtrail.benchmark.workload import Contender, EngineRounds, Workload, random_runtime, take_turns
from flashtrail.policies.pi0 import backends, weights
from flashtrail.policies.pi0.dims import PRESETS, DraftDims
from flashtrail.policies.pi0.errors import FlashError
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import MOST_SAMPLES, FlashSettings

POLICIES = {"cpu": "pi0_nano", "cuda": "pi0_libero"}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
ROUNDS = {"cpu": 500, "cuda": 2000}
BUSY = 0.25  # share of the cores that other programs took


def parser() -> argparse.ArgumentParser:
    """The flags; what depends on the device is filled in later."""
    found = commands.Parser(prog="python -m flashtrail.benchmark", description=(__doc__ or "").split("\n")[0])
    add = found.add_argument
    add("--random", metavar="NAME", help=f"random weights with the dims of {' or '.join(PRESETS)} (by device)")
    add("--artifact", type=Path, metavar="DIR", help="the base artifact, in place of random weights")
    add("--draft", type=Path, metavar="DIR", help="its draft artifact")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda (default: cuda if any)")
    add("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on cuda, float32 on a CPU")
    add("--backend", default="auto", choices=("auto", "torch", "triton"))
    add("--views", type=int, default=2)
    add("--prompt", type=int, default=20, metavar="TOKENS", help="length of the prompt (default: 20)")
    add("--rounds", type=int, help="timed rounds of each route (default: 2000 on cuda, 500 on a CPU)")
    add("--seconds", type=float, default=math.inf, help="begin no turn after so many seconds (default: all turns)")
    add("--warmup", type=int, default=20, help="rounds of each route before them (default: 20)")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add("--official-time-bias", action="store_true", help="clamp verification times as the official verifier does")
    add("--official", type=Path, metavar="PATH", help="time an official checkout too, taking turns")
    add("--samples", type=int, metavar="N", help="time full rounds under N noises beside those under one, taking turns")
    add("--eager", action="store_true", help="time the PyTorch stages beside another backend, taking turns")
    add("--no-compiled", action="store_true", help="leave out torch.compile")
    add("--compiler", default="inductor", help="torch.compile's backend (default: inductor)")
    add("--no-ceiling", action="store_true", help="leave out the large copy and product")
    add("--json", type=Path, metavar="FILE", help="write the record there")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for; an error that a user can mend is a UserError."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        if words[:1] == ["examine"]:
            from flashtrail.benchmark import examine

            return examine.main(words[1:])
        if words[:1] == ["compile"]:
            from flashtrail.benchmark import compilation

            return compilation.main(words[1:])
        if words[:1] == ["served"]:
            from flashtrail.benchmark import served

            return served.main(words[1:])
        return time_rounds(parser().parse_args(words))
    except FlashError as error:
        raise UserError(str(error)) from error


def time_rounds(words: argparse.Namespace) -> int:
    """Measure, print the table, write the record; 1 where anything was late."""
    try:
        found = measure(words)
    except (MemoryError, RuntimeError) as error:
        if not backends.out_of_memory(error):
            raise
        raise UserError(f"out of memory ({str(error).splitlines()[0]}); bfloat16 needs half of it") from error
    print(record.text(found))
    if words.json is not None:
        words.json.parent.mkdir(parents=True, exist_ok=True)
        provenance.json_dump(found, words.json)
    if late := any(found["late"].values()):
        print(f"error: after warm-up there were {found['late']}; such rounds cost a robot seconds", file=sys.stderr)
    return int(late)


def measure(words: argparse.Namespace, workload: Workload | None = None) -> dict[str, Any]:
    """Time the contenders in turns and return the record; `workload` in place of the one that the flags name."""
    kind = words.device.split(":")[0]
    words.dtype = words.dtype or DTYPES.get(kind, "float32")
    words.rounds = ROUNDS.get(kind, 500) if words.rounds is None else words.rounds
    if words.rounds < 1 or words.warmup < 0 or words.threads < 1:
        raise UserError("--rounds and --threads are at least 1, --warmup at least 0")
    if words.samples is not None and not 2 <= words.samples <= MOST_SAMPLES:
        raise UserError(f"--samples {words.samples}: give 2 to {MOST_SAMPLES}")
    torch.set_num_threads(words.threads)
    settings = FlashSettings(official_time_bias=words.official_time_bias)
    workload, name = (workload, "given sizes") if workload is not None else _workload(words, kind)
    notes = [] if words.artifact else ["random weights: times do not depend on them, accepted prefixes do"]
    # Others first: what they compile is then not counted as ours after warm-up.
    others: list[Contender] = []
    if words.official is not None:
        others.append(OfficialRounds(words.official, workload, settings, words.device))
    engine = None if words.eager else EngineRounds(_runtime(words, workload, settings), workload, settings)
    plain = engine.runtime if engine else random_runtime(workload, words.device, words.dtype, "torch", settings)
    if words.eager:
        others.append(EngineRounds(plain, workload, settings, "PyTorch eager"))
    if not words.no_compiled:
        if reason := compiled.why_not(kind):
            notes.append(f"torch.compile was left out: {reason}")
        else:
            compiler = functools.partial(torch.compile, backend=words.compiler)
            others.append(compiled.CompiledRounds(plain, workload, compiler))
    engine = engine or EngineRounds(_runtime(words, workload, settings), workload, settings)
    if words.samples is not None:
        others.append(EngineRounds(engine.runtime, workload, settings, f"{words.samples} noises", words.samples))
    ceiling = None if words.no_ceiling else device.measured_ceiling(words.device, words.dtype)
    before, watch, started = device.clocks(words.device), machine.Watch(), time.perf_counter()

    def report(line: str) -> None:
        watch.look()
        print(line, file=sys.stderr)

    samples = take_turns([engine, *others], words.rounds, words.warmup, report, words.seconds)
    after, host, seconds = device.clocks(words.device), watch.record(), time.perf_counter() - started
    if (host["others"] or 0.0) > BUSY:
        notes.append(f"the machine was busy ({machine.words(host)}): these times are upper bounds")
    shape = {"views": workload.views, "prompt": workload.prompt, "times": len(settings.t_list)}
    demands = stage_costs(workload.dims, workload.draft, **shape, width=engine.runtime.dtype.itemsize)
    return {
        "workload": _shape(workload, name, words.rounds),
        "settings": settings.to_dict(),
        "engine": engine.runtime.describe(),
        "device": device.about(words.device),
        "state": {"before": before, "after": after, "host": host, "seconds": seconds},
        "notes": notes,
        **record.judged(samples, demands, ceiling, kind),
        "official": next((c.checkout for c in others if isinstance(c, OfficialRounds)), None),
        "late": _late(engine.runtime),
    }


def _shape(workload: Workload, name: str, rounds: int) -> dict[str, Any]:
    dims = workload.dims
    sizes = {"views": workload.views, "prompt": workload.prompt, "chunk": dims.action_horizon, "steps": dims.num_steps}
    return {"policy": name, **sizes, "seed": workload.seed, "rounds": rounds, "dims": dims.to_dict()}


def _workload(words: argparse.Namespace, kind: str) -> tuple[Workload, str]:
    if words.artifact is not None:
        if words.random:
            raise UserError("--random and --artifact exclude each other")
        draft = None
        if words.draft is not None:
            draft = weights.read_draft_dims(words.draft)
        return Workload(weights.read_dims(words.artifact), draft, words.views, words.prompt), str(words.artifact)
    if words.draft is not None:
        raise UserError("--draft needs --artifact")
    name = words.random or POLICIES.get(kind, "pi0_nano")
    if name not in PRESETS:
        raise UserError(f"--random {name}: no such policy{nearest(name, PRESETS)}")
    return Workload(PRESETS[name], DraftDims.like(PRESETS[name]), words.views, words.prompt), name


def _runtime(words: argparse.Namespace, workload: Workload, settings: FlashSettings) -> TorchRuntime:
    asked = words.device, words.dtype, words.backend, settings
    if words.artifact is not None:
        return backends.load_runtime(words.artifact, words.draft, *asked)
    return random_runtime(workload, *asked)


def _late(runtime: Any) -> dict[str, int]:
    counters = getattr(runtime, "counters", None)
    # In the interpreter nothing is warmed up, recorded or compiled.
    return {} if counters is None or runtime.device.type != "cuda" else dict(counters.late)


if __name__ == "__main__":
    sys.exit(commands.run(main, "benchmark"))
