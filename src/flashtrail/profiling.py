"""What a round takes by itself: both routes timed on recorded observations, batch 1, nothing else on the device.

Full rounds and draft rounds are forced by engine settings, so that a rejected draft does not turn the next sample
into a full round; their stages are the engine's own. Knows a policy, recorded observations and rows; knows no
simulator, no socket and no statistics.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail import provenance
from flashtrail.errors import UserError
from flashtrail.flash.engine import Engine, Session
from flashtrail.flash.policy import FlashPolicy

ROUTES = ("full", "draft")
_STAGES = {
    "encoder_ms": "encoder_ms",
    "prefill_ms": "vlm_prefill_ms",
    "denoise_ms": "full_fallback_ms",
    "draft_ms": "draft_ms",
    "verify_ms": "action_verify_ms",
    "policy_ms": "sample_actions_ms",
}
_ONLY = {"full": ("prefill_ms", "denoise_ms"), "draft": ("draft_ms", "verify_ms")}


@dataclass(frozen=True)
class Observation:
    """One query of a recorded episode, as the policy saw it; `episode` is (task, init state)."""

    episode: tuple[int, int]
    image: np.ndarray  # uint8 (224, 224, 3)
    wrist_image: np.ndarray  # uint8 (224, 224, 3)
    state: np.ndarray  # float (8,)
    prompt: str

    def request(self) -> dict[str, Any]:
        """Return the observation under the wire's keys."""
        return {
            "observation/image": self.image,
            "observation/wrist_image": self.wrist_image,
            "observation/state": self.state,
            "prompt": self.prompt,
        }


def save_observations(observations: Sequence[Observation], path: str | Path) -> None:
    """Write observations to one compressed .npz, whole or not at all."""
    if not observations:
        raise UserError("no observation was recorded: profile.episodes must be at least 1")
    arrays = {
        "task": np.array([o.episode[0] for o in observations], np.int32),
        "init_state": np.array([o.episode[1] for o in observations], np.int32),
        "prompt": np.array([o.prompt for o in observations]),
    }
    arrays |= {name: np.stack([getattr(o, name) for o in observations]) for name in ("image", "wrist_image", "state")}
    with provenance.write_atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_observations(path: str | Path) -> list[Observation]:
    """Read what `save_observations` wrote."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        episodes = zip(arrays["task"].tolist(), arrays["init_state"].tolist(), strict=True)
        fields = zip(arrays["image"], arrays["wrist_image"], arrays["state"], arrays["prompt"].tolist(), strict=True)
        return [Observation(episode, *rest) for episode, rest in zip(episodes, fields, strict=True)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} does not hold recorded observations: {error}") from None


def profile_routes(
    policy: FlashPolicy,
    observations: Sequence[Observation],
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
    if not policy.engine.synchronize:
        raise ValueError("profiling needs an engine that synchronises at stage edges")
    routes = ROUTES if policy.engine.runtime.has_draft else ROUTES[:1]
    rows: list[dict[str, Any]] = []
    for prompt in dict.fromkeys(o.prompt for o in observations):
        seen = [o for o in observations if o.prompt == prompt]
        for route in routes:
            rounds = _rounds(_forced(policy, route), route, seen, seed)
            for index in range(warmup + samples):
                timing = next(rounds)
                rows.append(
                    {
                        "policy": name,
                        "route": route,
                        "sample": index,
                        **{key: _stage(key, route, timing) for key in _STAGES},
                        "synchronized": bool(timing["synchronized"]),
                        "warmup": index < warmup,
                        "prompt": prompt,
                        "device": device,
                    }
                )
            timed = [row["policy_ms"] for row in rows[-samples:]]
            report(f"{route:5} {np.median(timed):8.2f} ms median of {samples}: {prompt}")
    return rows


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


def _rounds(policy: FlashPolicy, route: str, seen: Sequence[Observation], seed: int) -> Iterator[dict[str, Any]]:
    """Yield the timing of one round after another, going round the recorded queries.

    Each episode has its own session. A draft is verified against its own episode's snapshot, which an extra full
    round makes and which is not a sample.
    """
    sessions: dict[tuple[int, int], Session] = {}
    executed = policy.engine.settings.max_exec_steps
    index = 0
    while True:
        observation = seen[index % len(seen)]
        episode, request = observation.episode, observation.request()
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


def _stage(key: str, route: str, timing: dict[str, Any]) -> float | None:
    other = ROUTES[1 - ROUTES.index(route)]
    return None if key in _ONLY[other] else float(timing[_STAGES[key]])
