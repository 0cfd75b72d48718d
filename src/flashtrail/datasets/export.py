"""``flashtrail export-dataset``: demonstrations, or the episodes of a run's arm, as a LeRobot v3.0 set."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.datasets import replayed, write
from flashtrail.datasets.replayed import ACTION, EXECUTED, STATE, Outcome, Recorded, Where
from flashtrail.training import dataset
from flashtrail.training.dataset import ACTION_NAMES, STATE_NAMES

PROVENANCE = "provenance.json"
_DIMS = {STATE: STATE_NAMES, ACTION: ACTION_NAMES, EXECUTED: ACTION_NAMES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="demonstrations (task*/ep*.npz); with --arm, a finished run")
    add("--format", choices=["lerobot"], default="lerobot", help="what is written: a LeRobot v3.0 set")
    add("--out", type=Path, required=True, metavar="DIR", help="a new directory for the set")
    add("--arm", help="the run's arm whose episodes are exported")
    add("--successful", action="store_true", help="with --arm: only episodes of (verified) success")
    add("--limit", type=int, metavar="N", help="at most so many episodes of each task")
    add("--processes", type=int, default=1, metavar="N", help="tasks that are replayed at a time (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Replay, compare, write; episodes that a replay did not repeat are left out and named."""
    source, out = arguments.source, arguments.out
    if out.exists():
        raise UserError(f"--out {out} is there already: give a new directory")
    if arguments.successful and not arguments.arm:
        raise UserError("--successful is for a run's arm: demonstrations are successful ones")
    if not arguments.arm and not dataset.files(source):
        raise UserError(f"{source} has no demonstrations (task*/ep*.npz); of a finished run, give --arm")
    for name in ("limit", "processes"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: give at least 1")
    tasks: list[tuple[Where, list[Recorded]]] = (
        [*replayed.of_run(source, arguments.arm, arguments.successful, arguments.limit)]
        if arguments.arm
        else [*replayed.of_demonstrations(source, arguments.limit).items()]
    )
    if not any(episodes for _, episodes in tasks):
        raise UserError(f"{source}: {arguments.arm} has no such episode")
    with provenance.write_atomic(out) as fresh:
        (fresh / "films").mkdir(parents=True)
        outcomes = _replay(tasks, fresh / "films", arguments.processes)
        kept = [one for one in outcomes if not one.differs]
        if not kept:
            raise UserError(
                f"no episode of {source} was repeated by its replay: {outcomes[0].name}: {outcomes[0].differs}"
            )
        write.write(fresh, [one.played for one in kept], _names(kept[0]), kept[0].size, _robot(tasks[0][0]))
        provenance.json_dump(_provenance(source, arguments.arm, outcomes), fresh / PROVENANCE)
        for film in (fresh / "films").iterdir():
            film.unlink()
        (fresh / "films").rmdir()
    print(f"{out}: {len(kept)} of {len(outcomes)} episodes; see {PROVENANCE}")
    return 0


def _replay(tasks: Sequence[tuple[Where, list[Recorded]]], films: Path, processes: int) -> list[Outcome]:
    """Replay each task in a process of its own: a second simulator in one renders other pictures."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, max_tasks_per_child=1) as pool:
        try:
            played = [pool.submit(replayed.play, where, episodes, films) for where, episodes in tasks]
            return [outcome for future in played for outcome in future.result()]
        except BrokenProcessPool:
            raise UserError("a simulator process ended by itself (out of memory?): give --processes 1") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _names(one: Outcome) -> dict[str, list[str]]:
    return {name: _DIMS[name] for name in one.played.vectors}


def _robot(where: Where) -> str:
    return "panda" if isinstance(where, int) or where.suite.startswith("libero") else where.suite


def _provenance(source: Path, arm: str | None, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return where the set is from: each episode's name, and how far its replay was from its record."""
    written = [one.name for one in outcomes if not one.differs]
    return {
        "format": "flashtrail-export",
        "source": source.absolute().name,
        "arm": arm,
        "code": provenance.code_digest(Path(replayed.__file__), Path(write.__file__), Path(__file__)),
        "method": "recorded actions (float32) replayed in the same scene; compared: hand, end, mean of the agent view",
        "tolerance": {"metres": replayed.NEAR_M, "grey_levels": replayed.NEAR_GREY},
        "episodes": [
            {
                **{"name": one.name, "episode_index": written.index(one.name) if not one.differs else None},
                **{"success": one.success, "largest_m": one.metres, "largest_grey": one.grey, "differs": one.differs},
            }
            for one in outcomes
        ],
    }
