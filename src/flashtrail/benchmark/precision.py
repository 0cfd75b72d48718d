"""A policy in several number formats and runtimes: how fast each is, and how far its actions move.

    python -m flashtrail.benchmark.precision --artifact resources/lift_nano \\
        --observations results/profile/lift_nano/observations.npz --out resources/measured/precision_lift_nano.json
    python -m flashtrail.benchmark.precision --products --out resources/measured/precision_products.json

Alone on the machine: times are of full rounds, one variant after another in each repetition, in an order drawn anew, so
that what slows the machine slows all. What stands in a claim is the ratio to float32 within a repetition, not a time.
An action's error is that to float32 on the same observation and noise, of the actions that would be executed. Beside it
stands a control: the same policy under other noise or, where it takes none, with one grey level of noise on its views.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flashtrail.base import commands, machine
from flashtrail.base.errors import UserError
from flashtrail.benchmark.variants import REFERENCE, WORDS, Int8Weight, tried, variants
from flashtrail.policies import registry
from flashtrail.policies.protocol import Policy
from flashtrail.rollouts import recordings
from flashtrail.rollouts.recordings import Recorded
from flashtrail.simulators.observation import Observation
from flashtrail.statistics import intervals, resampling
from flashtrail.tables import measurements
from flashtrail.tables.measurements import Figure

CONTROL, SEED = "control", 0
SIZES = {  # rows x columns x columns of a product: in layers of pi0_nano and of pi0_libero
    "nano_prefix": (99, 128, 512),
    "nano_expert": (51, 96, 384),
    "libero_expert": (50, 1024, 4096),
    "libero_prefix": (256, 2048, 4096),
}
FORMATS = ("float32", "bfloat16", "float16", "int8_dynamic")  # of a product
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
Actions = NDArray[np.float64]


# --- measuring ---


def asked(policy: Policy, recorded: Sequence[Recorded], other: int = 0) -> Iterator[tuple[Actions, float]]:
    """Yield the actions that each query would execute (n, D) and the ms of its round; an episode is a session.

    `other`: which noise is drawn.
    """
    session, episode = None, None
    for place, query in enumerate(recorded):
        new = query.episode != episode
        session, episode = policy.new_session() if new else session, query.episode
        noise = [SEED, *query.episode, place, other]
        given = query.observation.request()
        reply = policy.infer(session, given, executed_steps=None, reset=new, noise_seed=noise)
        actions = np.asarray(reply["actions"], float)[: int(reply["accepted_prefix_len"])]
        yield actions, float(reply["policy_timing"]["sample_actions_ms"])


def one_grey_level(recorded: Sequence[Recorded]) -> list[Recorded]:
    """Return the queries with normal noise of one grey level, rounded, on both views."""
    rng = np.random.default_rng(SEED)

    def noisy(view: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.clip(view + np.rint(rng.normal(size=view.shape)), 0, 255).astype(np.uint8)

    def changed(seen: Observation) -> Observation:
        return dataclasses.replace(seen, agent=noisy(seen.agent), wrist=noisy(seen.wrist))

    return [dataclasses.replace(query, observation=changed(query.observation)) for query in recorded]


def timed(
    policies: Mapping[str, Policy], recorded: Sequence[Recorded], repetitions: int, rounds: int
) -> dict[str, list[list[float]]]:
    """Return the ms of each round by variant and repetition; a repetition asks each variant the same queries."""
    rng = np.random.default_rng(SEED)
    times: dict[str, list[list[float]]] = {name: [] for name in policies}
    for repetition in range(repetitions):
        some = [recorded[(repetition * rounds + i) % len(recorded)] for i in range(rounds)]
        for name in rng.permutation(list(policies)).tolist():
            times[name].append([ms for _, ms in asked(policies[name], some)])
    return times


# --- figures ---


def times_of(name: str, times: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Iterator[Figure]:
    """Yield p50, p95 and p99 of a variant's rounds (ms), and how many times as fast as the reference it is."""
    words, found = WORDS[name], intervals.latency([ms for part in times for ms in part])
    for quantile in ("p50", "p95", "p99"):
        if (one := getattr(found, quantile)) is not None:
            title = f"{words}: {quantile} of a round, ms"
            yield measurements.figure(f"{name}_{quantile}", title, one.value, one.interval, found.n, "rounds")
    if name != REFERENCE:
        medians = [[float(np.median(part)) for part in parts] for parts in (reference, times)]
        yield faster(name, f"{words}: times as fast as float32, a round", *medians)


def faster(name: str, title: str, reference: Sequence[float], times: Sequence[float]) -> Figure:
    """Return the mean quotient of times in the same repetition, geometric; its interval resamples repetitions."""
    logs = np.log(reference) - np.log(times)
    count = len(logs)
    means = resampling.draws(count) @ logs / count
    interval = resampling.percentile_interval(np.exp(means)) if count >= resampling.MIN_CLUSTERS else None
    return measurements.figure(f"{name}_speedup", title, float(np.exp(logs.mean())), interval, count, "repetitions")


def errors_of(
    name: str, words: str, answers: Sequence[Actions], reference: Sequence[Actions], episodes: Sequence[Any]
) -> Iterator[Figure]:
    """Yield how far actions (n, D) of each query lie from the reference's; the last of D is the gripper's command.

    Errors are of the other D - 1, in the robot's units; `relative` is their RMS over that of the reference's own. A
    gripper that flips is told the other way. Intervals: bootstrap over episodes.
    """
    index = np.unique([str(episode) for episode in episodes], return_inverse=True)[1]

    def by_episode(values: Sequence[float]) -> NDArray[np.float64]:
        sums: NDArray[np.float64] = np.bincount(index, np.asarray(values, float)).astype(float)
        return sums

    moved = [own[:, :-1] - other[:, :-1] for own, other in zip(answers, reference, strict=True)]
    errors, own, counts = (
        by_episode([float(value) for value in values])
        for values in (
            [(part**2).sum() for part in moved],
            [(part[:, :-1] ** 2).sum() for part in reference],
            [part.size for part in moved],
        )
    )
    n, of = len(answers), f"queries of {len(errors)} episodes"
    for quantity, title, whole in (
        ("rms", "action error, RMS, robot units", counts),
        ("relative", "action error over the action, both RMS", own),
    ):
        value, interval = float(errors.sum() / whole.sum()), resampling.ratio_over_episodes(errors, whole)
        yield measurements.figure(f"{name}_{quantity}", f"{words}: {title}", value, interval, n, of, root=True)
    most = max(float(np.abs(part).max()) for part in moved)
    yield measurements.figure(f"{name}_max", f"{words}: largest action error, robot units", most, None, n, of)
    turned = [((a[:, -1] > 0) != (b[:, -1] > 0)).sum() for a, b in zip(answers, reference, strict=True)]
    told = by_episode([float(len(part)) for part in answers])
    share = resampling.share_over_episodes(by_episode([float(k) for k in turned]), told)
    title, of = f"{words}: share of actions with the gripper told the other way", f"actions of {len(told)} episodes"
    yield measurements.figure(f"{name}_flips", title, sum(turned) / told.sum(), share, int(told.sum()), of)


def of_policy(
    artifact: Path, recorded: Sequence[Recorded], repetitions: int, rounds: int, report: Callable[[str], None] = print
) -> tuple[list[Figure], list[str]]:
    """Return the figures of each variant that can be had, and a sentence for each that cannot."""
    policies: dict[str, Policy] = {}
    missing = []
    for name, make in variants(artifact).items():
        made = tried(make, recorded[0].observation.request())
        if isinstance(made, str):
            missing.append(f"{WORDS[name]}: not measured, {made}")
            report(missing[-1])
        else:
            policies[name] = made
    if REFERENCE not in policies:
        raise UserError(f"{artifact}: {missing[0]}")
    episodes = [query.episode for query in recorded]
    answers = {name: [actions for actions, _ in asked(policy, recorded)] for name, policy in policies.items()}
    noisy = registry.family_of(artifact) == registry.PI0
    other = asked(policies[REFERENCE], recorded if noisy else one_grey_level(recorded), other=int(noisy))
    answers[CONTROL] = [actions for actions, _ in other]
    times = timed(policies, recorded, repetitions, rounds)
    words = WORDS | {CONTROL: "control, other noise" if noisy else "control, one grey level of noise on the views"}
    found: list[Figure] = []
    for name in answers:
        found += times_of(name, times[name], times[REFERENCE]) if name in times else []
        if name != REFERENCE:
            found += errors_of(name, words[name], answers[name], answers[REFERENCE], episodes)
    return found, missing


# --- products by themselves ---


def products(repetitions: int) -> list[Figure]:
    """Return, for each size and format, how many times as fast as float32 a product is, and its relative error."""
    generator, found = torch.Generator().manual_seed(SEED), []
    for place, (rows, inner, columns) in SIZES.items():
        weight = torch.randn(inner, columns, generator=generator) / inner**0.5
        weights = {"float32": weight, "bfloat16": weight.bfloat16(), "float16": weight.half()}
        weights["int8_dynamic"] = Int8Weight.of(weight.clone())
        seconds: dict[str, list[float]] = {name: [] for name in FORMATS}
        errors: dict[str, list[float]] = {name: [] for name in FORMATS}
        for repetition in range(repetitions + 1):
            x = torch.randn(rows, inner, generator=generator)
            exact = x.double() @ weight.double()
            for name in FORMATS:
                given, own = x.to(weight.dtype if name == "int8_dynamic" else weights[name].dtype), weights[name]
                start = time.perf_counter()
                y = torch.mm(given, own)
                taken = time.perf_counter() - start
                if repetition:  # the first one warms up
                    seconds[name].append(taken)
                    errors[name].append(float((y.double() - exact).square().mean() / exact.square().mean()))
        size = f"{rows} x {inner} x {columns} ({place.replace('_', ', ')})"
        for name in FORMATS[1:]:
            title = f"{WORDS[name]}: times as fast as float32, a product {size}"
            found.append(faster(f"{place}_{name}", title, seconds["float32"], seconds[name]))
            title, count = f"{WORDS[name]}: error over the result, both RMS, {size}", len(errors[name])
            mean, interval = float(np.mean(errors[name])), resampling.ratio_over_episodes(errors[name], np.ones(count))
            more: Any = (title, mean, interval, count, "repetitions", True)
            found.append(measurements.figure(f"{place}_{name}_relative", *more))
    return found


# --- the command ---


def here(watch: machine.Watch) -> str:
    """Return what machine this is, what of 16 and 8 bits its processor knows, and what others took of it meanwhile."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in FLAGS if flag in told.get("flags", "").split()]
    others = watch.record()["others"]
    name = told.get("model name") or platform.processor() or platform.machine()
    return (
        f"{name}, 1 thread, PyTorch {torch.__version__} with {torch.backends.cpu.get_cpu_capability()}, flags "
        f"{' '.join(flags) or 'not known'}; other programs took at most "
        f"{'?' if others is None else f'{100 * others:.0f} %'} of the cores"
    )


def main() -> None:
    """Measure, print and write."""
    about = (__doc__ or "").split("\n")[0]
    parser = commands.Parser(prog="python -m flashtrail.benchmark.precision", description=about)
    add = parser.add_argument
    add("--artifact", type=Path, metavar="DIR", help="of pi0 (its base), lift_vla or fluid")
    add("--observations", type=Path, metavar="FILE", help="recorded queries: results/profile/POLICY/observations.npz")
    add("--products", action="store_true", help="matrix products by themselves, in the place of a policy")
    add("--out", type=Path, required=True, metavar="FILE", help="the measurement, a JSON file")
    add("--repetitions", type=int, default=25, help="in each, every variant answers the same queries (default: 25)")
    add("--rounds", type=int, default=20, help="queries of a repetition (default: 20)")
    arguments = parser.parse_args()
    if {arguments.artifact is None, arguments.observations is None} != {arguments.products}:
        raise UserError("give --artifact and --observations, or --products alone")
    if min(arguments.repetitions, arguments.rounds) < 1:
        raise UserError("--repetitions and --rounds are at least 1")
    torch.set_num_threads(1)
    watch = machine.Watch()
    missing: list[str] = []
    over = f"{arguments.repetitions} repetitions"
    if arguments.products:
        found, title = products(arguments.repetitions), "Matrix products in other number formats"
        what = f"{over}; each format multiplies the same normal numbers; int8 rounds its rows at each product"
    else:
        recorded = recordings.load(arguments.observations)
        found, missing = of_policy(arguments.artifact, recorded, arguments.repetitions, arguments.rounds)
        artifact = arguments.artifact.resolve()
        title = f"Number formats and runtimes, {(artifact.parent if artifact.name == 'base' else artifact).name}"
        what = (
            f"{over} of {arguments.rounds} full rounds, each variant answers the same recorded queries; errors over "
            "all queries, of the actions that would be executed, against float32"
        )
    method = f"{what}. {here(watch)}. Intervals: repetitions, or episodes, resampled; of percentiles over rounds"
    measurements.write(arguments.out, title, ". ".join([method, *missing]) + ".", found)
    for figure in found:
        print(f"{figure.name}: {figure.said()} of {figure.n} {figure.of}")


if __name__ == "__main__":
    sys.exit(commands.run(main, "precision"))
