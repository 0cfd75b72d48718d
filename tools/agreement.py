"""Honest episodes against verified success: the scripted expert plays, and the two verdicts should agree.

``python tools/agreement.py`` plays ten libero_goal tasks x ten init states, one process a task, without pictures, and
prints per task: successes, how many of them are verified, with interval, and every disagreement. The expert does what
the task says, so a success of its own that is not verified is a fault of the rules (or a success by accident: the list
says which behaviour is missing).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import goal_tasks
from scipy import stats

from flashtrail.base import commands, provenance
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.simulators import verify
from flashtrail.simulators.libero.simulator import LiberoSimulator
from flashtrail.training import expert

SUITE, WANTED = "libero_goal", 0.95


@dataclass(frozen=True)
class Played:
    """One honest episode: the two verdicts, and by how much it kept clear of the bounds (empty: not of its family).

    `lifted` m, `released` m (release distance), `share` of the way with the hand; of the first goal that has them.
    """

    task_id: int
    init_state: int
    steps: int
    success: bool
    verified: bool
    missing: str | None
    grasps: int
    lifts: int
    lifted: float | None
    released: float | None
    share: float | None
    wall_s: float

    @property
    def agrees(self) -> bool:
        """Whether the two verdicts are one."""
        return self.success == self.verified


def play(simulator: LiberoSimulator, init_state: int, *, horizon: int | None = None) -> Played:
    """Play one episode with the expert, to success or horizon."""
    started = time.perf_counter()
    simulator.reset(EpisodeKey(SUITE, simulator.task_id, init_state, 0))
    master, success, steps = goal_tasks.for_task(simulator.task_id), False, 0
    while not success and steps < (horizon or simulator.horizon):
        action = master.act(expert.observe(*simulator.truth))
        success = simulator.step(action.tolist(), render=False).done
        steps += 1
    verdict = simulator.verdict(success)
    assert verdict is not None
    counts = (verdict.verified, verdict.missing, verdict.grasps, verdict.lifts)
    wall_s = time.perf_counter() - started
    return Played(simulator.task_id, init_state, steps, success, *counts, *_margins(simulator), wall_s)


def _margins(simulator: LiberoSimulator) -> tuple[float | None, float | None, float | None]:
    goal = simulator.seen()[0]
    track = goal.tracks[0]
    if goal.family == verify.PICK_PLACE:
        found = verify.grasps(track)
        if not found:
            return None, None, None
        return max(g.lifted for g in found), verify.release_distance(track, found[-1].last), None
    share = verify.with_hand_share if goal.family == verify.PUSH else verify.joint_share
    return None, None, share(track)


def play_task(task_id: int, init_states: Sequence[int]) -> list[Played]:
    """Play these init states of a task in this process, which must not have had another simulator."""
    simulator = LiberoSimulator(SUITE, task_id)
    try:
        return [play(simulator, init_state) for init_state in init_states]
    finally:
        simulator.close()


def play_all(tasks: Sequence[int], init_states: Sequence[int], processes: int) -> list[Played]:
    """Play every task in a process of its own, `processes` at a time."""
    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(lambda task_id: _in_process(task_id, init_states), tasks))
    return [played for part in parts for played in part]


def _in_process(task_id: int, init_states: Sequence[int]) -> list[Played]:
    source = str(Path(__file__).resolve().parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "played.json"
        words = [str(task_id), json.dumps(list(init_states)), str(answer)]
        done = subprocess.run(
            [sys.executable, __file__, "--play", *words],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            raise RuntimeError(f"task {task_id}: exit code {done.returncode}: {done.stderr[-2000:]}")
        rows: list[dict[str, Any]] = provenance.json_load(answer)
    part = [Played(**row) for row in rows]
    print(table(part, header=False), flush=True)
    return part


def table(episodes: Iterable[Played], *, header: bool = True) -> str:
    """Return agreement by task as text, and a line for each disagreement and each episode without success."""
    episodes = list(episodes)
    lines = ["task  success  agree    95 % interval    lifted >=  released <=  with hand >="] if header else []
    for task_id in sorted({played.task_id for played in episodes}):
        own = [played for played in episodes if played.task_id == task_id]
        won = [played for played in own if played.success]
        lines.append(f"{task_id:>4}  {len(won):>3}/{len(own):<3}  {_agreement(own)}  {_extremes(won)}")
    for played in episodes:
        if not (played.agrees and played.success):
            found = f"success {played.success}, verified {played.verified} ({played.missing})"
            lines.append(f"      task {played.task_id} init state {played.init_state}: {found}, {played.steps} steps")
    return "\n".join(lines)


def _agreement(episodes: Sequence[Played]) -> str:
    agree = sum(played.agrees for played in episodes)
    interval = stats.binomtest(agree, len(episodes)).proportion_ci(method="wilson")
    return f"{agree:>3}/{len(episodes):<3}  {interval.low:.3f} to {interval.high:.3f}"


def _extremes(won: Sequence[Played]) -> str:
    lifted = [played.lifted for played in won if played.lifted is not None]
    released = [played.released for played in won if played.released is not None]
    shares = [played.share for played in won if played.share is not None]
    words = (f"{min(lifted):.3f} m" if lifted else "", f"{max(released):.3f} m" if released else "")
    return f"{words[0]:>9}  {words[1]:>11}  {f'{min(shares):.2f}' if shares else '':>12}".rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Play, print, write results/benchmarks/verified_success.json; exit code 1 under 95 % agreement."""
    parser = commands.Parser(prog="python tools/agreement.py", description=main.__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=sorted(goal_tasks.TASKS))
    parser.add_argument("--init-states", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/verified_success.json"))
    parser.add_argument("--play", nargs=3, metavar=("TASK", "INIT_STATES", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.play:
        played = play_task(int(given.play[0]), json.loads(given.play[1]))
        provenance.json_dump([asdict(one) for one in played], given.play[2])
        return 0
    episodes = play_all(given.tasks, given.init_states, given.processes)
    won = [played for played in episodes if played.success]
    print(table(episodes))
    print(f"of all episodes:      {_agreement(episodes)} agree")
    if won:
        print(f"of the successful:    {_agreement(won)} verified")
    provenance.json_dump({"episodes": [asdict(played) for played in episodes]}, given.out)
    agree = sum(played.agrees for played in won)
    return 0 if won and agree >= WANTED * len(won) else 1


if __name__ == "__main__":
    sys.exit(commands.run(main, "agreement"))
