"""What a round takes by itself: both routes timed on recorded observations, batch 1, nothing else on the device.

pi0's full rounds and draft rounds are forced by engine settings, so that a rejected draft does not turn the next sample
into a full round; their stages are the engine's own. A policy of another family has full rounds alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base import stages
from flashtrail.base.errors import UserError
from flashtrail.benchmark.workload import ROUTES
from flashtrail.policies import registry
from flashtrail.policies.pi0 import transforms as tf
from flashtrail.policies.pi0 import verify
from flashtrail.policies.pi0.engine import Engine, Session
from flashtrail.policies.pi0.policy import FlashPolicy, draw_noise
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.protocol import Policy
from flashtrail.rollouts.recordings import Recorded

_TIMED = {route: {**columns, "policy_ms": "sample_actions_ms"} for route, columns in stages.COLUMNS_OF_ROUTE.items()}


def load(base: Path, draft: Path | None, engine: Mapping[str, Any], backend: str) -> Policy:
    """Return an artifact's policy, of whatever family, for one round at a time; `engine`: a policy's, of the config."""
    where = {"device": engine["device"], "dtype": engine["dtype"], "backend": backend}
    name = registry.family_of(base)
    if name == registry.PI0:
        return FlashPolicy.load(base, draft, settings=FlashSettings.from_dict(engine["flash"]), **where)
    family = registry.load(name)
    own = registry.settings_of(name)
    asked = {key: value for key, value in engine["flash"].items() if key in own} | engine.get("settings", {})
    settings = family.Settings(**asked)
    return family.load(base, draft, settings=settings, action_stats=None, together=1, sessions=1, **where)


def profile_routes(
    policy: Policy,
    recorded: Sequence[Recorded],
    *,
    name: str,
    samples: int,
    warmup: int,
    seed: int,
    device: str,
    report: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Return one row per round: for each prompt and route `warmup` untimed ones, then `samples`.

    Warm-up rounds are rows too, marked as such. A policy without a draft head has only the full route. Times are in
    ms; stages that a route does not have are None. policy_ms runs from edge to edge of the device's work and leaves
    out transforms, as the reproduction's gpu_sync column does.
    """
    flash = policy if isinstance(policy, FlashPolicy) else None
    if flash and not flash.engine.synchronize:
        raise ValueError("profiling needs an engine that synchronises at stage edges")
    routes = ROUTES if flash and flash.engine.runtime.has_draft else ROUTES[:1]
    rows: list[dict[str, Any]] = []
    for prompt in dict.fromkeys(r.observation.prompt for r in recorded):
        seen = [r for r in recorded if r.observation.prompt == prompt]
        for route in routes:
            rounds = _rounds(_forced(flash, route), route, seen, seed) if flash else _plain_rounds(policy, seen, seed)
            for index in range(warmup + samples):
                timing = next(rounds)
                rows.append(
                    {
                        "policy": name,
                        "route": route,
                        "sample": index,
                        **dict.fromkeys(stages.COLUMNS),
                        **{
                            key: float(timing[own])
                            for key, own in _TIMED[route].items()
                            if own in timing or key == "policy_ms"
                        },
                        "roundtrip_ms": None,  # no client was asked
                        "synchronized": bool(timing["synchronized"]),
                        "warmup": index < warmup,
                        "prompt": prompt,
                        "device": device,
                    }
                )
            timed = [row["policy_ms"] for row in rows[-samples:]]
            report(f"{route:5} {np.median(timed):8.2f} ms median of {samples}: {prompt}")
    if flash:
        check_nothing_late(flash.engine.runtime)
    return rows


def check_nothing_late(runtime: Any) -> None:
    """Raise UserError if a runtime that records programs captured or compiled anything after its own warm-up.

    A new prompt or view must not cost a robot seconds: such a round is a fault, not a slow sample.
    """
    counters = getattr(runtime, "counters", None)
    if counters is not None and any(counters.late.values()):
        late = ", ".join(f"{n} {what}" for what, n in counters.late.items())
        raise UserError(f"the engine had {late} after warm-up, so these rounds are not steady; warm up those first")


def full_against_full(policy: Policy, recorded: Sequence[Recorded], *, samples: int, seed: int) -> dict[str, Any]:
    """Return what the acceptance rule's radius says of the full route against itself, with other noise.

    The control of every accepted prefix: the radius is about the policy's own spread between two samples, so a draft
    can be accepted hardly more often than that. For up to `samples` queries of each prompt, two full chunks from
    different noise are compared as a draft and its estimate are: `histogram` counts the accepted prefixes 0-12, by
    the radius alone (no gripper rule). A policy without that rule has no control: its histogram is empty.
    """
    if not isinstance(policy, FlashPolicy):
        return {"queries": 0, "histogram": []}
    settings = policy.engine.settings
    full = _forced(policy, "full")
    prefixes: list[int] = []
    distances: list[float] = []
    for prompt in dict.fromkeys(r.observation.prompt for r in recorded):
        for query in [r for r in recorded if r.observation.prompt == prompt][:samples]:
            chunks = [_chunk(full, query, [seed, *query.episode, *words]) for words in ((0, 1), (0, 2))]
            steps = verify.window(settings.max_exec_steps, len(chunks[0]))
            distance = verify.distances(chunks[0], chunks[1][None], settings.dist_dims, steps)
            prefixes.append(verify.radius_prefix(distance, settings.tau_radius))
            distances.append(float(distance.mean()))
    return {
        "queries": len(prefixes),
        "tau": settings.tau_radius,
        "histogram": np.bincount(prefixes, minlength=settings.max_exec_steps + 1).tolist(),
        "median_distance": float(np.median(distances)),
        "share_within_tau": float(np.mean(np.array(distances) <= settings.tau_radius)),
    }


def _chunk(policy: FlashPolicy, query: Recorded, words: list[int]) -> np.ndarray:
    """Return one full round's chunk, normalised, float32 (H, D)."""
    inputs = tf.model_inputs(tf.apply(policy.inputs, query.observation.request()))
    runtime = policy.engine.runtime
    noise = draw_noise(words, (runtime.dims.action_horizon, runtime.dims.action_dim))  # type: ignore[attr-defined]
    return policy.engine.infer(policy.new_session(), inputs, noise, reset=True).chunk


def _forced(policy: FlashPolicy, route: str) -> FlashPolicy:
    """Return the same policy, its schedule bound to one route (after the full round that a draft needs)."""
    settings = dataclasses.replace(
        policy.engine.settings,
        force_full_each_round=route == "full",
        full_fallback=False,
        periodic_full_every_n_draft_rounds=0,
    )
    engine = Engine(policy.engine.runtime, settings, synchronize=True)
    return FlashPolicy(engine, policy.inputs, policy.outputs)


def _plain_rounds(policy: Policy, seen: Sequence[Recorded], seed: int) -> Iterator[Mapping[str, Any]]:
    """Yield the timing of one full round after another, going round the recorded queries; a session an episode."""
    sessions: dict[tuple[int, int], Any] = {}
    for index in itertools.count():
        query = seen[index % len(seen)]
        new = query.episode not in sessions
        session = sessions.setdefault(query.episode, policy.new_session() if new else None)
        words = [seed, *query.episode, index]
        answer = policy.infer(session, query.observation.request(), executed_steps=None, reset=new, noise_seed=words)
        yield answer["policy_timing"]


def _rounds(policy: FlashPolicy, route: str, seen: Sequence[Recorded], seed: int) -> Iterator[dict[str, Any]]:
    """Yield the timing of one round after another, going round the recorded queries.

    Each episode has its own session. A draft is verified against its own episode's snapshot, which an extra full
    round makes and which is not a sample.
    """
    sessions: dict[tuple[int, int], Session] = {}
    executed = policy.engine.settings.max_exec_steps
    index = 0
    while True:
        query = seen[index % len(seen)]
        episode, request = query.episode, query.observation.request()
        if episode not in sessions:
            sessions[episode] = policy.new_session()
            if route == "draft":
                policy.infer(sessions[episode], request, reset=True, noise_seed=[seed, *episode])
        answer = policy.infer(sessions[episode], request, executed_steps=executed, noise_seed=[seed, *episode, index])
        timing = answer["policy_timing"]
        if timing["route_type"] != route:
            raise RuntimeError(f"a {timing['route_type']} round came where a {route} round was forced")
        yield timing
        index += 1
