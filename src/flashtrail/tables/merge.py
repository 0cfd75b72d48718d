"""Shards put together into one set of tables per arm, without missing, duplicate or failed episodes.

What an arm must have comes from the experiment, never from the rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flashtrail.base.errors import UserError
from flashtrail.tables import keys, schemas
from flashtrail.tables.keys import Packing
from flashtrail.tables.schemas import SCHEMAS

_NAMED = 5  # episodes that an error names before it only counts
_COUNTER = {"rounds": "round", "steps": "step"}


class Merged(NamedTuple):
    """An arm's tables, sorted by episode, and the metadata that goes into their files."""

    episodes: pa.Table
    rounds: pa.Table
    steps: pa.Table
    metadata: dict[str, str]


def with_artifact(spec: Mapping[str, Any], handles: Mapping[str, Any]) -> dict[str, Any]:
    """Return an arm's spec whose plan names the artifact too, from its manifests among `handles`."""
    return {**spec, "planned": {**spec["planned"], "artifact_digest": schemas.artifact_digest(handles)}}


def merge_shards(shard_dirs: Iterable[str | Path], spec: Mapping[str, Any]) -> Merged:
    """Read the shards of one arm and return its tables.

    `spec` names the episodes that the arm must have: arm, suite, tasks, init_states and repeats; and what the shards
    are compared with: policy, seed and `planned` (metadata keys and their planned digests). Raises UserError, one line
    that names the first few episodes and their number, for: an episode that is missing, duplicate, not part of the
    experiment or ended by infrastructure; a duplicate round or step, or one that belongs to no episode; rounds that do
    not add up to the episode's own count; another policy or seed; shards that ran on different artifacts; a shard whose
    config, artifact or code is not the planned one.
    """
    arm, repeats = spec["arm"], int(spec.get("repeats", 1))
    wanted = keys.product(arm, spec["suite"], spec["tasks"], spec["init_states"], repeats)
    directories = [Path(d) for d in shard_dirs]
    _check_plan(arm, directories, spec.get("planned", {}))
    read = {
        name: schemas.read_tables([d / f"{name}.parquet" for d in directories], schema)
        for name, schema in SCHEMAS.items()
    }
    metadata = _common_metadata(arm, directories)
    packing = Packing(wanted, *read.values())
    codes = {name: packing.codes(table) for name, table in read.items()}
    _check_episodes(arm, read["episodes"], codes["episodes"], packing.codes(wanted), packing)
    _check_values(arm, read["episodes"], {key: spec[key] for key in ("policy", "seed") if key in spec})
    order = {"episodes": codes["episodes"]}
    order |= {name: _check_part(arm, name, read, codes, packing) for name in _COUNTER}
    merged = {name: _sorted(read.pop(name), order[name]) for name in SCHEMAS}
    return Merged(merged["episodes"], merged["rounds"], merged["steps"], metadata)


def write_merged(merged: Merged, directory: str | Path) -> None:
    """Write an arm's three tables into a directory."""
    for name, schema in SCHEMAS.items():
        schemas.write_table(Path(directory) / f"{name}.parquet", getattr(merged, name), schema, merged.metadata)


def _check_plan(arm: str, directories: Sequence[Path], planned: Mapping[str, str]) -> None:
    """Refuse a shard if any of its tables belongs to another plan."""
    for directory in directories if planned else []:
        for name in SCHEMAS:
            stored = schemas.read_metadata(directory / f"{name}.parquet")
            for key, digest in planned.items():
                if (found := stored.get(key, "")) != digest:
                    told = f"{key} {found or 'not recorded'}, planned {digest or 'none'}"
                    what = f"{directory}/{name}.parquet is of another plan ({told})"
                    raise UserError(f"{arm}: {what}; remove that directory and run again")


def _check_episodes(arm: str, episodes: pa.Table, codes: NDArray[Any], wanted: NDArray[Any], packing: Packing) -> None:
    missing = wanted[~np.isin(wanted, codes)]
    if len(missing):
        found = _some(missing, packing, "missing")
        raise UserError(f"{arm}: {found} of {len(wanted)}; run the workflow again to fill them")
    distinct, counts = np.unique(codes, return_counts=True)
    twice = distinct[counts > 1]
    if len(twice):
        found = _some(twice, packing, "duplicated")
        raise UserError(f"{arm}: {found}; remove that shard's directory and run again")
    strange = np.setdiff1d(distinct, wanted)
    if len(strange):
        raise UserError(
            f"{arm}: {_some(strange, packing, 'not part of the experiment')}; remove that shard's directory"
        )
    failed = np.flatnonzero(pc.equal(episodes["outcome"], "error").to_numpy())
    if len(failed):
        first = failed[np.argmin(codes[failed])]
        found = _some(np.sort(codes[failed]), packing, "ended by infrastructure, not by the policy")
        raise UserError(f"{arm}: {found} ({episodes['error'][first].as_py()}); fix the cause and run again")
    won = pc.equal(episodes["outcome"], "success").to_numpy()
    odd = np.sort(codes[won != episodes["success"].to_numpy()])
    if len(odd):
        raise UserError(f"{arm}: {_some(odd, packing, 'inconsistent (success and outcome disagree)')}")


def _check_values(arm: str, episodes: pa.Table, wanted: Mapping[str, Any]) -> None:
    for column, value in wanted.items():
        others = sorted(set(pc.unique(episodes[column]).to_pylist()) - {value})
        if others:
            raise UserError(f"{arm}: episodes of {column} {others[0]!r} among those of {value!r}; remove that shard")


def _check_part(
    arm: str, name: str, read: Mapping[str, pa.Table], codes: Mapping[str, NDArray[Any]], packing: Packing
) -> NDArray[Any]:
    """Hold rounds or steps to their episodes; return the number by which each row sorts: episode, then counter."""
    episodes, rows = codes["episodes"], codes[name]
    place = keys.positions(episodes, rows)
    orphans = np.unique(rows[place < 0])
    if len(orphans):
        found = _some(orphans, packing, f"in {name} but not in episodes")
        raise UserError(f"{arm}: {found}; remove that shard's directory")
    counter = read[name][_COUNTER[name]].to_numpy().astype(np.int64)
    # Episodes in their own order, so that the sum below sorts by episode and then by counter.
    rank = np.empty(len(episodes), np.int64)
    rank[np.argsort(episodes, kind="stable")] = np.arange(len(episodes))
    low, high = (int(counter.min()), int(counter.max())) if len(counter) else (0, 0)
    order: NDArray[Any] = rank[place] * (high - low + 1) + (counter - low)
    ordered = np.sort(order)
    twice = ordered[1:][np.diff(ordered) == 0]
    if len(twice):
        owners = np.unique(np.sort(episodes)[twice // (high - low + 1)])
        raise UserError(
            f"{arm}: {_some(owners, packing, f'with a duplicate {_COUNTER[name]}')}; remove that shard's directory"
        )
    if name == "rounds":
        short = episodes[np.bincount(place, minlength=len(episodes)) != read["episodes"]["rounds"].to_numpy()]
        if len(short):
            found = _some(np.sort(short), packing, "without all their rounds")
            raise UserError(f"{arm}: {found}; remove that shard's directory")
    return order


def _common_metadata(arm: str, directories: Sequence[Path]) -> dict[str, str]:
    """Join the shards' metadata; one artifact only, a digest of digests where shards rightly differ (config)."""
    stored = [schemas.read_metadata(d / "episodes.parquet") for d in directories]
    artifacts = sorted({entry.get("artifact_digest", "") for entry in stored})
    if len(artifacts) > 1:
        raise UserError(
            f"{arm}: shards ran on {len(artifacts)} different artifacts ({', '.join(artifacts)}); run again"
        )
    return schemas.joined(stored)


def _sorted(table: pa.Table, order: NDArray[Any]) -> pa.Table:
    """Return the rows in the order of their numbers; rows that have it already are not touched."""
    if np.all(order[1:] >= order[:-1]):
        return table
    return table.combine_chunks().take(pa.array(np.argsort(order, kind="stable")))


def _some(codes: NDArray[Any], packing: Packing, what: str) -> str:
    named = ", ".join(str(key) for key in packing.keys(codes[:_NAMED])) + (", ..." if len(codes) > _NAMED else "")
    plural = "episode is" if len(codes) == 1 else "episodes are"
    if what.startswith(("with", "in ")):
        plural = plural.split()[0]
    return f"{len(codes)} {plural} {what}: {named}"
