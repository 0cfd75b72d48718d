"""Signals of doubt: what a round of inference says of how sure the policy is; and who may act in doubt.

Each is a column of the rounds' table, or made of one (`claims/signal.py`); empty where the policy has no such thing.
"""

from __future__ import annotations

# What is watched, its sign (so that more means worse) and how it reads.
SIGNALS = {
    "accepted_prefix": (-1, "accepted prefix"),
    "radius": (1, "radius"),
    "rejected": (1, "draft rejected whole"),
    "gripper": (1, "fallback cause: gripper"),
    "zero_accept": (1, "fallback cause: zero accepted"),
    "overlap": (1, "disagreement with the chunk before"),
    "sample_spread": (1, "spread over noises"),
    "head_spread": (1, "spread over heads"),
    "novelty": (1, "distance from the training data"),
}
# What a policy may say of a round, under the same name in its `policy_timing`; `overlap` is the client's own.
FROM_POLICY = ("sample_spread", "head_spread", "novelty")

# Who acts after a hand-over (`experiment/handoff.py`), as the steps' table says it; OTHERS in the policy's place.
CAREFUL, HOLD, RETRY, EXPERT, STOP = "careful", "hold", "retry", "expert", "stop"
OTHERS = (HOLD, RETRY, EXPERT)
