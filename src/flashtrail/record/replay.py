"""One episode again: what is needed to replay it, the replay through the real shard, and what differs.

A replay is a shard of one episode: one policy server, one simulator in a fresh process. Where no round of the episode
shared a pass of the device with another session, its rows must be the recorded ones except for what a clock on the wall
measured (TIMING). A shared pass may change an action's last digits (docs/precision.md), after which two episodes may go
separate ways; `Outcome` says where.

A record is data: it names no program and no file outside its own folder. What runs is this installation, with the
settings of `sections` and nothing else that the record may hold.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flashtrail.base import documents, provenance, stages
from flashtrail.base.errors import UserError
from flashtrail.base.names import below
from flashtrail.claims import looks
from flashtrail.experiment import clocks, episodes, sections
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.shard import EXPERT, Rollout, ShardSpec
from flashtrail.record import rows
from flashtrail.record.run import TABLES, Run, Shard
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.rollouts.spec import shard_spec
from flashtrail.simulators import seeds
from flashtrail.tables import schemas

FORMAT = "flashtrail-episode"
# Of a shard's inputs, what its spec is made of, but for the interpreter, which no record may name.
_NUMBER = re.compile(r"(?:task |init |repeat )?(\d+)")
_HANDLES = ("base", "draft", "latencies", "action_stats", "kernels")
_CHECKOUT = provenance.PACKAGE_ROOT.parents[1]
# Of an arm on record, the parts that become a server's command line or a shard's settings, and what each may hold.
_SECTIONS: dict[str, type[documents.Section]] = {
    "flash": sections.Flash,
    "rollout": Rollout,
    "execution": sections.Execution,
    "engine": sections.Policy,
}
# The largest first difference of an action that a shared pass explains, environment units (docs/precision.md).
BATCHED = 5e-4
# What a clock on the wall measured, and what names the run rather than the episode.
TIMING = {
    "episodes": ("wall_s", "started_at", "video", "run_id"),
    "rounds": (*stages.COLUMNS, "policy_ms", "serve_ms", "roundtrip_ms", "batch_size"),
    "steps": (),
}


@dataclass(frozen=True)
class Name:
    """An episode of one arm as a user names it: ``arm/suite/task/init state/repeat``."""

    arm: str
    key: EpisodeKey

    def __str__(self) -> str:
        return "/".join(map(str, (self.arm, self.key.suite, self.key.task_id, self.key.init_state, self.key.repeat)))


@dataclass(frozen=True)
class Here:
    """Where a replay runs: `root`, below which the record's files lie; `artifacts`, a results/artifacts elsewhere;
    `python`, the model environment's interpreter, where it is not the one that this checkout's workflow located.
    """

    root: Path
    artifacts: Path | None = None
    python: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What a replay gave: `differences` from the record; `excused` says why they are not a contradiction, if so."""

    episode: str
    differences: list[str] = field(default_factory=list)
    excused: str = ""


def parse(run: Run, text: str) -> Name:
    """Return the episode that a text names: ``clean/0/3``, ``clean/libero_goal/0/3/0`` or as the reports print it."""
    parts = [part.strip() for part in text.strip().split("/")]
    if len(parts) < 3 or {"", ".", ".."} & set(parts) or not all(_NUMBER.fullmatch(part) for part in parts[-2:]):
        raise UserError(f"{text}: malformed, name an episode as ARM/TASK/INIT_STATE or ARM/TASK/INIT_STATE/REPEAT")
    # An arm's name may hold a slash itself; of two that fit it is the longer one.
    own = [arm for arm in run.arms if text.strip().startswith(f"{arm}/")]
    arm = max(own, key=len, default=text.strip().split("/")[0])
    rest = text.strip()[len(arm) + 1 :].split("/")
    if arm not in run.arms:
        raise UserError(f"{text}: the run has no arm {arm!r}; it has {', '.join(run.arms)}")
    expected = run.expected(arm)
    suite = expected["suite"]
    if rest and rest[0] == suite:
        rest = rest[1:]
    numbers = [_NUMBER.fullmatch(word.strip()) for word in rest]
    if len(rest) not in (2, 3) or not all(numbers):
        raise UserError(f"{text}: name an episode as ARM/TASK/INIT_STATE or {arm}/{suite}/TASK/INIT_STATE/REPEAT")
    task, init_state, *repeat = (int(m[1]) for m in numbers if m)
    name = Name(arm, EpisodeKey(suite, task, init_state, repeat[0] if repeat else 0))
    played = (task in expected["tasks"], init_state in expected["init_states"], name.key.repeat < expected["repeats"])
    if not all(played):
        raise UserError(
            f"{text}: the run has tasks {expected['tasks']}, init states {expected['init_states']} and "
            f"{expected['repeats']} repeat(s) of {arm}"
        )
    return name


def explain(run: Run, name: Name) -> dict[str, Any]:
    """Return, as plain data, all that the episode depended on, and its recorded rows."""
    shard = next(s for s in run.shards(name.arm) if s.task_id == name.key.task_id)
    arm = shard.job["params"]["arm"]
    recorded = rows_of(run, shard, name)
    about = schemas.read_metadata(run.path(f"{shard.directory}/episodes.parquet"))
    episode = recorded["episodes"][0]
    streams = {s: seeds.derive(arm["seed"], name.key, s) for s in ("sim", "noise", "perturbation", "latency")}  # type: ignore[arg-type]
    return {
        "format": FORMAT,
        "version": 1,
        "episode": str(name),
        "task": episode["task"],
        "policy": arm["policy"],
        "artifact_digest": about.get("artifact_digest", ""),
        "code_digest": about.get("code_digest", ""),
        "device": about.get("device", ""),
        "condition": arm["condition"],
        "guard": arm["guard"],
        "clock": arm["clock"],
        "seed": arm["seed"],
        "scene_seed": arm["scene_seed"],
        "seed_words": streams,
        "noise_seeds": [row["noise_seed"] for row in recorded["rounds"]],
        "arm": arm,
        "handles": {k: v for k, v in shard.job["input"].items() if k in _HANDLES},
        "execution": json.loads(about.get("execution", "{}")),
        "equality": promise(arm, recorded),
        "command": f"flashtrail explain {name} --replay",
        "looks": [
            {k: look[k] for k in ("claim", "at", "asked", "n", "e", "rests_on", "verdict")}
            for look in looks.read(run.path(run.outputs.looks))
            if name.arm in (look["arm"], look["control"])
        ],
        "outcome": {k: episode[k] for k in ("outcome", "success", "steps", "rounds")},
        "rows": recorded,
    }


def promise(arm: Mapping[str, Any], recorded: Mapping[str, Any]) -> str:
    """Return in words what a replay of this episode must reproduce."""
    if reason := unrepeatable(arm):
        return f"none: {reason}"
    if batched(recorded):
        return (
            f"all columns but those of timing, unless a pass that rounds shared changed an action first (by at most "
            f"{BATCHED:g}); after that nothing is promised"
        )
    return "all columns but those of timing, bit for bit, on the same device with the same versions"


def unrepeatable(arm: Mapping[str, Any]) -> str:
    """Return why an arm's episodes cannot be repeated; empty where they can."""
    if arm.get("server") not in (None, EXPERT):
        return f"the policy was served by {arm['server']}, whose weights are not on record"
    clock = clocks.read(arm["clock"])
    if clock is not None and clock.source == clocks.MEASURED:
        return "its clock was running on measured latencies"
    return ""


def batched(recorded: Mapping[str, Any]) -> bool:
    """Return True if a round of the episode shared its pass of the device with another session."""
    return any((row["batch_size"] or 1) > 1 for row in recorded["rounds"])


def rows_of(run: Run, shard: Shard, name: Name) -> dict[str, list[dict[str, Any]]]:
    """Return the episode's rows in the shard's tables; UserError where the episode itself is not there."""
    tables = {}
    for table in TABLES:
        own = schemas.read_table(run.path(f"{shard.directory}/{table}.parquet"), schemas.SCHEMAS[table]).to_pylist()
        tables[table] = [r for r in own if (r["init_state"], r["repeat"]) == (name.key.init_state, name.key.repeat)]
    if len(tables["episodes"]) != 1:
        raise UserError(f"{name}: {len(tables['episodes'])} rows in {run.path(shard.directory)}, expected one")
    return tables


def replay(explained: Mapping[str, Any], here: Here) -> Outcome:
    """Roll the episode out again and compare it with the rows on record.

    UserError where the policy's weights are not there or are not those of the record, or where it cannot be repeated.
    """
    episode = str(explained["episode"])
    if reason := unrepeatable(explained["arm"]):
        raise UserError(f"{episode} cannot be replayed: {reason}")
    arm = _checked(explained["arm"])
    *_, suite, task, init_state, repeat = episode.split("/")
    key = EpisodeKey(suite, int(task), int(init_state), int(repeat))
    with tempfile.TemporaryDirectory(prefix="flashtrail-replay-") as scratch:
        out = Path(scratch)
        own = {**arm, "init_states": [key.init_state], "repeats": key.repeat + 1, "video": "none"}
        own |= {"rollout": {**arm["rollout"], "simulators": 1}, "clock": _at_hand(arm["clock"], here)}
        handles = _handles(explained, here, out)
        spec = shard_spec(own, key.task_id, handles, "replay", out / "server.log")
        _same_artifact(explained, spec)
        _same_execution(explained, spec)
        with (out / "shard.log").open("w", encoding="utf-8") as log:
            roll_out_shard(spec, out / "shard", log=log).check()
        replayed = {}
        for table in TABLES:
            read = schemas.read_table(out / "shard" / f"{table}.parquet", schemas.SCHEMAS[table]).to_pylist()
            replayed[table] = [row for row in read if row["repeat"] == key.repeat]
    return compare(episode, explained["rows"], replayed)


def _checked(arm: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded arm with its settings checked as those of a config are; UserError for an invalid one."""
    given = {**arm, "engine": {**arm["engine"], "candidates": ["-"], "tokenizer": "-"}}
    checked = {
        name: documents.typed(TypeAdapter(kind), given.get(name, {}), f"the record's setting {name}")
        for name, kind in _SECTIONS.items()
    }
    plain = {
        name: section.model_dump(mode="json", exclude_none=name == "execution") for name, section in checked.items()
    }
    return {**arm, **plain, "engine": {key: plain["engine"][key] for key in sections.ENGINE}}


def _handles(explained: Mapping[str, Any], here: Here, out: Path) -> dict[str, Any]:
    """Return the shard's handles as they are here: this installation's interpreter, the artifact where it lies.

    UserError for one that is not below the record's folder.
    """
    placed = {}
    for kind, path in explained["handles"].items():
        if kind not in _HANDLES:
            continue
        handle = _artifact(here, kind, path) if kind in ("base", "draft") else below(here.root, path)
        if kind == "kernels" and not handle.is_file():
            continue  # the backend is then left open again
        if kind == "action_stats" and not handle.is_file():
            handle = below(_CHECKOUT, path)  # an episode by itself: a file of ours is held to the record by its digest
            if not handle.is_file():
                raise UserError(f"{here.root / path} does not exist: give --from, a run or bundle that has this file")
        placed[kind] = str(handle)
    provenance.json_dump(_model_environment(here), out / "handle.json")
    return {**placed, "model": str(out / "handle.json")}


def _artifact(here: Here, kind: str, path: str) -> Path:
    """Return the manifest of an artifact of this kind, with its weights beside it and nothing that links elsewhere."""
    if here.artifacts is None:
        root, manifest = here.root, below(here.root, path)
    else:
        root = here.artifacts
        manifest = below(root, f"{Path(path).parent.parent.name}/{kind}/manifest.json")
    weightless = manifest.is_file() and provenance.json_load(manifest).get("files") == {}  # a scripted policy's
    if not manifest.is_file() or not (weightless or (manifest.parent / "model.safetensors").is_file()):
        raise UserError(f"{manifest.parent} has no weights: give --artifacts, the results/artifacts of a run")
    for file in manifest.parent.iterdir():
        below(root, file.relative_to(root))
    return manifest


def _model_environment(here: Here) -> dict[str, Any]:
    """Return where a policy server can run: as the user says, as this checkout's own workflow found, or right here."""
    own = _CHECKOUT / "results/environments/handle.json"
    located: dict[str, Any] = provenance.json_load(own) if own.is_file() else {}
    if here.python is not None:
        return {**located, "python": str(here.python.absolute())}
    return located if Path(str(located.get("python", ""))).is_file() else {**located, "python": sys.executable}


def _at_hand(clock: Any, here: Here) -> Any:
    """Return the clock with the table that it replays, if it does, where that lies here."""
    table = clocks.replayed(clocks.read(clock))
    if table is None:
        return clock
    table_path = below(here.root, table)
    return {**clock, "source": {**clock["source"], "replay": str(table_path)}}


def _same_artifact(explained: Mapping[str, Any], spec: ShardSpec) -> None:
    ours, theirs = spec.metadata["artifact_digest"], explained["artifact_digest"]
    if ours != theirs:
        raise UserError(f"the artifact here has the digest {ours}, the episode ran on {theirs}: give --artifacts")


def _same_execution(explained: Mapping[str, Any], spec: ShardSpec) -> None:
    """UserError where actions would be unnormalised by other statistics than those of the record."""
    digest = "action_stats_digest"
    ours, theirs = json.loads(spec.metadata.get("execution", "{}")), explained.get("execution", {})
    if digest in theirs and ours.get(digest) != theirs[digest]:
        file = theirs.get("action_stats", "its file of statistics")
        raise UserError(f"{file} here is not the file of the record: give --from, a run or bundle that has it")


# --- the comparison ---


def compare(episode: str, recorded: Mapping[str, Any], replayed: Mapping[str, Any]) -> Outcome:
    """Return where the rows of a replay differ from the record, steps first: the first cause comes first."""
    parted = _first_difference(recorded["steps"], replayed["steps"], TIMING["steps"])
    differences = [
        f"{table}: {odd}"
        for table in ("steps", "rounds", "episodes")
        if (odd := _first_difference(recorded[table], replayed[table], TIMING[table]))
    ]
    if not differences or not batched(recorded):
        return Outcome(episode, differences)
    return Outcome(episode, differences, _excuse(recorded["steps"], replayed["steps"]) if parted else "")


def _first_difference(ours: list[Any], theirs: list[Any], timing: tuple[str, ...]) -> str | None:
    for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        odd = [name for name in a if name not in timing and a[name] != b.get(name)]
        if odd:
            # A step's row has the column `round` too: its own number is the step's.
            counter = next((c for c in ("step", "round") if c in a), None)
            row_name = f"{counter} {a[counter]}" if counter else f"row {i}"
            return f"{row_name}: {', '.join(f'{n} {rows.short(a[n])} against {rows.short(b.get(n))}' for n in odd)}"
    if len(ours) != len(theirs):
        return f"{len(ours)} rows on record, {len(theirs)} in the replay"
    return None


def _excuse(ours: list[Any], theirs: list[Any]) -> str:
    """Return why a difference is explained by a shared pass: the first action that differs does so by very little."""
    for a, b in zip(ours, theirs, strict=False):
        if a["action"] != b["action"]:
            largest = max(abs(x - y) for x, y in zip(a["action"], b["action"], strict=True))
            if largest <= BATCHED:
                return f"ran batched; equal up to step {a['step']}, where the action differs by {largest:.1g}"
            return ""
        if a != b:
            return ""
    return ""


def expected_names(run: Run) -> list[Name]:
    """Return all episodes of the run that can be repeated, arm by arm."""
    names = []
    for arm in run.arms:
        for shard in run.shards(arm):
            params = shard.job["params"]["arm"]
            if not unrepeatable(params):
                states, repeats = params["init_states"], params["repeats"]
                keys = episodes.expected_episodes(params["suite"], shard.task_id, states, repeats)
                names += [Name(arm, key) for key in keys]
    return names
