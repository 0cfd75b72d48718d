"""``flashtrail doctor RUN``: what most episodes of a run show, the likely cause, and what to check.

Any run will do: our tables, imported ones, an official client's directory, JSON lines. With `--policy` and
`--observations` a policy is asked itself, whether it looks at what it is shown (`sensitivity`). Exit code 0: nothing
found; 1: a likely cause, or a policy blind to its pictures; 2: something cannot be read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashtrail.base.errors import UserError
from flashtrail.drills import bounds as clean
from flashtrail.drills import logs, sensitivity, verdicts
from flashtrail.drills.bounds import Reference
from flashtrail.drills.logs import Logged, Run
from flashtrail.drills.predicates import NAMES, PREDICATES, features
from flashtrail.rollouts import recordings
from flashtrail.statistics import intervals
from flashtrail.statistics.wording import listed, percent, plural, rate_with_interval

_STORED = Path("drills") / "bounds.json"
_CAUSE = {predicate.name: predicate for predicate in PREDICATES}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add(
        "run_dir",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="results/, results/tables/ARM, what import-run wrote, an official client's run directory, or JSON lines",
    )
    add("--bounds", type=Path, metavar="FILE", help="clean bounds (default: drills/bounds.json of the run's results)")
    add("--write-bounds", type=Path, metavar="FILE", help="take RUN for clean: derive bounds from it and write them")
    add("--policy", type=Path, metavar="DIR", help="in place of RUN: an artifact that is asked what it looks at")
    add("--observations", type=Path, metavar="FILE", help="with --policy: results/profile/POLICY/observations.npz")
    add("--json", action="store_true", help="print one JSON object instead of words")


def run(arguments: argparse.Namespace) -> int:
    """Diagnose each arm of the run; return 1 where a likely cause was found for any."""
    if arguments.policy or arguments.observations:
        return _of_policy(arguments)
    if not arguments.run_dir:
        raise UserError("give a RUN, or --policy DIR and --observations FILE")
    logged_run = logs.read(arguments.run_dir)
    if not logged_run.episodes:
        raise UserError(
            f"{arguments.run_dir}: no episode with steps to judge ({logged_run.left_out} ended by infrastructure)"
        )
    if arguments.write_bounds:
        return _write_bounds(logged_run, arguments.write_bounds)
    bounds_path = arguments.bounds or stored(arguments.run_dir)
    reference = clean.load(bounds_path)
    notes = remarks(logged_run, reference)
    arms = {arm: diagnosis(episodes, reference) for arm, episodes in logged_run.arms.items()}
    if arguments.json:
        report = {"bounds": str(bounds_path), "notes": notes, "left_out": logged_run.left_out, "arms": arms}
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        print("\n".join([*(f"note: {note}" for note in notes), *_words(arms, reference)]))
    return int(any(entry["cause"] for entry in arms.values()))


def _of_policy(arguments: argparse.Namespace) -> int:
    """Print what the policy looks at; return 1 where it is blind to where things are."""
    artifact, seen = arguments.policy, arguments.observations
    if not (artifact and seen) or arguments.run_dir or arguments.bounds or arguments.write_bounds:
        raise UserError("--policy DIR and --observations FILE go together, without RUN and bounds")
    recorded = recordings.load(seen)
    ask = sensitivity.asker(artifact)
    figures = sensitivity.measure(ask, recorded, seed=0, action_sd=sensitivity.action_sd(artifact))
    words = sensitivity.words(figures)
    if arguments.json:
        print(json.dumps({"words": words, "figures": [figure.model_dump() for figure in figures]}, indent=2))
    else:
        print("\n".join([f"{artifact}: {words['pictures']}", *sensitivity.lines(figures), sensitivity.METHOD]))
    return int(words["pictures"] == "blind")


def _write_bounds(run: Run, path: Path) -> int:
    reference = clean.derive([logged.episode for logged in run.episodes], logs.origin(run))
    clean.save(reference, path)
    alarm = percent(clean.beyond(reference.episodes), 1)
    print(
        f"{path}: bounds of {plural(reference.episodes, 'episode')}, {reference.rewarded} of them rewarded; a clean "
        f"episode lies beyond one of them with a probability of at most {alarm}"
    )
    return 0


def stored(run_dir: str | Path) -> Path:
    """Return where the run's own bounds are: beside its tables, or of the directory in which the command is given."""
    root = Path(run_dir).resolve()
    candidates = [base / _STORED for base in (root, root / "results", *root.parents[:3])]
    candidates.append(Path("results") / _STORED)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{run_dir} has no clean bounds: give --bounds FILE; {clean.REMEDY}")


def remarks(run: Run, reference: Reference) -> list[str]:
    """Return what makes a diagnosis weaker: another policy's bounds, episodes that infrastructure ended."""
    notes = []
    theirs = set(reference.origin.get("policies", [])) - {"unknown"}
    own = {policy for policy in run.policies.values() if policy != "unknown"}
    if not own or not theirs:
        notes.append("whether the bounds are of this run's policy is not recorded")
    for other in sorted(own - theirs if theirs else ()):
        notes.append(f"the bounds are of {listed(sorted(theirs))}, not of {other}: derive bounds from its clean run")
    if run.left_out:
        notes.append(f"{plural(run.left_out, 'episode')} ended by infrastructure left out")
    return notes


def diagnosis(episodes: Sequence[Logged], reference: Reference) -> dict[str, Any]:
    """Return one arm's diagnosis as JSON-able data: counts by predicate, those that fire, cause, what to check."""
    played = [logged.episode for logged in episodes]
    judged = [verdicts.judge(episode, reference.bounds) for episode in played]
    rates = verdicts.counts(judged)
    firing = verdicts.firing(rates, reference)
    rewarded = sum(bool((episode.reward > 0).any()) for episode in played)
    changes = [change for episode in played if not np.isnan(change := features(episode)["change"])]
    likely = _CAUSE[firing[0]] if firing else None
    return {
        "episodes": len(played),
        "rewarded": rewarded,
        "change": float(np.median(changes)) if changes else None,
        "predicates": {
            name: {"k": count.k, "n": count.n, "clean_run_at_most": _alarm(name, count.n, reference)}
            for name, count in rates.items()
        },
        "unjudged": verdicts.unjudged(played, reference.bounds),
        "firing": firing,
        "cause": likely.name if likely else None,
        "sentence": likely.sentence if likely else None,
        "flagged": {
            name: [logged.name for logged, flags in zip(episodes, judged, strict=True) if flags[name]]
            for name in NAMES
            if rates[name].k
        },
    }


def _alarm(name: str, m: int, reference: Reference) -> float | None:
    return verdicts.run_alarm(_CAUSE[name], m, reference.bounds) if m else None


# --- words ---


def _words(arms: dict[str, dict[str, Any]], reference: Reference) -> list[str]:
    lines = []
    for arm, entry in arms.items():
        rate = intervals.rate(entry["rewarded"], entry["episodes"])
        lines.append(f"{arm}: {plural(entry['episodes'], 'episode')}, rewarded {rate_with_interval(rate)}")
        lines += [f"  {line}" for line in _of_arm(entry)]
    clean_run = f"{plural(reference.episodes, 'clean episode')}, {reference.rewarded} rewarded"
    return [*lines, f"bounds: {clean_run}; a run is called what more than half of its episodes show"]


def _of_arm(entry: dict[str, Any]) -> list[str]:
    lines = []
    for rank, name in enumerate(entry["firing"]):
        predicate, count = _CAUSE[name], entry["predicates"][name]
        lines.append(f"{'likely' if not rank else 'also'}: {name}, in {count['k']}/{count['n']} episodes")
        lines += [f"  {predicate.sign}", f"  likely cause: {predicate.cause}", f"  check: {predicate.check}"]
        if name == "frozen_policy" and entry["change"] is not None:
            lines.append(f"  actions change by {entry['change']:.2g} a step (median)")
        if count["clean_run_at_most"] is not None:
            alarm = f"{100 * count['clean_run_at_most']:.2g} %"
            lines.append(f"  in a clean run of {plural(count['n'], 'episode')} this is seen in at most {alarm}")
    if not entry["firing"]:
        lines.append("nothing found: no predicate holds in enough episodes")
    seen = [
        f"{name} {count['k']}/{count['n']}"
        for name, count in entry["predicates"].items()
        if count["k"] and name not in entry["firing"]
    ]
    if seen:
        lines.append(f"in too few episodes to speak of the run: {', '.join(seen)}")
    by_lack: dict[str, list[str]] = {}
    for name, lacks in entry["unjudged"].items():
        by_lack.setdefault(listed(lacks), []).append(name)
    lines += [f"cannot be judged: {listed(names)} (missing: {lack})" for lack, names in by_lack.items()]
    return lines
