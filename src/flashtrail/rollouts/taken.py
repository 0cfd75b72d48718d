"""Finished episodes that are rows of tables already: of the shard as it was, or of a run that the user names.

They become parts like any other, if their key is wanted and their spec's digest is the shard's. Tables are data: bytes
are held to their checksum and rows to their schema, key and counters; names lead nowhere but below the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from flashtrail.base import parquet, provenance
from flashtrail.base.errors import UserError
from flashtrail.base.names import below, file_name
from flashtrail.experiment.episodes import EpisodeKey, expected_episodes
from flashtrail.experiment.shard import ShardSpec
from flashtrail.rollouts.episode import EpisodeRecord
from flashtrail.rollouts.recorder import Recorder
from flashtrail.tables import pictures, schemas
from flashtrail.tables.schemas import EPISODE_KEY, FILMS, SCHEMAS, SPEC_DIGEST, TAKEN

MOST_BYTES, MOST_ROWS = 1 << 30, 20_000_000  # of one table of a shard
_DIGESTS = ("config_digest", "code_digest", "artifact_digest", SPEC_DIGEST)


class Place(NamedTuple):
    """A shard's tables: `directory` below `root`; `own`: the shard's own, from before."""

    root: Path
    directory: str
    own: bool

    def file(self, name: str) -> Path:
        """Return one of its files; UserError for a link that leaves `root`, but for one of the user's own run."""
        return below(self.root, f"{self.directory}/{name}", links=self.own)


def take(spec: ShardSpec, recorder: Recorder, out_dir: str | Path, runs: Sequence[str | Path]) -> list[str]:
    """Make parts of finished episodes found in the tables of `out_dir`, then below `runs`; return what to say of them.

    UserError for a table of `runs` that is damaged or contradicts itself; the shard's own is then run again.
    """
    wanted = {key.name for key in expected_episodes(spec.suite, spec.task_id, spec.init_states, spec.repeats)}
    there = {name for name, part in recorder.parts().items() if part.outcome != "error"}
    shard = f"results/rollouts/{file_name(spec.arm)}/task_{spec.task_id}"
    notes = []
    for place in [Place(Path(out_dir), ".", True), *(Place(Path(run), shard, False) for run in runs)]:
        if not place.file("episodes.parquet").is_file() or (not place.own and wanted <= there):
            continue
        with contextlib.suppress(UserError) if place.own else contextlib.nullcontext():
            about, own = schemas.read_metadata(place.file("episodes.parquet")), recorder.metadata
            if about.get(SPEC_DIGEST) != own[SPEC_DIGEST]:
                other = next(key for key in _DIGESTS if about.get(key, "") != own.get(key, ""))
                notes += [] if place.own else [f"nothing is taken from {place.root}: its {other} is another"]
                continue
            listed = _rows(place.file("episodes.parquet"), SCHEMAS["episodes"])
            if there.issuperset(EpisodeKey("", 0, row["init_state"], row["repeat"]).name for row in listed):
                continue
            records = _records(spec, place)
            names = [name for name in records if name not in there and (place.own or name in wanted)]
            source, pictures = provenance.sha256_file(place.file("episodes.parquet")), _Pictures(place, recorder)
            for key, record in (records[name] for name in names):
                taken = {source: [f"{key.task_id}/{key.init_state}/{key.repeat}"]}
                recorder.record(key, record, *pictures.of(key), metadata={**_about(about), TAKEN: json.dumps(taken)})
                there.add(key.name)
            notes += [f"{len(names)} episodes are taken from {place.root}"] if names else []
    return notes


def _records(spec: ShardSpec, place: Place) -> dict[str, tuple[EpisodeKey, EpisodeRecord]]:
    """Return the finished episodes of a shard's tables by name; UserError where a table is not what it has to be."""
    tables = {name: _rows(place.file(f"{name}.parquet"), schema) for name, schema in SCHEMAS.items()}
    own = {"arm": spec.arm, "policy": spec.policy, "suite": spec.suite, "task_id": spec.task_id, "seed": spec.seed}
    parts: dict[str, dict[tuple[int, int], list[dict[str, Any]]]] = {name: {} for name in SCHEMAS}
    for name, rows in tables.items():
        for row in rows:
            if odd := next((key for key, value in own.items() if row.get(key, value) != value), None):
                raise UserError(f"{place.file(name)}.parquet: a row's {odd} is {row[odd]!r}, not {own[odd]!r}")
            parts[name].setdefault((row["init_state"], row["repeat"]), []).append(row)
    records = {}
    for (init_state, repeat), (row, *more) in parts["episodes"].items():
        key = EpisodeKey(spec.suite, spec.task_id, init_state, repeat)
        rounds, steps = (parts[name].get((init_state, repeat), []) for name in ("rounds", "steps"))
        whole = [r["round"] for r in rounds] == [*range(row["rounds"])] and [s["step"] for s in steps] == [
            *range(row["steps"])
        ]
        if row["outcome"] == "error":
            continue
        if more or not whole or row["success"] != (row["outcome"] == "success") or min(init_state, repeat) < 0:
            raise UserError(f"{place.file('episodes.parquet')}: {key.name} contradicts its rounds or steps: remove it")
        bare = [[{k: v for k, v in r.items() if k not in EPISODE_KEY} for r in some] for some in (rounds, steps)]
        episode = {k: v for k, v in row.items() if k not in (*EPISODE_KEY, "run_id", "policy", "seed", "video")}
        records[key.name] = key, EpisodeRecord(episode, *bare)
    return records


def _rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """Return a table's rows; UserError for one that is larger than any shard's."""
    if not path.is_file():
        raise UserError(f"{path} is missing beside the other tables of its shard: remove them")
    if path.stat().st_size > MOST_BYTES or parquet.opened(path).metadata.num_rows > MOST_ROWS:
        raise UserError(f"{path} is larger than the table of a shard: remove it")
    return list(schemas.read_table(path, schema).to_pylist())


def _about(stored: Mapping[str, str]) -> dict[str, str]:
    """Return what a table says of where and how its episodes were run, as far as it is what it has to be."""
    about = {"device": " ".join(stored.get("device", "").split())[:200], FILMS: stored.get(FILMS, "none")}
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        about |= schemas.joined([{"machine": stored["machine"]}])
    return {key: value for key, value in about.items() if key in ("device", "machine", FILMS)}


class _Pictures:
    """Films and contact sheets of a shard, as files that a part may take over."""

    def __init__(self, place: Place, recorder: Recorder) -> None:
        self._place, self._to, self._sheets = place, recorder.films(), dict[tuple[int, int], bytes]()
        if (path := place.file("sheets.parquet")).is_file():
            rows = _rows(path, schemas.SHEETS)
            self._sheets = {(row["init_state"], row["repeat"]): row["jpeg"] for row in rows}

    def of(self, key: EpisodeKey) -> tuple[Path | None, Path | None]:
        """Return an episode's film and sheet, None where there is none."""
        film, sheet = self._to / f"{key.name}.mp4", self._to / f"{key.name}.jpg"
        source, jpeg = self._place.file(f"videos/{film.name}"), self._sheets.get((key.init_state, key.repeat))
        if source.is_file():
            shutil.copyfile(source, film)
            if (sent := self._place.file(f"videos/{key.name}{pictures.SENT}")).is_file():
                shutil.copyfile(sent, film.with_suffix(pictures.SENT))
        if jpeg is not None:
            sheet.write_bytes(jpeg)
        return film if source.is_file() else None, None if jpeg is None else sheet
