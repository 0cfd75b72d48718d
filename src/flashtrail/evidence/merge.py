"""Shards put together into one set of tables per arm, with no hole, no double and no failed infrastructure.

What an arm must have comes from the experiment, never from the rows themselves. Knows the tables and the key of an
episode; knows no simulator and no way to mend a shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from flashtrail import provenance
from flashtrail.errors import UserError
from flashtrail.evidence import tables
from flashtrail.evidence.tables import EPISODE_KEY, METADATA_KEYS, SCHEMAS

_NAMED = 5  # episodes that an error names before it only counts
_ORDER = {"episodes": (), "rounds": ("round",), "steps": ("step",)}


class Key(NamedTuple):
    """One episode of one arm: the columns of EPISODE_KEY."""

    arm: str
    suite: str
    task_id: int
    init_state: int
    repeat: int

    def __str__(self) -> str:
        return f"task {self.task_id} init {self.init_state} repeat {self.repeat}"


class Merged(NamedTuple):
    """An arm's tables, sorted by episode, and the metadata that goes into their files."""

    episodes: pa.Table
    rounds: pa.Table
    steps: pa.Table
    metadata: dict[str, str]


def expected_episodes(spec: Mapping[str, Any]) -> list[Key]:
    """Return the episodes that an arm must have.

    `spec` has arm, suite, tasks, init_states and repeats (also policy and seed, which the merge compares).
    """
    return [
        Key(spec["arm"], spec["suite"], int(task), int(init_state), repeat)
        for task in spec["tasks"]
        for init_state in spec["init_states"]
        for repeat in range(int(spec.get("repeats", 1)))
    ]


def merge_shards(shard_dirs: Iterable[str | Path], expected: Mapping[str, Any] | Iterable[Sequence[Any]]) -> Merged:
    """Read the shards of one arm and return its tables.

    `expected` is the arm's spec (see `expected_episodes`) or the keys themselves. Raises UserError, one line that
    names the first few episodes and says how many, for: an episode that is missing, there twice, not asked for or
    ended by infrastructure; a round or step that is there twice or belongs to no episode; rounds that do not add
    up to the episode's own count; another policy or seed; shards that ran on different artifacts.
    """
    spec = expected if isinstance(expected, Mapping) else {}
    keys = expected_episodes(spec) if spec else [Key(*key) for key in expected]  # type: ignore[misc]
    arm = keys[0].arm if keys else "arm"
    directories = [Path(d) for d in shard_dirs]
    read = {
        name: tables.read_tables([d / f"{name}.parquet" for d in directories], schema)
        for name, schema in SCHEMAS.items()
    }
    metadata = _common_metadata(arm, directories)
    _check_episodes(arm, read["episodes"], keys)
    _check_values(arm, read["episodes"], {key: spec[key] for key in ("policy", "seed") if key in spec})
    _check_parts(arm, read)
    merged = {name: _sorted(read[name], _ORDER[name]) for name in SCHEMAS}
    return Merged(merged["episodes"], merged["rounds"], merged["steps"], metadata)


def write_merged(merged: Merged, directory: str | Path) -> None:
    """Write an arm's three tables into a directory."""
    for name, schema in SCHEMAS.items():
        tables.write_table(Path(directory) / f"{name}.parquet", getattr(merged, name), schema, merged.metadata)


def _keys(table: pa.Table) -> list[Key]:
    return [Key(*values) for values in zip(*(table[c].to_pylist() for c in EPISODE_KEY), strict=True)]


def _check_episodes(arm: str, episodes: pa.Table, expected: Sequence[Key]) -> None:
    counts = Counter(_keys(episodes))
    missing = [key for key in expected if key not in counts]
    if missing:
        raise UserError(f"{arm}: {_some(missing, 'missing')} of {len(expected)}; run the workflow again to fill them")
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{arm}: {_some(twice, 'there more than once')}; remove that shard's directory and run again")
    strange = sorted(set(counts) - set(expected))
    if strange:
        raise UserError(f"{arm}: {_some(strange, 'not part of the experiment')}; remove that shard's directory")
    outcomes = dict(zip(_keys(episodes), episodes["outcome"].to_pylist(), strict=True))
    failed = [key for key in expected if outcomes[key] == "error"]
    if failed:
        reasons = dict(zip(_keys(episodes), episodes["error"].to_pylist(), strict=True))
        raise UserError(
            f"{arm}: {_some(failed, 'ended by infrastructure, not by the policy')} ({reasons[failed[0]]}); "
            "mend the cause and run again"
        )
    success = dict(zip(_keys(episodes), episodes["success"].to_pylist(), strict=True))
    odd = [key for key in expected if success[key] != (outcomes[key] == "success")]
    if odd:
        raise UserError(f"{arm}: {_some(odd, 'at odds with itself (success against outcome)')}")


def _check_values(arm: str, episodes: pa.Table, wanted: Mapping[str, Any]) -> None:
    for column, value in wanted.items():
        others = sorted(set(episodes[column].to_pylist()) - {value})
        if others:
            raise UserError(f"{arm}: episodes of {column} {others[0]!r} among those of {value!r}; remove that shard")


def _check_parts(arm: str, read: Mapping[str, pa.Table]) -> None:
    """Hold rounds and steps to their episodes."""
    episodes = read["episodes"]
    known = dict(zip(_keys(episodes), episodes["rounds"].to_pylist(), strict=True))
    for name, counter in (("rounds", "round"), ("steps", "step")):
        table = read[name]
        keys = _keys(table)
        orphans = sorted(set(keys) - set(known))
        if orphans:
            raise UserError(f"{arm}: {_some(orphans, f'in {name} but not in episodes')}; remove that shard's directory")
        rows = Counter(zip(keys, table[counter].to_pylist(), strict=True))
        twice = sorted({key for (key, _), count in rows.items() if count > 1})
        if twice:
            raise UserError(f"{arm}: {_some(twice, f'with a {counter} twice')}; remove that shard's directory")
    found = Counter(_keys(read["rounds"]))
    short = [key for key, count in known.items() if found[key] != count]
    if short:
        raise UserError(f"{arm}: {_some(short, 'without all their rounds')}; remove that shard's directory")


def _common_metadata(arm: str, directories: Sequence[Path]) -> dict[str, str]:
    """Join the shards' metadata; one artifact only, a digest of digests where shards rightly differ (config)."""
    stored = [tables.read_metadata(d / "episodes.parquet") for d in directories]
    joined: dict[str, str] = {}
    for key in sorted({key for entry in stored for key in entry} | set(METADATA_KEYS)):
        values = sorted({entry.get(key, "") for entry in stored})
        if len(values) == 1:
            joined[key] = values[0]
        elif key == "artifact_digest":
            raise UserError(f"{arm}: shards ran on {len(values)} different artifacts ({', '.join(values)}); run again")
        elif key.endswith("_digest"):
            joined[key] = provenance.digest_json(values)
        else:
            joined[key] = ", ".join(v for v in values if v)
    return joined


def _sorted(table: pa.Table, more: Sequence[str]) -> pa.Table:
    return table.sort_by([(column, "ascending") for column in (*EPISODE_KEY, *more)])


def _some(keys: Sequence[Key], what: str) -> str:
    named = ", ".join(str(key) for key in keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
    plural = "episode is" if len(keys) == 1 else "episodes are"
    if what.startswith(("with", "in ")):
        plural = plural.split()[0]
    return f"{len(keys)} {plural} {what}: {named}"
