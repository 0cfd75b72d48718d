"""One episode: query the policy, execute the accepted prefix, query again; and the rows that record it.

The loop of the official client, to the step: the first query resets the policy's state; a round's accepted prefix is
executed, at most `replan_steps` of it; an empty one costs no simulator step and is followed by the next query at once.
With hand-overs another may act in the place of a round's chunk, and the policy then begins anew. With a running clock
the simulator goes on while a round is under way, by the rules of `clock`.
"""

from __future__ import annotations

import datetime
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from flashtrail.base import stages
from flashtrail.base.errors import UserError
from flashtrail.experiment import doubt
from flashtrail.experiment.clocks import Running as RunningClock
from flashtrail.experiment.doubt import OTHERS, STOP
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.handoff import Handoff
from flashtrail.experiment.limits import Limits
from flashtrail.rollouts import clock as clocks
from flashtrail.rollouts.conditions import Condition
from flashtrail.rollouts.guards import Guard, GuardRecord, Oracle
from flashtrail.rollouts.handoff import Act, Handover, Turn
from flashtrail.rollouts.latency import Latencies
from flashtrail.rollouts.limits import Limiter
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.protocol import Metrics, Sense, Simulator, Step
from flashtrail.simulators.verify import Verdict
from flashtrail.tables import schemas

# The official client has no bound: there a full round, which accepts everything, follows an empty one. With
# full_fallback off the loop would never end.
MAX_EMPTY_ROUNDS = 50
_STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # no motion; the gripper keeps its last command
_OPEN = -1.0
_ACTION_DIM = 7


class EpisodeError(UserError):
    """The episode could not be finished, for a reason other than the policy's skill."""


class Reply(Protocol):
    """One round's answer; `flashtrail.serving.client.Reply` is one."""

    @property
    def actions(self) -> Any:
        """(H, 7) float64."""

    @property
    def accepted_prefix_len(self) -> int:
        """How many leading actions may be executed."""

    @property
    def policy_timing(self) -> Mapping[str, Any]:
        """As the policy sent it."""

    @property
    def server_timing(self) -> Mapping[str, Any]:
        """As the server sent it."""

    @property
    def roundtrip_ms(self) -> float:
        """Wall time of the request at the client."""


class PolicySession(Protocol):
    """What answers; `flashtrail.serving.client.PolicyClient` is one."""

    def infer(self, obs: Mapping[str, Any], executed_steps: int | None, reset: bool, noise_seed: list[int]) -> Reply:
        """Run one round."""


@dataclass(frozen=True)
class Query:
    """One query: what the policy saw and answered, whether the condition hit it, what the guard did."""

    index: int  # 0, 1, ... per episode
    given: Observation
    reply: Reply
    hit: bool
    guard: GuardRecord


OnQuery = Callable[[Query], None]  # called at each query: for films and recordings


@dataclass
class EpisodeRecord:
    """An episode's rows, as far as the episode itself can fill them (the shard adds arm, policy and run)."""

    episode: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Running:
    """A running clock and where its latencies come from."""

    clock: RunningClock
    latencies: Latencies


def run_episode(
    simulator: Simulator,
    policy: PolicySession,
    key: EpisodeKey,
    *,
    condition: Condition,
    guard: Guard | Oracle,
    limits: Limits | None = None,
    handoff: Handoff | None = None,
    expert: Callable[[], Act] | None = None,
    seed: int,
    replan_steps: int = 12,
    window_lag: int = 0,
    answer: str | None = None,
    running: Running | None = None,
    on_query: OnQuery | None = None,
) -> EpisodeRecord:
    """Run one episode to success or horizon and return its record.

    `condition` and `guard` must be fresh. Round r sends the noise seed derived from the episode's key and r. Without
    `running` the simulator waits for the policy. With `window_lag` each step executes the action that was for so many
    steps ago, the first steps the first action: as a client does that reads the oldest output of a window of frames.
    With `answer` "first" each step executes the mean of the actions that the first round's answer would have: as one
    action, since its chunk in every round would still move to and fro, and a frozen policy does not. `limits` change
    what is executed, as the last before the simulator. `handoff`: when others act; `expert` returns what gives an
    expert's actions from the state as it is.

    Raises what `policy` raises, UserError for a round whose latency `running` does not know, actions of another robot,
    limits on what the simulator does not feel or a hand-over by a signal that is not there, and EpisodeError if
    MAX_EMPTY_ROUNDS rounds in a row accept nothing at no cost.
    """
    started_at, started = datetime.datetime.now(datetime.UTC), time.perf_counter()
    simulator.reset(key)
    record = EpisodeRecord({})
    limiter = None if limits is None else _limiter(limits, simulator)
    handover = Handover(handoff, replan_steps, simulator.verdict, expert)
    moving = _Moving(simulator, record, running, window_lag, answer, limiter)
    success, executed, empty, anew = False, 0, 0, True
    scheduled: str | None = None
    while not success and len(record.steps) < simulator.horizon:
        query = len(record.rounds)
        seen = simulator.observe()
        damaged, hit = condition.apply(seen, query)
        given, guarded = guard.restore(damaged, seen) if isinstance(guard, Oracle) else guard.apply(damaged, query)
        noise_seed = seeds.derive(seed, key, "noise", query)
        reply = policy.infer(given.request(), executed_steps=executed, reset=anew, noise_seed=noise_seed)
        _check_fit(reply.actions)
        if on_query is not None:
            on_query(Query(query, given, reply, hit, guarded))
        row = _round_row(reply, [] if anew else record.rounds, scheduled)
        row |= {"round": query, "env_step": len(record.steps), "overlap": moving.overlap(reply.actions, replan_steps)}
        row |= {"condition_applied": hit, "noise_seed": seeds.spelled(noise_seed), **asdict(guarded)}
        latency_seed = seeds.derive(seed, key, "latency", query)
        turn = handover.turn(row, seeds.derive(seed, key, "handoff", query), len(record.steps))
        timing, executed = moving.round(reply, row["route"], turn, latency_seed, _means(seen, given))
        record.rounds.append(row | timing)
        scheduled = _scheduled(reply.policy_timing)
        anew = moving.hand_over(handover, turn)
        success = bool(record.steps) and record.steps[-1]["done"]
        if turn.who == STOP:
            break
        empty = 0 if len(record.steps) > row["env_step"] else empty + 1
        if empty >= MAX_EMPTY_ROUNDS:
            raise EpisodeError(
                f"the policy accepted no action in {empty} rounds in a row (round {query}): allow full_fallback"
            )
    verdict = simulator.verdict(success)
    record.episode = _episode_row(record, success, time.perf_counter() - started, verdict) | {
        **asdict(simulator.metrics()),
        **({} if limiter is None else limiter.totals),
        **handover.totals,
        "started_at": started_at.isoformat(timespec="milliseconds"),
        "task": simulator.prompt,
    }
    return record


def error_record(task: str, reason: str, started_at: str, wall_s: float) -> EpisodeRecord:
    """Return the record of an episode that could not be run: one row, outcome ``error``, no rounds, no steps."""
    row = _episode_row(EpisodeRecord({}), False, wall_s)
    return EpisodeRecord(row | {"outcome": "error", "error": reason, "started_at": started_at, "task": task})


def _limiter(limits: Limits, simulator: Simulator) -> Limiter:
    sense = _sensed(simulator)
    if limits.max_force_n is not None and sense.force_n is None:
        raise UserError(f"limits {limits.title}: this suite has no force sensor: leave out max_force_n")
    return Limiter(limits, sense)


def _sensed(simulator: Simulator) -> Sense:
    sense = simulator.sense()
    if sense is None:
        raise UserError("limits: this simulator does not report the gripper's position: remove `limits` from the arm")
    return sense


def _check_fit(actions: Any) -> None:
    """Refuse the actions of another robot: a retry would not help."""
    if np.shape(actions)[1:] != (_ACTION_DIM,):
        raise UserError(
            f"the policy answers with actions of shape {np.shape(actions)}, the simulator takes (any, {_ACTION_DIM}): "
            "is it served with the output transforms of another robot?"
        )


def _means(seen: Observation, given: Observation) -> tuple[float, float]:
    """Return the mean of the agent view as it was, and as the policy was given it."""
    mean = float(seen.agent.mean())
    return mean, mean if given.agent is seen.agent else float(given.agent.mean())


class _Moving:
    """Takes control steps: those that pass while a round is under way, and those that it answered."""

    def __init__(
        self,
        simulator: Simulator,
        record: EpisodeRecord,
        running: Running | None,
        window_lag: int,
        answer: str | None,
        limiter: Limiter | None,
    ) -> None:
        self._simulator, self._record, self._running = simulator, record, running
        self._limiter = limiter
        self._frozen, self._first = answer == "first", np.empty(0)
        self._actions: dict[int, Any] = {}  # of the round under way and of the one in hand
        self._before: tuple[int, Any] | None = None  # the round before: at which step it was asked, and its chunk
        self._in_hand: clocks.Chunk | None = None
        self._due: deque[tuple[clocks.Move, list[float]]] = deque(maxlen=window_lag + 1)  # the oldest is executed
        self._last = [*_STILL, _OPEN]  # the last action
        self._asked = 0, (0.0, 0.0)  # at which step the last query was, and its pictures' means
        self._who: str | None = None  # who acts, where there are hand-overs

    def round(
        self, reply: Reply, route: str, turn: Turn, latency_seed: list[int], means: tuple[float, float]
    ) -> tuple[dict[str, Any], int]:
        """Take the policy's steps of a round; return its columns about time, and how far into its chunk they got."""
        number, now = len(self._record.rounds), len(self._record.steps)
        self._asked, self._who = (now, means), turn.policy
        prefix = min(turn.chunk, reply.accepted_prefix_len)
        new = clocks.Chunk(number, now, clocks.usable(route, reply.accepted_prefix_len, len(reply.actions)))
        clock, latency, waited = None, None, 0
        if self._running is not None:
            clock = self._running.clock
            latency = self._running.latencies.of(route, reply.roundtrip_ms, latency_seed)
            waited = min(clocks.control_steps(latency, clock.hz), self._simulator.horizon - now)
        self._actions[number] = self._held(reply.actions, prefix) if self._frozen else reply.actions
        waiting, fresh = clocks.moves(clock, now, waited, prefix, new, self._in_hand)
        taken = self._take([*waiting, *fresh][: self._simulator.horizon - now])
        fresh_taken = max(0, taken - len(waiting))
        self._in_hand = clocks.next_in_hand(new, self._in_hand, now + waited)
        self._actions = {r: a for r, a in self._actions.items() if self._in_hand and r == self._in_hand.round}
        passed = min(taken, waited)
        timing = {
            "executed": fresh_taken,
            "latency_ms": latency,
            "waited_steps": None if clock is None else passed,
            "stale_dropped": None if clock is None else clocks.stale_dropped(passed, prefix),
        }
        self._before = now, reply.actions
        # The policy counts the actions of its last chunk that are past; those that came too late are past as well.
        return timing, waited + fresh_taken if fresh_taken else 0

    def _held(self, actions: Any, prefix: int) -> Any:
        """Return the mean of the first round's executed actions in the place of each of this round's."""
        if not self._first.size:
            self._first = np.mean(actions[: prefix or None], axis=0)
        return np.broadcast_to(self._first, np.shape(actions))

    def overlap(self, actions: Any, count: int) -> float | None:
        """Return by how much (RMS) a chunk asked for now differs from the one before over its first `count` steps."""
        return None if self._before is None else _overlap(*self._before, actions, len(self._record.steps), count)

    def hand_over(self, handover: Handover, turn: Turn) -> bool:
        """Let another act, if it is another's turn, and forget the policy's chunks; return whether one did."""
        steps = self._record.steps
        count = 0 if steps and steps[-1]["done"] else min(turn.steps, self._simulator.horizon - len(steps))
        if not count:
            return False
        self._in_hand, self._before, self._who = None, None, turn.who
        self._actions.clear()
        self._due.clear()
        act, taken, done = handover.acting(turn.who, self._last[6]), 0, False
        move = clocks.Move(len(self._record.rounds) - 1, None, False)
        while taken < count and not done:
            taken += 1
            done = self._execute(move, [float(value) for value in act()], render=taken == count)
        handover.took(turn, taken, len(steps))
        return True

    def _take(self, moves: list[clocks.Move]) -> int:
        """Take these steps, to success; return how many. Only the last one needs a picture."""
        for index, now in enumerate(moves):
            self._due.append((now, self._action(now)))
            if self._execute(*self._due[0], render=index == len(moves) - 1):
                return index + 1
        return len(moves)

    def _execute(self, move: clocks.Move, action: list[float], render: bool) -> bool:
        """Take one step and record it; return whether the simulator was done."""
        steps, (asked_at, means) = self._record.steps, self._asked
        # With hand-overs as the tables keep it: in contact a replay of rounded actions becomes another episode.
        given = action if self._who is None else [float(value) for value in np.asarray(action, np.float32)]
        step, executed, limited = self._step(given, render=render)
        self._last = action
        first = len(steps) == asked_at
        steps.append(
            {
                "step": len(steps),
                "action": action,
                **limited,
                "reward": step.reward,
                "done": step.done,
                "gripper_closed": executed[6] > 0,  # LIBERO: -1 opens, +1 closes
                "eef_pos": [float(value) for value in step.eef_pos],
                "img_mean": means[0] if first else None,  # of the undamaged agent view
                "img_mean_sent": means[1] if first else None,  # of the one that the policy was given
                "round": move.round,
                "offset_in_chunk": move.offset,
                "stale": None if self._running is None else move.stale,
                "who": self._who,
            }
        )
        return step.done

    def _step(self, action: list[float], render: bool) -> tuple[Step, list[float], dict[str, Any]]:
        """Take one step; return it, what was executed and the columns about limits."""
        if self._limiter is None:
            return self._simulator.step(action, render=render), action, dict.fromkeys(schemas.LIMITED_STEP)
        sent = self._limiter.apply(action)
        step = self._simulator.step(sent.action, render=render)
        sense = _sensed(self._simulator)
        self._limiter.felt(sense)
        limited = {"executed": sent.action, "limited": " ".join(sent.by), "force_n": sense.force_n}
        return step, sent.action, limited

    def _action(self, move: clocks.Move) -> list[float]:
        if move.offset is not None:
            return [float(value) for value in self._actions[move.round][move.offset]]
        last = self._due[-1][1] if self._due else self._last
        repeat = self._running is not None and self._running.clock.while_waiting == "repeat"
        return list(last) if repeat else [*_STILL, last[6]]


def _round_row(reply: Reply, before: list[dict[str, Any]], scheduled: str | None) -> dict[str, Any]:
    policy, server = reply.policy_timing, reply.server_timing
    route = str(policy.get("route_type", "full"))
    own = stages.COLUMNS_OF_ROUTE["full" if route == "full" else "draft"]
    synchronized, batch_size = policy.get("synchronized"), policy.get("batch_size")
    steps_used = policy.get("steps_used")
    return {
        "route": route,
        "accepted_prefix": reply.accepted_prefix_len,
        "radius": _number(policy.get("radius_dist")) if route == "draft" else None,
        "fallback_cause": _fallback_cause(policy, route, before, scheduled),
        **{column: _number(policy.get(name)) if column in own else None for column, name in stages.COLUMNS.items()},
        "policy_ms": _number(server.get("policy_time_ms")),
        "serve_ms": _number(server.get("serve_time_ms")),
        "roundtrip_ms": float(reply.roundtrip_ms),
        "synchronized": synchronized if isinstance(synchronized, bool) else None,
        "batch_size": batch_size if isinstance(batch_size, int) else None,
        "steps_used": steps_used if isinstance(steps_used, int) else None,
        **{name: _number(policy.get(name)) for name in doubt.FROM_POLICY},
    }


def _overlap(asked_at: int, before: Any, actions: Any, now: int, count: int) -> float | None:
    """Return by how much (RMS, without the gripper) a chunk differs from the one before over its first `count` steps.

    None where the chunk before, asked for at step `asked_at`, does not reach so far.
    """
    past = np.asarray(before, np.float64)[now - asked_at :, :6][:count]
    if not len(past):
        return None
    return _number(float(np.sqrt(np.mean((np.asarray(actions, np.float64)[: len(past), :6] - past) ** 2))))


def _scheduled(policy: Mapping[str, Any]) -> str | None:
    """Why the next round will be full, as this (draft) round's flags say."""
    if policy.get("scheduled_full_fallback_gripper"):
        return "gripper"
    return "zero_accept" if policy.get("scheduled_full_fallback") else None


def _fallback_cause(
    policy: Mapping[str, Any], route: str, before: list[dict[str, Any]], scheduled: str | None
) -> str | None:
    """Why a full round was full; None on a draft round.

    Our server says so. From an official one it follows from the flags of the round before: what that scheduled; after
    a full round either its gripper window still stands or every round is forced; otherwise it was periodic.
    """
    if route != "full":
        return None
    if cause := policy.get("fallback_cause"):
        return str(cause)
    if not before:
        return "first"
    if scheduled:
        return scheduled
    if before[-1]["route"] == "full":
        return "gripper" if before[-1]["fallback_cause"] == "gripper" else "forced"
    return "periodic"


def _number(value: Any, default: float | None = None) -> float | None:
    """Return a float, or the default where there is none or a NaN."""
    if isinstance(value, int | float) and not math.isnan(value):
        return float(value)
    return default


def _episode_row(record: EpisodeRecord, success: bool, wall_s: float, verdict: Verdict | None = None) -> dict[str, Any]:
    accepted = [row["accepted_prefix"] for row in record.rounds if row["route"] == "draft"]
    closed = [row["gripper_closed"] for row in record.steps]
    closures = [step for step, now in enumerate(closed) if now and not (step and closed[step - 1])]
    return {
        "success": success,
        "verified_success": verdict and verdict.verified,
        "verified_reason": verdict and verdict.missing,
        "gripper_closures": len(closures) if closed else None,
        "grasps": verdict and verdict.grasps,
        "lifts": verdict and verdict.lifts,
        **asdict(Metrics()),
        **dict.fromkeys((*schemas.LIMITED, *schemas.HANDED)),
        "first_close_step": closures[0] if closures else None,
        "outcome": "success" if success else "horizon",
        "error": None,
        "steps": len(record.steps),
        "rounds": len(record.rounds),
        "full_rounds": len(record.rounds) - len(accepted),
        "draft_rounds": len(accepted),
        "executed_actions": sum(row["who"] not in OTHERS for row in record.steps),
        "accepted_prefix_mean": sum(accepted) / len(accepted) if accepted else None,
        "wall_s": wall_s,
        "video": None,
    }
