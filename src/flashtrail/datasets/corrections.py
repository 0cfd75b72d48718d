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
from flashtrail.datasets.replayed import NEAR_GREY, NEAR_M
from flashtrail.experiment import doubt
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

    `arm`: as `config.Experiment.arm` gives it. What comes after a replay became another episode is left out and named.
    UserError where there is no correction. This process must not have had a simulator.
    """
    rows = {
        name: schemas.read_table(shard / f"{name}.parquet", schemas.SCHEMAS[name]) for name in ("episodes", "steps")
    }
    steps: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for step in sorted(rows["steps"].to_pylist(), key=lambda step: step["step"]):
        steps[step["init_state"], step["repeat"]].append(step)
    stage = Stage(task, arm["rollout"]["hard_reset"], arm["seed"])
    found: list[files.Demonstration] = []
    others, alone = [], arm.get("server") == EXPERT
    for episode in sorted(rows["episodes"].to_pylist(), key=lambda row: (row["init_state"], row["repeat"])):
        key = EpisodeKey(arm["suite"], task, episode["init_state"], episode["repeat"])
        own = steps[key.init_state, key.repeat]
        if turns := interventions(own, alone):
            condition = conditions.build(arm["condition"], seeds.derive(arm["seed"], key, "perturbation"))
            made, differs = _play(stage, key, episode, own, turns, condition)
            found += made
            others += [f"init state {key.init_state}, repeat {key.repeat}: {differs}"] if differs else []
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
    turns = groupby(steps, key=lambda step: (step["who"] == doubt.EXPERT, step["round"]))
    return [range((own := [s["step"] for s in turn])[0], own[-1] + 1) for (mine, _), turn in turns if mine]


def _play(
    stage: Stage, key: EpisodeKey, episode: Row, rows: Sequence[Row], turns: Sequence[range], condition: Condition
) -> tuple[list[files.Demonstration], str]:
    """Replay an episode to its last correction; return those before it became another one, and when it did."""
    turn_of = {step: turn for turn in turns for step in turn}
    made: dict[range, list[Row]] = {turn: [] for turn in turns}
    differs = ""
    stage.begin(key.init_state, key.repeat)
    for step, row in enumerate(rows[: turns[-1].stop]):
        seen = stage.simulator.observe() if step in turn_of else None
        hand = np.array(stage.obs["robot0_eef_pos"])
        off = float(np.linalg.norm(hand - rows[step - 1]["eef_pos"])) if step else 0.0
        known = seen is not None and row["img_mean"] is not None
        grey = abs(float(seen.agent.mean()) - row["img_mean"]) if seen is not None and known else 0.0
        if off > NEAR_M or grey > NEAR_GREY:
            differs = f"from step {step} on another episode: {off * 1e3:.2g} mm, {grey:.2g} grey levels off"
            break
        executed = np.array(row["action"] if row["executed"] is None else row["executed"])
        shown: Row = {}
        if seen is not None:
            shown = {"obs": stage.look(condition.apply(seen, row["round"])[0]), "actions": np.array(row["action"])}
            shown |= {"states": stage.env.sim.get_state().flatten(), "intervention": True}
        _, done = stage.step(executed, render=step + 1 in turn_of)
        if shown:
            about = {"executed_actions": executed, "rewards": stage.env.reward(), "dones": done}
            made[turn_of[step]].append(shown | about)
    facts = {"task": stage.task_id, "arm": episode["arm"], "sigma": 0.0}
    facts |= {name: episode[name] for name in ("init_state", "repeat", "seed")}
    ends = stage.simulator.prompt, bool(episode["success"]), bool(episode["verified_success"])
    model, whole = stage.env.model.get_xml(), [own for turn, own in made.items() if len(own) == len(turn)]
    return [files.Demonstration(own, *ends, model, facts) for own in whole], differs
