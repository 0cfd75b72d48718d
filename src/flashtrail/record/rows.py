"""Rows as text: the form in which two tables are compared and a single row is given a digest.

A row's text is its CSV line, numbers in their shortest exact form, list columns spread out, pictures as their digest.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.base.names import below
from flashtrail.tables.schemas import EPISODE_KEY, METADATA_PREFIX

DIGESTS = "record/row-digests.parquet"
_CHARS = 16
_COUNTERS = ("round", "step", "sample")
_SCHEMA = pa.schema([("file", pa.string()), ("row", pa.int64()), ("name", pa.string()), ("digest", pa.string())])


def flat(table: pa.Table) -> pa.Table:
    """Return the table with list columns as one column an element (those of any length as text) and binary ones as the
    SHA-256 of each value.
    """
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            for i in range(column.type.list_size):
                columns[f"{name}[{i}]"] = pc.list_element(column, i)
        elif pa.types.is_list(column.type):  # of any length, or null
            columns[name] = pc.binary_join(pc.cast(column, pa.list_(pa.string())), " ")
        elif pa.types.is_binary(column.type):
            columns[name] = pa.array([hashlib.sha256(v).hexdigest() for v in column.to_pylist()], pa.string())
        else:
            columns[name] = column
    return pa.table(columns)


def lines(table: pa.Table) -> list[bytes]:
    """Return one line of text for each row."""
    # Line breaks within a text would split a row; JSON-like escapes keep rows and lines one to one.
    spread = flat(table)
    for i, field in enumerate(spread.schema):
        if pa.types.is_string(field.type):
            escaped = pc.replace_substring(pc.replace_substring(spread[i], "\\", "\\\\"), "\n", "\\n")
            spread = spread.set_column(i, field.name, pc.replace_substring(escaped, "\r", "\\r"))
    buffer = io.BytesIO()
    csv.write_csv(spread, buffer, csv.WriteOptions(include_header=False))
    return buffer.getvalue().splitlines()


def name_of(table: pa.Table, row: int) -> str:
    """Return how a row is called in a message: its episode and, where it has one, its round or step."""
    return _names(table.slice(row, 1), row)[0]


def _names(table: pa.Table, first: int = 0) -> list[str]:
    """Return what `name_of` says of each row; `first`: the number of the table's first row in its file."""
    present = [n for n in (*EPISODE_KEY, "policy", "route", "prompt", *_COUNTERS) if n in table.column_names]
    return [_name(values, row) for row, values in enumerate(table.select(present).to_pylist(), first)]


def _name(values: Mapping[str, object], row: int) -> str:
    if all(key in values for key in EPISODE_KEY):
        parts = ["/".join(str(values[key]) for key in EPISODE_KEY)]
    else:
        parts = [str(values[key]) for key in ("policy", "route", "prompt") if key in values] or [f"row {row}"]
    # A step also has the column `round`: its own number says which step it is.
    counter = "step" if "step" in values else next((c for c in _COUNTERS if c in values), None)
    return " ".join([*parts, *([f"{counter} {values[counter]}"] if counter else [])])


def differences(ours: pa.Table, theirs: pa.Table) -> list[str]:
    """Return the first three differing rows of two tables of one schema, in order: name, column and both values."""
    differing = []
    mine, other = lines(ours), lines(theirs)
    if len(mine) != len(other):
        differing.append(f"{len(mine)} rows against {len(other)}")
    for row, (a, b) in enumerate(zip(mine, other, strict=False)):
        if a != b:
            differing.append(f"{name_of(ours, row)}: {', '.join(_columns(ours, theirs, row))}")
        if len(differing) == 3:
            break
    return differing


def _columns(ours: pa.Table, theirs: pa.Table, row: int) -> list[str]:
    a, b = (flat(t.slice(row, 1)).to_pylist()[0] for t in (ours, theirs))
    return [f"{name} {short(a[name])} against {short(b[name])}" for name in a if a[name] != b[name]]


def short(value: object) -> str:
    """Return a value as a message prints it."""
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def read(path: Path) -> pa.Table:
    """Read a Parquet file as it is; UserError where it is not one."""
    try:
        return pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is not a readable Parquet file ({error})") from None


# --- a digest for each row, so that a changed one can be named where there is nothing else to compare it with ---


def digest_table(root: Path, files: Iterable[str]) -> pa.Table:
    """Return file, row, name and digest of every row of these Parquet files, and of each file's metadata (row -1)."""
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    for file in files:
        table = read(root / file)
        digests = [_digest(_own_metadata(table)), *map(_digest, lines(table))]
        columns["file"] += [file] * len(digests)
        columns["row"] += range(-1, len(digests) - 1)
        columns["name"] += ["metadata", *_names(table)]
        columns["digest"] += digests
    return pa.table(columns, schema=_SCHEMA)


def write_digests(root: Path, files: Iterable[str]) -> None:
    """Write the digests of these files' rows to DIGESTS."""
    table = digest_table(root, sorted(files))
    with provenance.write_atomic(root / DIGESTS) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def changed_rows(root: Path) -> list[str]:
    """Return the rows whose digest is not the recorded one, by file and name; tables without a record too."""
    recorded: dict[str, list[dict[str, object]]] = {}
    for entry in read(root / DIGESTS).to_pylist():
        recorded.setdefault(str(entry["file"]), []).append(entry)
    changed = []
    for file, entries in recorded.items():
        if not below(root, file).is_file():
            changed.append(f"{file} is missing")
            continue
        now = digest_table(root, [file]).to_pylist()
        if len(now) != len(entries):
            changed.append(f"{file}: {len(now) - 1} rows, {len(entries) - 1} recorded")
        for a, b in zip(entries, now, strict=False):
            if a["digest"] != b["digest"]:
                changed.append(f"{file}: {a['name']}")
    return changed


def _own_metadata(table: pa.Table) -> bytes:
    stored = table.schema.metadata or {}
    own = {k: v for k, v in stored.items() if k.startswith(METADATA_PREFIX.encode())}
    return b"\n".join(k + b"=" + v for k, v in sorted(own.items()))


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:_CHARS]
