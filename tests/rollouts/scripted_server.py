"""A policy server with a script for a policy: PORT, then optionally DELAY (s per round), MODE and a MODE's file.

Answers are a pure function of the noise seed, so that an episode replayed is the same episode. Modes: ``crash_once``
ends the process at the third round ever (the file remembers); ``refuse`` fails every round of init state 1;
``none`` accepts nothing, ever; ``slow_until`` has no delay once the file is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import numpy as np

from flashtrail.serving.launch import INSTANCE_VARIABLE, leave_with_parent
from flashtrail.serving.server import PolicyServer, reserve_port, serve


class Policy:
    def __init__(self, delay_s: float, mode: str, file: Path | None) -> None:
        self.metadata = {"base_digest": "scripted", "device_name": "a script"}
        self.delay_s, self.mode, self.file, self.rounds = delay_s, mode, file, 0

    def new_session(self) -> None:
        return None

    def infer(self, session, obs, *, executed_steps, reset, noise_seed):
        self.rounds += 1
        if self.mode != "slow_until" or not self.file.exists():
            time.sleep(self.delay_s)
        init_state, query = noise_seed[3], noise_seed[-1]
        if self.mode == "crash_once" and self.rounds == 3 and not self.file.exists():
            self.file.touch()
            os._exit(9)
        if self.mode == "refuse" and init_state == 1:
            raise ValueError("this one I cannot do")
        rng = np.random.default_rng(noise_seed)
        full = query % 4 == 0
        accepted = 0 if self.mode == "none" else 12 if full else int(rng.integers(0, 13))
        timing = {
            "route_type": "full" if full else "draft",
            "radius_dist": float("nan") if full else 0.25,
            "scheduled_full_fallback": float(not full and accepted == 0),
            "encoder_ms": 1.0,
            "vlm_prefill_ms": 2.0 * full,
            "full_fallback_ms": 3.0 * full,
            "draft_ms": 0.5 * (not full),
            "action_verify_ms": 0.25 * (not full),
        }
        return {
            "actions": rng.uniform(-1, 1, (50, 7)),
            "accepted_prefix_len": accepted,
            "policy_timing": timing,
        }


def main() -> None:
    port, *rest = sys.argv[1:]
    delay_s, mode = float(rest[0]) if rest else 0.0, rest[1] if len(rest) > 1 else ""
    leave_with_parent()
    policy = Policy(delay_s, mode, Path(rest[2]) if len(rest) > 2 else None)
    sock, instance = reserve_port("127.0.0.1", int(port)), os.environ.get(INSTANCE_VARIABLE)
    asyncio.run(serve(PolicyServer(policy, sock=sock, instance=instance)))


main()
