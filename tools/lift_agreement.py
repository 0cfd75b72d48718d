"""What each criterion says of robosuite's Lift: of the scripted expert's honest episodes, and of attacks on success.

``python tools/lift_agreement.py`` plays the expert on every task (robot) and every attack of `lift_attacks`, a process
a task, without pictures, and prints two tables: the attacks with the four criteria (naive, robosuite's own, the printed
correction, verified) and the simulator's `done`; the expert's verified episodes by robot, with interval. An attack that
is verified, or an honest episode that is not, is a fault of the rules. Every episode is a line of --out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import forks
import lift_attacks
import pandas as pd
from lift_attacks import Arena

from flashtrail.base import commands, provenance
from flashtrail.simulators.robosuite_lift.tasks import TASKS
from flashtrail.statistics.wilson import wilson

CRITERIA = ["naive", "own", "printed", "success", "verified"]
HONEST = lift_attacks.honest.__name__
ATTACKED = {0, 7}  # the tasks whose attacks are played at more init states: one of lifting, one of pushing


def play_task(task_id: int, honest: int, attacks: int, file: Path) -> None:
    """Play a task's episodes in this process, which must not have had another simulator, into a CSV file."""
    arena = Arena(task_id)
    played = [arena.play(lift_attacks.honest, init_state) for init_state in range(honest)]
    for attack in lift_attacks.attacks_on(task_id):
        played += [arena.play(attack, init_state) for init_state in range(attacks)]
    pd.DataFrame([asdict(one) for one in played]).to_csv(file, index=False)


def attacks_table(episodes: pd.DataFrame) -> str:
    """Return what each criterion says of each attack, episodes of all robots together, as text."""
    lines = [f"{'task':<6}{'attack':<33}{'n':>4}" + "".join(f"{name:>9}" for name in CRITERIA) + "  the rule misses"]
    families = episodes.task_id.map(lambda task_id: TASKS[task_id].family)
    for (family, attack), own in episodes.groupby([families, "attack"], sort=False):
        said = "".join(f"{count:>9}" for count in own[CRITERIA].sum())
        reasons = ", ".join(f"{reason} ({count})" for reason, count in own.behaviour.value_counts().items())
        lines.append(f"{family:<6}{attack:<33}{len(own):>4}{said}  {reasons}".rstrip())
    return "\n".join(lines)


def honest_table(episodes: pd.DataFrame) -> str:
    """Return the honest episodes by task as text, and a line for each that is not verified."""
    honest = episodes[episodes.attack == HONEST]
    lines = ["task  robot    controller    verified  95 % interval   steps    raised >=  alone <=  with hand >="]
    for task_id, own in honest.groupby("task_id"):
        task, verified = TASKS[task_id], own[own.verified]
        interval = wilson(len(verified), len(own))
        words = f"{task_id:>4}  {task.robot:<7}  {task.controller:<12}  {len(verified):>3}/{len(own):<3}  "
        lines.append(f"{words} {interval.low:.3f} to {interval.high:.3f}  {_extremes(verified)}".rstrip())
    for row in honest[~honest.verified].itertuples():
        found = f"success {row.success}, {row.missing}, {row.steps} steps"
        lines.append(f"      task {row.task_id} init state {row.init_state}: {found}")
    return "\n".join(lines)


def _extremes(verified: pd.DataFrame) -> str:
    def spelled(value: float, form: str) -> str:
        return "" if pd.isna(value) else form.format(value)

    steps = f"{verified.steps.min()}-{verified.steps.max()}" if len(verified) else ""
    raised, alone = (spelled(verified.raised_mm.min(), "{:.0f} mm"), spelled(verified.alone_mm.max(), "{:.1f} mm"))
    return f"{steps:<7}  {raised:>9}  {alone:>8}  {spelled(verified.share.min(), '{:.2f}'):>12}"


def main(argv: Sequence[str] | None = None) -> int:
    """Play, print, write --out; exit code 1 where an attack is verified or an honest episode is not."""
    parser = commands.Parser(prog="python tools/lift_agreement.py", description=main.__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", choices=range(len(TASKS)), default=list(range(len(TASKS))))
    parser.add_argument("--honest", type=int, default=24, help="init states of the expert, each task (default 24)")
    parser.add_argument("--attacks", type=int, default=8, help="init states of an attack, tasks 0 and 7 (default 8)")
    parser.add_argument("--elsewhere", type=int, default=1, help="the same, other tasks (default 1)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/lift_verified.csv"))
    episodes = play_all(parser.parse_args(argv))
    print(attacks_table(episodes), honest_table(episodes), sep="\n\n")
    return int((episodes.verified != (episodes.attack == HONEST)).any())


def play_all(given: argparse.Namespace) -> pd.DataFrame:
    """Play what the command line says, a process a task; write and return the episodes."""
    with tempfile.TemporaryDirectory() as directory:
        parts = {task_id: Path(directory) / f"{task_id}.csv" for task_id in sorted(set(given.tasks))}
        jobs: list[Any] = []
        for task_id, part in parts.items():
            attacks = given.attacks if task_id in ATTACKED else given.elsewhere
            jobs.append(partial(play_task, task_id, given.honest, attacks, part))
        forks.run(jobs, given.processes, forks.import_robosuite)
        episodes = pd.concat([pd.read_csv(part) for part in parts.values()], ignore_index=True)
    with provenance.write_atomic(given.out) as written:
        episodes.to_csv(written, index=False)
    return episodes


if __name__ == "__main__":
    sys.exit(commands.run(main, "lift-agreement"))
