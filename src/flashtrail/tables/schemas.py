"""The tables of the project: their columns, and reading and writing them whole or not at all.

Parquet, zstd; each file carries a checksum and, in its metadata, the digests of config, artifact and code and the
device. Columns are named here only; every writer and reader uses these schemas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flashtrail.base import machine, parquet, provenance, stages
from flashtrail.base.errors import UserError

# An episode across tables; across arms an episode is paired by the same key without `arm`.
EPISODE_KEY = ("arm", "suite", "task_id", "init_state", "repeat")
PAIR_KEY = EPISODE_KEY[1:]
OUTCOMES = ("success", "horizon", "error")
ROUTES = ("full", "draft")
EXEC_STEPS = 12  # the longest accepted prefix where the tables do not say max_exec_steps: the official default
FALLBACK_CAUSES = ("zero_accept", "gripper", "first", "periodic", "forced")
METADATA_PREFIX = "flashtrail."
METADATA_KEYS = ("config_digest", "artifact_digest", "code_digest", "device")
# Of a shard: the digest under which its episodes are found again, what was filmed, and which of its episodes were taken
# from which file: {sha256 of its episodes.parquet: [TASK/INIT_STATE/REPEAT, ...]}.
SPEC_DIGEST, FILMS, TAKEN = "spec_digest", "films", "taken"

_STR, _BOOL, _I32, _I64 = pa.string(), pa.bool_(), pa.int32(), pa.int64()
_F32, _F64 = pa.float32(), pa.float64()


def _schema(*columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, str]) -> pa.Schema:
    """Return a schema; a column marked "null" may be empty, every other must not."""
    return pa.schema([pa.field(c[0], c[1], nullable=len(c) == 3) for c in columns])


_KEY = (("arm", _STR), ("suite", _STR), ("task_id", _I32), ("init_state", _I32), ("repeat", _I32))
_STAGES = tuple((column, _F64, "null") for column in stages.COLUMNS)

EPISODES = _schema(
    ("run_id", _STR),
    ("policy", _STR),
    ("arm", _STR),
    ("suite", _STR),
    ("task_id", _I32),
    ("task", _STR),
    ("init_state", _I32),
    ("repeat", _I32),
    ("seed", _I64),
    ("success", _BOOL),
    ("verified_success", _BOOL, "null"),  # null: not verified, as in the columns below
    ("verified_reason", _STR, "null"),  # which behaviour is missing; null where verified
    ("gripper_closures", _I32, "null"),
    ("grasps", _I32, "null"),  # both fingers on what the task is about, while commanded to close
    ("lifts", _I32, "null"),
    # What other criteria say (simulators/protocol.py, Metrics); no verdict uses them, null where the suite has none.
    ("naive_success", _BOOL, "null"),
    ("own_success", _BOOL, "null"),
    ("printed_success", _BOOL, "null"),
    # Of an arm with limits (rollouts/limits.py); null elsewhere, and where nothing measures it.
    ("limited_steps", _I32, "null"),  # steps in which a limit changed the action
    ("stops", _I32, "null"),  # times at which the force took over
    ("worst_excursion_mm", _F64, "null"),  # of a gripper's corner out of the box; below 0: all stayed inside by so much
    ("peak_force_n", _F64, "null"),  # at the wrist, at the ends of control steps
    # Of an arm with hand-overs (rollouts/handoff.py); null elsewhere.
    ("interventions", _I32, "null"),  # times at which another took over, the policy became careful or was stopped
    ("expert_steps", _I32, "null"),  # control steps of the suite's expert
    ("first_close_step", _I32, "null"),  # null: never, or not verified (then gripper_closures is null, too)
    ("outcome", _STR),  # success | horizon | error
    ("error", _STR, "null"),
    ("steps", _I32),
    ("rounds", _I32),
    ("full_rounds", _I32),
    ("draft_rounds", _I32),
    ("executed_actions", _I32),
    ("accepted_prefix_mean", _F64, "null"),  # draft rounds only
    ("wall_s", _F64),
    ("video", _STR, "null"),
    ("started_at", _STR),  # ISO 8601, UTC
)

ROUNDS = _schema(
    *_KEY,
    ("round", _I32),
    ("env_step", _I32),
    ("route", _STR),  # full | draft
    ("accepted_prefix", _I32),
    ("executed", _I32),
    ("radius", _F64, "null"),
    ("fallback_cause", _STR, "null"),  # zero_accept | gripper | first | periodic | forced
    *_STAGES,
    ("policy_ms", _F64, "null"),  # null: the server does not say (an official one says no `synchronized`)
    ("serve_ms", _F64, "null"),
    ("roundtrip_ms", _F64),
    ("synchronized", _BOOL, "null"),
    ("batch_size", _I32, "null"),  # rounds that shared the pass whose times these are
    ("steps_used", _I32, "null"),  # of a core that stops when it is calm, over its layers; null: it takes no steps
    # Doubt (experiment/doubt.py); null where the policy says nothing of it.
    ("overlap", _F64, "null"),  # RMS of this chunk minus the one before, where both speak of a step; null: none
    ("sample_spread", _F64, "null"),  # of the actions under further noises
    ("head_spread", _F64, "null"),  # of the answers of several heads
    ("novelty", _F64, "null"),  # distance of the observation from the training data
    ("condition_applied", _BOOL),
    ("health_std", _F64, "null"),  # of the wrist image, 0-255
    ("health_range", _F64, "null"),
    ("healthy", _BOOL, "null"),
    ("cache_hit", _BOOL, "null"),
    ("cache_age", _I32, "null"),  # queries
    ("replaced", _BOOL, "null"),
    ("masked", _BOOL, "null"),  # the wrist view was declared missing
    ("noise_seed", _STR),
    # Of a running clock; null where the simulator waited.
    ("latency_ms", _F64, "null"),  # what the round lasted by the clock
    ("waited_steps", _I32, "null"),  # control steps that passed meanwhile
    ("stale_dropped", _I32, "null"),  # actions of its prefix whose moment passed meanwhile
)

STEPS = _schema(
    *_KEY,
    ("step", _I32),
    ("action", pa.list_(_F32, 7)),  # as the policy (or who acted in its place) sent it
    # What limits made of it, seven numbers; null, as the next two, where there are none (Parquet has no null of 7).
    ("executed", pa.list_(_F32), "null"),
    ("limited", _STR, "null"),  # the limits that changed it: `step box`; empty: none did
    ("force_n", _F32, "null"),  # at the wrist, after the step
    ("reward", _F32),
    ("done", _BOOL),
    ("gripper_closed", _BOOL),
    ("eef_pos", pa.list_(_F32, 3)),  # metres
    ("img_mean", _F32, "null"),  # of the agent view at a query, undamaged
    ("img_mean_sent", _F32, "null"),  # of the same view as sent to the policy
    ("round", _I32),  # whose chunk the action is from; of a step that held, the round under way
    ("offset_in_chunk", _I32, "null"),  # null: no action of a chunk; the robot held, or another acted
    ("stale", _BOOL, "null"),  # a newer round was under way; null where the simulator waited
    ("who", _STR, "null"),  # policy | careful | hold | retry | expert (rollouts/handoff.py); null without hand-overs
)

# What an episode looked like to the policy: a contact sheet of its film (rollouts/film.py).
SHEETS = _schema(*_KEY, ("outcome", _STR), ("jpeg", pa.binary()))

PROFILE = _schema(
    ("policy", _STR),
    ("route", _STR),
    ("sample", _I32),
    *_STAGES,
    ("policy_ms", _F64),
    ("roundtrip_ms", _F64, "null"),  # at the client; null: timed without one
    ("synchronized", _BOOL),
    ("warmup", _BOOL),
    ("prompt", _STR),
    ("device", _STR),
)

# A network's passes at one size, one for the peak and one for the time (benchmark/scaling.py).
SCALING = _schema(
    ("model", _STR),
    ("mode", _STR),  # forward | training
    ("pixels", _I32),
    ("frames", _I32),
    ("tokens", _I32),
    ("repeat", _I32),  # the warm-up is left out
    ("peak_bytes", _I64),  # beyond what was held before the pass
    ("seconds", _F64),
)

# A look at a comparison: when its verdict was computed, on what, for whom (claims/looks.py).
LOOKS = _schema(
    ("claim", _STR),
    ("digest", _STR),  # of test, arms and what their episodes depend on
    ("at", _STR),  # ISO 8601, UTC
    ("asked", _STR),  # report | settle
    ("test", _STR),
    ("arm", _STR),
    ("control", _STR, "null"),
    ("n_planned", _I32, "null"),  # episodes (pairs) that the config asked for; null: not known
    ("n", _I32),
    ("k_arm", _I32),
    ("k_control", _I32, "null"),
    ("wins", _I32, "null"),  # of pairs: success only in the arm, only in the control
    ("losses", _I32, "null"),
    ("rows", _STR),  # digest of the episodes' keys and outcomes
    ("e", _F64),
    ("p", _F64, "null"),  # of the fixed-n test
    ("rests_on", _STR),  # fixed-n | anytime
    ("verdict", _STR),
)

METRICS = ("naive_success", "own_success", "printed_success")
LIMITED = ("limited_steps", "stops", "worst_excursion_mm", "peak_force_n")  # of an episode
LIMITED_STEP = ("executed", "limited", "force_n")
HANDED = ("interventions", "expert_steps")  # of an episode
DOUBT = ("overlap", "sample_spread", "head_spread", "novelty")  # of a round
_LATER = frozenset(
    (*METRICS, "steps_used", *DOUBT, *LIMITED, *LIMITED_STEP, *HANDED, "who")
)  # tables of earlier versions lack them: read as empty

# Of an episode that was not verified, such as an imported or a simulated one.
UNVERIFIED: dict[str, Any] = dict.fromkeys(
    (
        *("verified_success", "verified_reason", "gripper_closures", "grasps", "lifts", "first_close_step"),
        *(*METRICS, *LIMITED, *HANDED),
    )
)

SCHEMAS = {"episodes": EPISODES, "rounds": ROUNDS, "steps": STEPS}

# What another client's record may not say: empty in imported tables (metadata `imported`), never in our own.
UNKNOWN_IF_IMPORTED = frozenset(
    (
        *("wall_s", "started_at", "env_step", "synchronized", "condition_applied", "noise_seed", "steps"),
        *("rounds", "full_rounds", "draft_rounds", "executed_actions"),  # of an episode whose rounds are not on record
    )
)


def to_table(rows: Sequence[Mapping[str, Any]] | pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows as a table of exactly this schema.

    NaN becomes null where a column may be empty. Raises ValueError (a bug in the caller) for a missing or unknown
    column, a wrong type, or an empty value where there must be one.
    """
    for names in [rows.column_names] if isinstance(rows, pa.Table) else rows:
        if problem := _names_differ(names, schema):
            raise ValueError(problem)
    if isinstance(rows, pa.Table):
        columns = [rows[f.name].cast(f.type) for f in schema]
    else:
        columns = [pa.array([_plain(row[f.name]) for row in rows], f.type) for f in schema]
    table = pa.table(columns, schema=schema)
    if problem := _empty_cells(table, schema):
        raise ValueError(problem)
    return table


def imported(schema: pa.Schema) -> pa.Schema:
    """Return the schema as imported tables have it: the columns of UNKNOWN_IF_IMPORTED may be empty."""
    return pa.schema([f.with_nullable(f.nullable or f.name in UNKNOWN_IF_IMPORTED) for f in schema])


def write_table(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    schema: pa.Schema,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write one table, zstd-compressed and sealed with a checksum, aside and then renamed.

    `metadata` keys get the prefix ``flashtrail.`` unless they have it; the four of METADATA_KEYS are always
    there, empty when not given.
    """
    table = to_table(rows, imported(schema) if (metadata or {}).get("imported") else schema)
    entries = {**dict.fromkeys(METADATA_KEYS, ""), **{_bare(k): v for k, v in (metadata or {}).items()}}
    table = table.replace_schema_metadata(
        {f"{METADATA_PREFIX}{k}".encode(): str("" if v is None else v).encode() for k, v in sorted(entries.items())}
    )
    with provenance.write_atomic(path) as temporary:
        parquet.write(table, temporary)


def read_table(path: str | Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table and hold it to its schema; `columns` reads only these.

    A column that an earlier version did not write is empty. Raises UserError naming the file where its bytes are not
    those of its checksum (`parquet`), and the first column that is missing, unknown, of another type or empty.
    """
    stored = parquet.opened(path).schema_arrow
    lacking = _LATER.intersection(schema.names).difference(stored.names)
    if problem := _names_differ([*stored.names, *lacking], schema):
        raise UserError(f"{path}: {problem}")
    if (stored.metadata or {}).get(f"{METADATA_PREFIX}imported".encode()):
        schema = imported(schema)
    for field in schema:
        if field.name in lacking:
            continue
        if (found := stored.field(field.name).type) != field.type:
            raise UserError(f"{path}: column {field.name!r} is {found}, expected {field.type}")
    chosen = schema if columns is None else pa.schema([schema.field(c) for c in columns])
    table = parquet.read(path, [name for name in chosen.names if name not in lacking])
    for index, field in enumerate(chosen):
        if field.name in lacking:
            table = table.add_column(index, field, pa.nulls(len(table), field.type))
    if problem := _empty_cells(table, chosen):
        raise UserError(f"{path}: {problem}")
    return table


def read_tables(
    paths: str | Path | Iterable[str | Path], schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read one file or several and put their rows one after another; no file gives an empty table."""
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    parts = [read_table(path, schema, columns).replace_schema_metadata(None) for path in files]
    return pa.concat_tables(parts, promote_options="default") if parts else schema.empty_table()


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the file's own entries (config_digest, artifact_digest, code_digest, device, ...) without prefix."""
    stored = parquet.opened(path).schema_arrow.metadata or {}
    prefix = METADATA_PREFIX.encode()
    return {_bare(k.decode()): v.decode() for k, v in stored.items() if k.startswith(prefix)}


def longest_prefix(metadata: Mapping[str, str]) -> int:
    """Return the most actions of a round that a policy accepted in these tables could have: its max_exec_steps."""
    return int(metadata.get("max_exec_steps") or EXEC_STEPS)


def joined(stored: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the entries of a table made of tables with these: a digest of digests where those differ."""
    made: dict[str, str] = {}
    for key in sorted({key for entry in stored for key in entry} | set(METADATA_KEYS)):
        values = sorted({entry.get(key, "") for entry in stored})
        if key == "machine":
            records = [json.loads(entry["machine"]) for entry in stored if entry.get("machine")]
            made |= {"machine": json.dumps(machine.together(records))} if records else {}
        elif key == TAKEN:
            taken: dict[str, list[str]] = {}
            for entry in stored:
                for source, episodes in json.loads(entry.get(TAKEN, "{}")).items():
                    taken.setdefault(source, []).extend(episodes)
            made[TAKEN] = json.dumps({source: sorted(episodes) for source, episodes in sorted(taken.items())})
        elif len(values) == 1:
            made[key] = values[0]
        elif key.endswith("_digest"):
            made[key] = provenance.digest_json(values)
        else:
            made[key] = ", ".join(v for v in values if v)
    return made


def artifact_digest(handles: Mapping[str, Any]) -> str:
    """Return an artifact's digest as tables carry it, base's and draft's joined, from the manifests among `handles`."""
    manifests = [handles[kind] for kind in ("base", "draft") if handles.get(kind)]
    return "+".join(str(provenance.json_load(manifest)["digest"]) for manifest in manifests)


def episode_id(row: Mapping[str, Any]) -> str:
    """Return the name of an episode as reports and errors print it: arm/suite/task/init state/repeat."""
    return f"{row['arm']}/{row['suite']}/task {row['task_id']}/init {row['init_state']}/repeat {row['repeat']}"


def _bare(key: str) -> str:
    return key.removeprefix(METADATA_PREFIX)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalar or array
        value = value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value


def _names_differ(names: Iterable[str], schema: pa.Schema) -> str | None:
    have, want = set(names), set(schema.names)
    if want - have:
        return f"column {sorted(want - have)[0]!r} is missing"
    if have - want:
        return f"unknown column {sorted(have - want)[0]!r}"
    return None


def _empty_cells(table: pa.Table, schema: pa.Schema) -> str | None:
    for field in schema:
        column = table[field.name]
        if column.null_count and not field.nullable:
            row = pc.index(pc.is_null(column), True).as_py()
            return f"column {field.name!r} is empty in row {row}"
    return None
