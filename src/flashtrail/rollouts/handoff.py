"""Hand-overs in an episode: whether a round alarms, whose turn it then is, and what is done without the policy.

Rules only: a round's row goes in, whose turn it is comes out; the episode loop takes the steps. The chunk of the round
that hands over is not executed. After another's turn the policy begins anew, as at the start of an episode, and so
does the count of alarmed rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.experiment import doubt
from flashtrail.experiment.handoff import CAREFUL, EXPERT, HOLD, ORACLE, RANDOM, RETRY, STOP, Handoff
from flashtrail.rollouts.limits import NO_TURN
from flashtrail.simulators.expert import OPEN
from flashtrail.simulators.verify import Verdict
from flashtrail.tables.schemas import HANDED

Act = Callable[[], Sequence[float]]  # gives the next action (7,)
POLICY = "policy"
OTHERS = (HOLD, RETRY, EXPERT)
_OPEN_STEPS, _RISE = 4, 0.6  # of a retry: the hand opens where it is, then rises at this command, 8 mm a control step


@dataclass(frozen=True)
class Turn:
    """Whose turn it is after a round, and for how many control steps at most.

    `policy`: as what the policy acts until then (POLICY, CAREFUL; None: there are no hand-overs), by at most `chunk`
    actions of the round. `who` is one of OTHERS, or STOP, where it is another's turn.
    """

    policy: str | None
    chunk: int
    who: str = POLICY
    steps: int = 0


class Handover:
    """One episode's hand-overs; none at all where none are `given`.

    `verdict`: what the simulator has seen so far (`Simulator.verdict`). `expert` returns what gives an expert's next
    action from the state as it is. Raises UserError where there is no expert and there may have to be one.
    """

    def __init__(
        self,
        given: Handoff | None,
        replan_steps: int,
        verdict: Callable[[bool], Verdict | None],
        expert: Callable[[], Act] | None = None,
    ) -> None:
        if given is not None and given.asks_expert and expert is None:
            raise UserError(f"handoff {given.title}: there is no expert here: hand over to hold, retry or stop")
        self._given, self._replan_steps, self._verdict, self._expert = given, replan_steps, verdict, expert
        self._alarmed = 0  # rounds in a row
        self._interventions = self._spent = self._expert_steps = 0
        self._since = self._lifts = 0  # the step from which the oracle counts, and the lifts until then

    def turn(self, row: Mapping[str, Any], draw: Sequence[int], step: int) -> Turn:
        """Return whose turn it is after a round.

        `row`: of the rounds' table. `draw`: the round's own entropy. `step`: control steps so far. Raises UserError
        where policy or simulator say nothing of the signal.
        """
        given = self._given
        if given is None:
            return Turn(None, self._replan_steps)
        value = self._value(given, row, draw, step)
        alarmed = value is not None and given.sign * value > given.sign * given.alarm
        self._alarmed = self._alarmed + 1 if alarmed else 0
        if self._alarmed < given.patience:
            return Turn(POLICY, self._replan_steps)
        who = given.level(self._interventions)
        if who == CAREFUL:
            self._interventions += self._alarmed == given.patience
            return Turn(CAREFUL, min(self._replan_steps, given.replan_steps))
        if who == STOP:
            self._interventions += 1
            return Turn(POLICY, 0, STOP)
        left = given.budget - self._spent
        return Turn(POLICY, 0, who, min(given.steps, left)) if left > 0 else Turn(POLICY, self._replan_steps)

    def _value(self, given: Handoff, row: Mapping[str, Any], draw: Sequence[int], step: int) -> float | None:
        if given.signal == RANDOM:
            return float(np.random.default_rng(list(draw)).random())
        if given.signal == ORACLE:
            if (seen := self._verdict(False)) is None:
                raise UserError(f"handoff {given.title}: this suite has no verdict: choose another signal")
            if seen.lifts > self._lifts:
                self._since, self._lifts = step, seen.lifts
            return step - self._since
        value = row[given.signal]
        if value is None and given.signal in doubt.FROM_POLICY:
            raise UserError(f"handoff {given.title}: the policy does not report {given.signal}: choose another signal")
        return None if value is None else float(value)

    def acting(self, who: str, grip: float) -> Act:
        """Return what gives the actions of a turn that begins now; `grip`: the gripper's last command."""
        if who == EXPERT:
            assert self._expert is not None
            return self._expert()
        if who == HOLD:
            return lambda: [0.0, 0.0, 0.0, NO_TURN, 0.0, 0.0, grip]
        still = iter([0.0] * _OPEN_STEPS)
        return lambda: [0.0, 0.0, next(still, _RISE), NO_TURN, 0.0, 0.0, OPEN]

    def took(self, turn: Turn, steps: int, now: int) -> None:
        """Count a turn of another, of so many control steps; `now`: control steps so far."""
        self._interventions += 1
        self._spent += steps
        self._expert_steps += steps * (turn.who == EXPERT)
        self._alarmed, self._since = 0, now

    @property
    def totals(self) -> dict[str, int]:
        """What the episodes' table has of it; empty without hand-overs."""
        counts = (self._interventions, self._expert_steps)
        return {} if self._given is None else dict(zip(HANDED, counts, strict=True))
