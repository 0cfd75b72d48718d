"""Parquet files that carry a SHA-256 of themselves: a flipped byte anywhere in one is an error, never another number.

Parquet's own page checksums leave headers, statistics and the footer out: a flip there can move values or change the
origin in silence. So the digest of the whole file, with its own 64 digits blanked, stands in the footer's metadata. A
file without one (written by an earlier version or another program) is read as it is, unverified.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flashtrail.base.errors import UserError

KEY = b"flashtrail-sha256"
_BLANK = b"0" * 64
_VALUE = b"\x18\x40"  # Thrift's compact protocol: a string field follows, 64 bytes long
_TAIL = 1 << 20  # the footer's metadata stand at the end of the file
_BLOCK = 1 << 20


def write(table: pa.Table, path: str | Path) -> None:
    """Write a table with its schema's metadata to one file, zstd-compressed, sealed with its digest."""
    metadata = {**(table.schema.metadata or {}), KEY: _BLANK}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
    offset = _digest_offset(Path(path))
    assert offset is not None, "the footer that was just written holds the key"
    with Path(path).open("r+b") as stream:
        stream.seek(offset)
        stream.write(_digest(Path(path), offset))


def read(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a file, or some of its columns, after its digest was checked; errors as of `opened`.

    One file is read as one file: directory names such as arm=... are never taken for columns.
    """
    file = opened(path)
    try:
        table = file.read(columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run again") from None
    own = {key: value for key, value in (table.schema.metadata or {}).items() if key != KEY}
    return table.replace_schema_metadata(own)  # the digest is the file's, not the table's


def opened(path: str | Path) -> pq.ParquetFile:
    """Return a file whose digest was checked; UserError where it is missing, no Parquet file or not as written."""
    try:
        offset = _digest_offset(Path(path))
        if offset is not None and _digest(Path(path), offset) != _stored(Path(path), offset):
            raise UserError(f"{path} is damaged (its bytes are not those of its checksum); remove it and run again")
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({error}); remove it and run again") from None


def _stored(path: Path, offset: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(len(_BLANK))


def _digest_offset(path: Path) -> int | None:
    """Return where the digest's digits begin, None where there is no digest."""
    with path.open("rb") as stream:
        start = max(0, stream.seek(0, 2) - _TAIL)
        stream.seek(start)
        tail = stream.read()
    found = tail.rfind(KEY)
    if found < 0:
        return None
    if not tail.startswith(_VALUE, found + len(KEY)):
        raise UserError(f"{path} is damaged (the entry of its checksum); remove it and run again")
    return start + found + len(KEY) + len(_VALUE)


def _digest(path: Path, offset: int) -> bytes:
    """Return the hex digest of a file, the 64 bytes at `offset` blanked."""
    digest, at = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK if at >= offset else min(_BLOCK, offset - at)):
            digest.update(block)
            at += len(block)
            if at == offset:
                digest.update(_BLANK)
                at = stream.seek(offset + len(_BLANK))
    return digest.hexdigest().encode()
