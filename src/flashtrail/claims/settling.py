"""``flashtrail settle BUDGET``: run the workflow again and again with more episodes, until every claim has ended or the
budget is gone.

All state is in one directory (results/settle, of another report than `final` its own): `record.json` (each batch,
written before it begins and while it runs: what of the budget is spent), and what follows from it, `overlay.yaml` (the
grown numbers of episodes) and `profile.yaml` (the run's profile with that overlay). So a loop that was killed at any
point goes on by the same command. It starts nothing but the workflow, for lines of the config that claims name. Which
episodes are next is `settle`'s to say.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import functools
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from flashtrail.base import documents, names, provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import claims as types
from flashtrail.claims import looks, settle
from flashtrail.claims.settle import Batch, Left, Line, Standing
from flashtrail.experiment import config, ledger, outlook
from flashtrail.experiment.outlook import duration
from flashtrail.statistics.wording import listed, plural
from flashtrail.tables import schemas

LOG = Path("results/logs/settle.log")
_BEAT_S = 5.0  # how often the time that a batch takes is written down
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
_SECTIONS = ("arms", "grids", "sweeps")


def budget(text: str) -> Left:
    """Return a budget of time (``60m``, ``2h``, ``90s``) or episodes (``40``); UserError for anything else."""
    match = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]{1,3})?) *(s|m|min|h)?", text.strip())
    number = float(match[1]) if match else 0.0
    if not match or not number or not (match[2] or number.is_integer()):
        raise UserError(f"BUDGET={text}: give a time such as 60m or 2h, or a number of episodes such as 40")
    return Left(seconds=number * _UNITS[match[2]]) if match[2] else Left(episodes=number)


# --- what is recorded ---


@dataclass
class Record:
    """The batches so far, the one that runs included; written whole at each change."""

    directory: Path
    batches: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Record:
        """Return what earlier runs of the command left."""
        path = directory / "record.json"
        return cls(directory, provenance.json_load(path)["batches"] if path.is_file() else [])

    def write(self) -> None:
        """Write it down."""
        provenance.json_dump({"version": 1, "batches": self.batches}, self.directory / "record.json")

    @property
    def unfinished(self) -> dict[str, Any] | None:
        """The batch in which an earlier run was stopped, or None."""
        return self.batches[-1] if self.batches and not self.batches[-1]["done"] else None

    def left(self, whole: Left) -> Left:
        """Return what is left of a budget."""
        spent = (sum(batch[name] for batch in self.batches) for name in ("episodes", "seconds"))
        return Left(*(total - part for total, part in zip((whole.episodes, whole.seconds), spent, strict=True)))

    @property
    def pace(self) -> float:
        """How many times as long the finished batches took as was expected; 1 before there is one."""
        done = [batch for batch in self.batches if batch["done"] and batch["episodes"]]
        expected = sum(batch["expected_s"] for batch in done)
        return min(4.0, max(0.25, sum(batch["seconds"] for batch in done) / expected)) if done else 1.0

    def sizes(self) -> dict[str, int]:
        """Return the largest number of episodes that was settled on for each line."""
        largest: dict[str, int] = {}
        for batch in self.batches:
            for name, episodes in batch["sizes"].items():
                largest[name] = max(episodes, largest.get(name, 0))
        return largest

    def begin(self, batch: Batch, pace: float) -> None:
        """Write a batch down before it begins."""
        planned = {"claim": batch.claim, "sizes": batch.sizes, "episodes": batch.episodes}
        now = time.time()
        run = {"seconds": 0.0, "expected_s": batch.seconds / pace, "done": False, "begun": now, "from": now, "to": now}
        self.batches.append(planned | run)
        self.write()


# --- the experiment, grown ---


@dataclass(frozen=True)
class Setting:
    """The command's inputs, read once: the profile, its config layers and its other settings."""

    profile: Path
    layers: tuple[str, ...]
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, profile: str) -> Setting:
        """Read a Snakemake profile; UserError where the directory is not one."""
        files = [path for name in ("profile.yaml", "config.yaml") if (path := Path(profile, name)).is_file()]
        if not files:
            raise UserError(f"{profile} has no profile.yaml: give the profile of the run, as PROFILE=profiles/local")
        settings = documents.mapping(files[0], "cores: 2")
        inside = {key: str(Path(profile, value)) for key, value in settings.items() if _names_file(profile, value)}
        settings = settings | inside
        files = settings.get("configfile") or []
        return cls(Path(profile), tuple([files] if isinstance(files, str) else map(str, files)), settings)

    @functools.cached_property
    def plain(self) -> config.Experiment:
        """The experiment as the user wrote it."""
        return config.load("config.yaml", *self.layers)

    @property
    def directory(self) -> Path:
        """Where all state is; a Snakemake profile."""
        return Path(self.plain.files.settle)

    @property
    def overlay(self) -> Path:
        """The grown numbers of episodes."""
        return self.directory / "overlay.yaml"

    def experiment(self) -> config.Experiment:
        """Return the experiment with the grown numbers of episodes."""
        return config.load("config.yaml", *self.layers, self.overlay)

    def snakemake(self) -> list[str]:
        """Return the command that runs the workflow, without its targets."""
        return [sys.executable, "-m", "snakemake", "--profile", str(self.directory)]

    def write(self, sizes: Mapping[str, int]) -> None:
        """Write the overlay (numbers that the config has, or exceeds, left out) and the profile that adds it."""
        overlay: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        for name, line in _lines(self.plain).items():
            if sizes.get(name, 0) > line.episodes:
                section, _, own = name.partition(".")
                overlay[section][own] = {"episodes": sizes[name]}
        self._write_yaml({k: v for k, v in overlay.items() if v}, self.overlay)
        files = [*self.layers, str(self.overlay)]
        self._write_yaml({**self.settings, "configfile": files}, self.directory / "profile.yaml")

    def _write_yaml(self, content: Mapping[str, Any], path: Path) -> None:
        text = f"# Written by `flashtrail settle`; make report PROFILE={self.directory} reports on these episodes.\n"
        with provenance.write_atomic(path) as temporary:
            temporary.write_text(
                text + yaml.safe_dump(dict(content), allow_unicode=True, sort_keys=False), encoding="utf-8"
            )


def _names_file(profile: str, value: Any) -> bool:
    """Whether a setting names a file of the profile: Snakemake then takes it for that file's path."""
    return isinstance(value, str) and Path(profile, value).is_file()


def _lines(experiment: config.Experiment, cores: int = 1) -> dict[str, Line]:
    """Return the lines that the config can grow, by ``section.name``."""
    tasks = {arm: experiment.tasks_of(arm) for arm in experiment.arms}
    walls = {arm: [s for task in tasks[arm] for s in ledger.timed(_shard(arm, task))] for arm in experiment.arms}
    usual = _mean([s for own in walls.values() for s in own], ledger.UNTIMED_S)
    lines = {}
    for name, arms in _arms_of_lines(experiment).items():
        section, _, own = name.partition(".")
        line = getattr(experiment, section)[own]
        seconds = _mean([_mean(walls[arm], usual) for arm in arms], usual) / cores
        repeats = getattr(line, "repeats", 1)
        starts = (line.episodes, line.first_init_state, len(arms), len(tasks[arms[0]]), repeats)
        lines[name] = Line(*starts, seconds, experiment.suite_of(arms[0]))
    return lines


def _shard(arm: str, task: int) -> Path:
    return Path("results/rollouts", names.file_name(arm), f"task_{task}")


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _arms_of_lines(experiment: config.Experiment) -> dict[str, list[str]]:
    expanded = {
        f"{section}.{name}": list(line.expanded(name).arms)
        for section in ("grids", "sweeps")
        for name, line in getattr(experiment, section).items()
    }
    expanded_arms = {arm for arms in expanded.values() for arm in arms}
    return {f"arms.{arm}": [arm] for arm in experiment.arms if arm not in expanded_arms} | expanded


# --- where the claims stand ---


def standings(
    file: types.ClaimsFile, judged: Mapping[str, Any], arms: Mapping[str, str], lines: Mapping[str, Line]
) -> list[Standing]:
    """Return where each claim stands that episodes can settle; `arms`: the line of each arm of the experiment."""
    judgements = {judgement["id"]: judgement for judgement in judged["claims"]}
    rows = []
    for claim in file.claims:
        if not isinstance(claim, settle.Tested) or not all(arm in arms for arm in settle.arms_of(claim)):
            continue
        own_lines = tuple(dict.fromkeys(arms[arm] for arm in settle.arms_of(claim)))
        if judgements[claim.id].get("anytime"):
            rows.append(_standing(claim, judgements[claim.id], own_lines))
        else:  # without a common init state it gets some; with them it is not tested for another reason
            own = [lines[name] for name in own_lines]
            alone = settle.common_starts(own) == 0 and len({line.suite for line in own}) == 1
            rows.append(Standing(claim.id, own_lines, 0, 1.0, 1.0, math.nan, 0.0, "" if alone else "not tested"))
    return rows


def _standing(claim: settle.Tested, judgement: Mapping[str, Any], lines: tuple[str, ...]) -> Standing:
    """Return where a claim stands by its anytime-valid side: after a fixed-n verdict no episodes may be added."""
    side = judgement["anytime"]
    wins, losses, n = _counts(claim, judgement["numbers"])
    support, refute = settle.evidence(claim, wins, losses, n)
    size = judgement["family"]["size"] if judgement["family"] else 1
    further = settle.further(claim, wins, losses, n, side["needs"], size)
    verdict = side["verdict"] if side["verdict"] in ("supported", "refuted") else ""
    return Standing(claim.id, lines, n, support, refute, side["needs"], further, verdict)


def _counts(claim: settle.Tested, numbers: Mapping[str, Any]) -> tuple[int, int, int]:
    if isinstance(claim, types.RateClaim):
        k, n = numbers["rate"]["k"], numbers["rate"]["n"]
        return k, n - k, n
    won, lost = numbers["only_a"], numbers["only_b"]
    turned = isinstance(claim, types.PairedClaim) and claim.direction == "less"
    return (lost, won, numbers["n"]) if turned else (won, lost, numbers["n"])


# --- the loop ---


class Loop:
    """One call of the command, which holds the lock of its directory."""

    def __init__(self, setting: Setting, whole: Left, lock: IO[bytes]) -> None:
        self.setting, self.whole, self.lock, self.record = setting, whole, lock, Record.read(setting.directory)

    def run(self) -> None:
        """Look, run the next batch, look again; then say how each claim ended."""
        if self.record.unfinished:
            _unlock(self.record.unfinished, self.setting.snakemake())
        self.first()
        looks = 0
        while True:
            looks += 1
            current, lines = self.look()
            left = self.record.left(self.whole)
            batch = settle.next_batch(current, lines, left, self.record.pace)
            if batch is None:
                break
            nearest = next(s for s in current if s.claim == batch.claim)
            print(f"look {looks}: {_where(nearest)}; next {_what(batch)}; left {_left(left)}", flush=True)
            self.record.begin(batch, self.record.pace)
            self.work()
        print(_table(current, lines))
        print(self.ending(current, lines, left))

    def first(self) -> None:
        """Run what is missing of the episodes so far: of the config's own, or of a batch that was stopped."""
        self.setting.write(self.record.sizes())
        if self.record.unfinished is None:
            experiment = self.setting.experiment()
            due = ledger.to_run(experiment, "results", ledger.read(experiment, "results"))
            report = next((one for one in due if one.part == ledger.REPORT), None)
            missing = report.episodes if report else 0
            batch = Batch("", {}, missing, settle.START_S + report.wall_s(self._cores()) if report else 0.0)
            left = self.record.left(self.whole)
            if missing and (missing > left.episodes or batch.seconds > left.seconds):
                raise UserError(
                    f"{plural(missing, 'episode')} of the config are missing, about {duration(batch.seconds)}: more "
                    f"than the budget has left ({_left(left)}); run make report first, or give a larger BUDGET"
                )
            self.record.begin(batch, 1.0)
        self.work()

    def look(self) -> tuple[list[Standing], dict[str, Line]]:
        """Return where the claims stand, and the lines as they are now."""
        experiment = self.setting.experiment()
        arms = {arm: name for name, own in _arms_of_lines(experiment).items() for arm in own}
        lines = _lines(experiment, self._cores())
        judged = provenance.json_load(experiment.files.claims)
        current = standings(types.load(experiment.claims), judged, arms, lines)
        if not current:
            raise UserError(f"{experiment.claims}: no claim is about the success of arms of this config")
        return current, lines

    def work(self) -> None:
        """Run the workflow for the last batch, writing down how long it takes; UserError where it fails."""
        batch = self.record.batches[-1]
        self.setting.write(self.record.sizes())
        LOG.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.setting.snakemake(), "--", self.setting.plain.files.claims]
        before, begun = batch["seconds"], time.monotonic()
        batch["from"] = time.time()
        with LOG.open("ab") as log:
            offset = log.tell()
            environment = {**os.environ, looks.ASKED: looks.SETTLE}
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[self.lock.fileno()],
            )
            with _ended_with_us(process):
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_BEAT_S)
                    batch |= {"seconds": round(before + time.monotonic() - begun, 1), "to": time.time()}
                    batch["done"] = process.returncode == 0
                    self.record.write()
                    if process.returncode is not None:
                        break
        if process.returncode == 0 and "begun" in batch:
            batch["episodes"] = min(batch["episodes"], self._played(batch["begun"]))
            self.record.write()
        if process.returncode:
            raise UserError(f"the workflow failed: {_reason(offset)} ({LOG}); the same command goes on from there")

    def _played(self, begun: float) -> int:
        """Return how many episodes of the report were begun since then: those that were there cost nothing."""
        since = datetime.datetime.fromtimestamp(begun, datetime.UTC).isoformat(timespec="milliseconds")
        experiment = self.setting.experiment()
        shards = (shard for shard in outlook.shards(experiment, "results") if shard.arm in experiment.arms)
        files = [path for shard in shards if (path := shard.directory / "episodes.parquet").is_file()]
        rows = schemas.read_tables(files, schemas.EPISODES, ["started_at"])
        return sum(row["started_at"] >= since for row in rows.to_pylist())

    def _cores(self) -> int:
        cores = self.setting.settings.get("cores", self.setting.settings.get("jobs"))
        return cores if isinstance(cores, int) and cores > 0 else os.cpu_count() or 1

    def ending(self, current: list[Standing], lines: Mapping[str, Line], left: Left) -> str:
        """Return the last lines: what was spent, and how the reports get these episodes."""
        open_ = [s.claim for s in current if not settle.ended(s, lines)]
        episodes = sum(batch["episodes"] for batch in self.record.batches)
        seconds = sum(batch["seconds"] for batch in self.record.batches)
        text = f"{plural(episodes, 'episode')} in {duration(seconds)}."
        if open_:
            text += f" The budget ({_left(left)} left) does not hold the next batch of {listed(open_)}: a larger BUDGET"
            text += f" goes on (all that {self.setting.directory} has recorded counts)."
        overlays = " ".join(["config.yaml", *self.setting.layers, str(self.setting.overlay)])
        again = f"make report PROFILE={self.setting.directory}"
        return f"{text}\nReports with these episodes: {again}\nflashtrail ledger {overlays}"


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ask the workflow to stop, and wait for it, where this command is stopped."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _reason(offset: int) -> str:
    """Return the line of the log since `offset` that says what went wrong."""
    with LOG.open("rb") as stream:
        stream.seek(offset)
        lines = stream.read().decode("utf-8", "replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[0] if errors else next((line for line in reversed(lines) if line.strip()), "no message")


def _unlock(batch: Mapping[str, Any], snakemake: Sequence[str]) -> None:
    """Remove Snakemake's lock where a killed run of ours left it: it was made while that run was at work."""
    created = [path.stat().st_mtime for path in Path(".snakemake/locks").glob("*.lock")]
    if created and all(batch["from"] - 1 <= when <= batch["to"] + 2 * _BEAT_S for when in created):
        subprocess.run([*snakemake, "--unlock"], check=True, stdin=subprocess.DEVNULL, capture_output=True)


# --- words ---


def _where(standing: Standing) -> str:
    support, refute, needed = (f"{x:.3g}" for x in (standing.support, standing.refute, standing.needed))
    return f"{standing.claim}, n {standing.n}, e {support} for and {refute} against, of {needed}"


def _what(batch: Batch) -> str:
    lines = listed([f"{name.partition('.')[2]} to {size}" for name, size in batch.sizes.items()])
    return f"{plural(batch.episodes, 'episode')} ({lines} a task; {duration(batch.seconds)})"


def _left(left: Left) -> str:
    if left.episodes < math.inf:
        return plural(max(0, int(left.episodes)), "episode")
    return duration(max(0.0, left.seconds))


def _table(current: list[Standing], lines: Mapping[str, Line]) -> str:
    rows = [
        (s.claim, str(s.n), f"{s.support:.3g}", f"{s.refute:.3g}", f"{s.needed:.3g}", _end(s, lines)) for s in current
    ]
    heads = ("claim", "n", "e for", "e against", "needed", "ended")
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    )


def _end(standing: Standing, lines: Mapping[str, Line]) -> str:
    if ended := settle.ended(standing, lines):
        return ended
    return f"open (about {standing.further:.0f} more)" if math.isfinite(standing.further) else "open (out of sight)"


# --- the command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("budget", metavar="BUDGET", help="in all: a time such as 60m or 2h, or a number of new episodes such as 40")
    add("--profile", default="profiles/local", metavar="DIR", help="the Snakemake profile of the run")


def run(arguments: argparse.Namespace) -> int:
    """Settle claims until all have ended or the budget is gone; exit code 0 in either case."""
    whole, setting = budget(arguments.budget), Setting.read(arguments.profile)
    setting.directory.mkdir(parents=True, exist_ok=True)
    with (setting.directory / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another settle (or the run of a killed one) is working here: waiting for it to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        Loop(setting, whole, lock).run()
    return 0
