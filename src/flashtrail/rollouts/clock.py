"""The running clock: what the robot does while a round is under way, and which actions of the answer are too late.

Time is counted in control steps. A round asked at step t and answered `waited` steps later has actions for t, t + 1,
...; the first `waited` of them are for moments that are past and are dropped, so that every action is executed at its
own moment or not at all. Pure: knows a clock's settings (`experiment.clocks`) and whole numbers, no simulator, no
policy, no latency (`latency` draws one). docs/rollouts.md states the rules in words.

robosuite's control_freq stays at 20: changing it is not faithful (libero_goal task 1). Physics steps are 2 ms, a whole
number per control step: 25 at 20 Hz, 20 at 25, 10 at 50, 5 at 100; at 40 Hz 12 for 12.5, so a second of actions would
last 0.96 s. An action moves the goal by up to 0.05 m and 0.5 rad from where the arm is, of which the controller
(critically damped, time constant 82 ms) covers a small part: a constant action is nearly a speed (78 to 88 mm/s for
0.3 at 20 to 100 Hz), so motion per action goes with 1/hz (3.9 mm at 20 Hz, 1.7 at 50, 0.9 at 100), and at 100 Hz a
chunk of 50 would cover a fifth of the way. Holding each 20 Hz action for five steps at 100 Hz moves the goal five
times: after 40 random actions the arm was 24 mm from its place at 20 Hz, and its path 14 % longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flashtrail.experiment.clocks import AUTO, Running

# ceil() of a product of decimal fractions must not gain a step from the last bit.
_ROUNDING = 1e-9


def control_steps(latency_ms: float, hz: float) -> int:
    """Return how many control steps pass while a round of `latency_ms` is under way: ceil(latency * hz / 1000)."""
    return max(0, math.ceil(latency_ms * hz / 1000 - _ROUNDING))


@dataclass(frozen=True)
class Chunk:
    """A round's actions: action i is for control step `asked_at` + i, and `usable` of them may be executed."""

    round: int
    asked_at: int
    usable: int

    def offset(self, step: int) -> int | None:
        """Return which action is for this control step; None where the chunk has none that may be executed."""
        offset = step - self.asked_at
        return offset if 0 <= offset < self.usable else None


@dataclass(frozen=True)
class Move:
    """What one control step executes: action `offset` of `round`'s chunk; None: the robot holds.

    `stale`: a newer round was under way.
    """

    round: int
    offset: int | None
    stale: bool


def usable(route: str, accepted: int, length: int) -> int:
    """Return how many leading actions of a chunk a round vouches for.

    A full round computed all `length` of them. Of a draft round those after the accepted prefix were rejected or never
    verified. A round that accepted nothing vouches for nothing.
    """
    return length if route == "full" and accepted > 0 else accepted


def moves(
    clock: Running | None, now: int, waited: int, prefix: int, new: Chunk, in_hand: Chunk | None
) -> tuple[list[Move], list[Move]]:
    """Return what is executed from step `now`, where `new` was asked for, to the next query: waiting, then fresh.

    `waited` steps pass until the answer; `prefix` actions of it may be executed before the next query at the latest.
    With ask_ahead the query comes that many actions earlier, but at least one fresh action is executed where there is
    one, so that a round never costs nothing. Under the paused clock (None) `waited` is 0 and nothing is stale.
    """
    waiting = []
    for step in range(now, now + waited):
        offset = in_hand.offset(step) if in_hand and clock and clock.while_waiting == "chunk" else None
        source = in_hand.round if in_hand and offset is not None else new.round
        waiting.append(Move(source, offset, True))
    ahead = 0 if clock is None else waited if clock.ask_ahead == AUTO else int(clock.ask_ahead)
    end = max(prefix - ahead, min(prefix, waited + 1))
    return waiting, [Move(new.round, offset, False) for offset in range(waited, end)]


def next_in_hand(new: Chunk, in_hand: Chunk | None, step: int) -> Chunk | None:
    """Return the chunk that goes on while the next round is under way.

    The newest one of which anything could still be executed when it came, at control step `step`; never an older one
    again after that.
    """
    return new if new.offset(step) is not None else in_hand


def stale_dropped(waited: int, prefix: int) -> int:
    """Return how many actions that the round would have had executed came too late."""
    return min(waited, prefix)
