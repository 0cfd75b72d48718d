"""Corrections: what the expert did in a shard's episodes, with what was seen before each of its steps.

Tables keep actions and no pictures, so an episode is replayed as for an export. Pictures are drawn where the expert
acted alone, and damaged by the arm's condition, as the policy would have been given them. A correction is what the
expert did in one go: a hand-over, or an episode of its own arm, a demonstration then and the control.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.base.provenance import write_atomic
from flashtrail.datasets import replayed
from flashtrail.datasets.replayed import Recorded
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.shard import EXPERT
from flashtrail.rollouts import conditions
from flashtrail.rollouts.conditions import Condition
from flashtrail.simulators import seeds
from flashtrail.tables import schemas
from flashtrail.training.lift import files
from flashtrail.training.lift.demonstrations import Stage

Row = dict[str, Any]


def record(shard: Path, arm: Row, task: int, target: Path) -> str:
    """Write the corrections in a shard's tables to `target`, in the order of its episodes; return what to say of it.

    `arm`: as `config.Experiment.arm` gives it. An episode that the replay did not repeat is left out and named.
    UserError where there is no correction. This process must not have had a simulator.
    """
    rows = {
        name: schemas.read_table(shard / f"{name}.parquet", schemas.SCHEMAS[name]) for name in ("episodes", "steps")
    }
    steps: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for step in sorted(rows["steps"].to_pylist(), key=lambda step: step["step"]):
        steps[step["init_state"], step["repeat"]].append(step)

    def damaged(key: EpisodeKey) -> Condition:
        return conditions.build(arm["condition"], seeds.derive(arm["seed"], key, "perturbation"))

    stage = Stage(task, arm["rollout"]["hard_reset"], arm["seed"])
    found: list[files.Demonstration] = []
    others, alone = [], arm.get("server") == EXPERT
    for episode in sorted(rows["episodes"].to_pylist(), key=lambda row: (row["init_state"], row["repeat"])):
        own = steps[episode["init_state"], episode["repeat"]]
        if turns := interventions(own, alone):
            one = replayed.episode(arm["arm"], task, episode, steps)
            made, differs = _play(stage, one, episode, own, turns, damaged(EpisodeKey(arm["suite"], task, *one.begin)))
            found += [] if differs else made
            others += [f"{one.name}: {differs}"] if differs else []
    if not found:
        why = f"no replay repeated its record ({others[0]})" if others else "the expert never acted"
        raise UserError(f"{arm['arm']}, task {task}: no corrections: {why}")
    with write_atomic(target) as path:
        files.write(path, found, files.env_args(stage.env))
    stage.simulator.close()
    said = f"{len(found)} corrections, {sum(len(one.steps) for one in found)} steps"
    return "\n".join([said, *(f"left out: {other}" for other in others)])


def interventions(steps: Sequence[Row], alone: bool) -> list[range]:
    """Return the steps of each of an episode's corrections; `alone`: no policy acted, all is one."""
    if alone:
        return [range(len(steps))] if steps else []
    turns = groupby(steps, key=lambda step: (step["who"] == EXPERT, step["round"]))
    return [range((own := [s["step"] for s in turn])[0], own[-1] + 1) for (mine, _), turn in turns if mine]


def _play(
    stage: Stage, one: Recorded, episode: Row, rows: Sequence[Row], turns: Sequence[range], condition: Condition
) -> tuple[list[files.Demonstration], str]:
    """Replay an episode; return its corrections and, where it became another episode, why."""
    turn_of = {step: number for number, turn in enumerate(turns) for step in turn}
    made: list[list[dict[str, Any]]] = [[] for _ in turns]
    path, grey, end = [], 0.0, None
    stage.begin(*one.begin)
    for step, action in enumerate(one.actions):
        path.append(np.array(stage.obs["robot0_eef_pos"]))
        row = None
        if step in turn_of:
            label = np.array(rows[step]["action"])
            seen = stage.simulator.observe()
            given, _ = condition.apply(seen, rows[step]["round"])
            row = {"obs": stage.look(given), "states": stage.env.sim.get_state().flatten(), "actions": label}
            if step in one.grey:
                grey = max(grey, abs(float(seen.agent.mean()) - one.grey[step]))
        _, done = stage.step(action.astype(np.float64), render=step + 1 in turn_of)
        end = step + 1 if done and end is None else end
        if row is not None:
            about = {"executed_actions": action, "rewards": stage.env.reward(), "dones": done, "intervention": True}
            made[turn_of[step]].append(row | about)
    differs = replayed.difference(one, np.array(path), grey, end)[1]
    model, said = stage.env.model.get_xml(), stage.simulator.prompt
    success, verified = bool(episode["success"]), bool(episode["verified_success"])
    facts = {"task": stage.task_id, "arm": episode["arm"], "sigma": 0.0}
    facts |= {key: episode[key] for key in ("init_state", "repeat", "seed")}
    return [files.Demonstration(own, said, success, verified, model, facts) for own in made], differs
