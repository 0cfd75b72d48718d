"""``flashtrail explain``: what one episode depended on, as JSON, and its replay against the recorded rows.

With the policy's artifact and this package, the JSON is enough to run the episode again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.record import replay
from flashtrail.record.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("episode", help="ARM/TASK/INIT_STATE, ARM/SUITE/TASK/INIT_STATE/REPEAT, or a file that --out wrote")
    add("--from", dest="root", type=Path, default=Path(), metavar="DIR", help="a run or a bundle (default: here)")
    add("--out", type=Path, metavar="FILE", help="write the JSON there, with the recorded rows")
    add("--replay", action="store_true", help="run the episode again and compare it with the record")
    add("--artifacts", type=Path, metavar="DIR", help="results/artifacts, where --from has no weights")
    add("--python", type=Path, metavar="FILE", help="model environment's interpreter (default: this checkout's)")


def run(arguments: argparse.Namespace) -> int:
    """Explain an episode, replay it if asked; 1 if the replay contradicts the record."""
    try:
        return _run(arguments)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{arguments.episode}: its record is not in flashtrail's format ({type(error).__name__}: {error})"
        ) from error


def _run(arguments: argparse.Namespace) -> int:
    explained = _explained(arguments)
    if arguments.out is not None:
        provenance.json_dump(explained, arguments.out)
    if not arguments.replay:
        if arguments.out is None:
            print(json.dumps({k: v for k, v in explained.items() if k not in ("rows", "noise_seeds")}, indent=2))
        return 0
    outcome = explained["outcome"]
    print(f"{explained['episode']}: {outcome['outcome']} after {outcome['steps']} steps on record")
    print(f"a replay must give {explained['equality']}", flush=True)
    outcome = replay.replay(explained, replay.Here(arguments.root, arguments.artifacts, arguments.python))
    for line in outcome.differences:
        print(f"differs: {line}")
    if outcome.excused:
        print(f"no contradiction: {outcome.excused}")
    elif not outcome.differences:
        print("the replay gave the recorded rows, timing apart")
    return int(bool(outcome.differences) and not outcome.excused)


def _explained(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.episode.endswith(".json"):
        first, *others = Run.of_each_report(arguments.root)
        text = arguments.episode.strip()
        bundle = next((run for run in others if any(text.startswith(f"{arm}/") for arm in run.arms)), first)
        return replay.explain(bundle, replay.parse(bundle, arguments.episode))
    explained = provenance.json_load(arguments.episode)
    if not isinstance(explained, dict) or explained.get("format") != replay.FORMAT:
        raise UserError(f"{arguments.episode} was not written by flashtrail explain --out")
    return explained
