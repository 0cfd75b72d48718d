"""A stranger's zip, unpacked within bounds: how many files, how large, how much of it made of how little.

A zip's own sizes may be wrong, so bytes are counted as they are unpacked. Only plain files and folders with names
below the target are taken.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from flashtrail.base.errors import UserError

_BLOCK = 1 << 16
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_END_BYTES, _COMMENT_BYTES = 22, 1 << 16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Bounds:
    """Limits of unpacking. Bytes; `ratio`: bytes that come out for each byte of the zip, above `free` bytes.

    A bundle of 50 episodes an arm has some 5,000 files and 300 MB; Parquet and weights hardly shrink, logs and HTML
    to a twentieth.
    """

    files: int = 100_000
    file_bytes: int = 4 << 30
    total_bytes: int = 16 << 30
    directory_bytes: int = 32 << 20
    ratio: int = 100
    free: int = 16 << 20


BOUNDS = Bounds()


def unpack(path: Path, target: Path, bounds: Bounds = BOUNDS) -> Path:
    """Unpack a zip with one directory in it below `target`, and return that directory.

    UserError, one line, for a file that is not a zip, exceeds one of the bounds, or holds a name, link or device that
    does not belong in a bundle. What was written till then stays in `target`: the caller removes it.
    """
    try:
        _bounded_directory(path, bounds)
        with zipfile.ZipFile(path) as archive:
            _write(archive, path, target, bounds)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is neither a directory nor a whole zip ({error})") from None
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} uses one name for a file and a folder") from None
    except OSError as error:
        raise UserError(f"{path} cannot be unpacked to {target}: {error.strerror or error}") from None
    inside = sorted(target.iterdir())
    if len(inside) != 1 or not inside[0].is_dir():
        raise UserError(f"{path} holds {len(inside)} files and folders at its top; a bundle is one folder")
    return inside[0]


def _bounded_directory(path: Path, bounds: Bounds) -> None:
    """Refuse a list of contents that would fill the memory before anything of it can be looked at."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        start = max(0, size - _END_BYTES - _COMMENT_BYTES)
        stream.seek(start)
        tail = stream.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < _END_BYTES:
            raise zipfile.BadZipFile("it has no end record")
        files, listed = struct.unpack_from("<H", tail, at + 10)[0], struct.unpack_from("<I", tail, at + 12)[0]
        if tail[max(0, at - 20) :].startswith(_LOCATOR64):  # over 4 GiB or 65,535 files
            stream.seek(struct.unpack_from("<Q", tail, at - 20 + 8)[0])
            record = stream.read(56)
            if not record.startswith(_END64):
                raise zipfile.BadZipFile("its 64-bit end record is missing")
            files, listed = struct.unpack_from("<Q", record, 32)[0], struct.unpack_from("<Q", record, 40)[0]
    if files > bounds.files or listed > bounds.directory_bytes:
        raise UserError(f"{path} lists {files} files in {listed} bytes; at most {bounds.files} are unpacked")


def _write(archive: zipfile.ZipFile, path: Path, target: Path, bounds: Bounds) -> None:
    entries = archive.infolist()
    if len(entries) > bounds.files:
        raise UserError(f"{path} holds {len(entries)} files, at most {bounds.files} are unpacked")
    seen: set[str] = set()
    total = 0
    most = min(bounds.total_bytes, max(bounds.free, bounds.ratio * path.stat().st_size))
    for entry in entries:
        parts = _parts(entry, path)
        name = "/".join(parts)
        if name in seen:
            raise UserError(f"{path} has the duplicate name {name!r}")
        seen.add(name)
        destination = target.joinpath(*parts)
        if entry.is_dir():
            destination.mkdir(parents=True, exist_ok=True)
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        own = min(bounds.file_bytes, max(bounds.free, bounds.ratio * entry.compress_size))
        with archive.open(entry) as packed, destination.open("xb") as out:
            while block := packed.read(_BLOCK):
                total, own = total + len(block), own - len(block)
                if own < 0 or total > most:
                    what = f"{name!r} in {path}" if own < 0 else str(path)
                    raise UserError(f"{what} unpacks to more than the bounds of a bundle: stopped")
                out.write(block)


def _parts(entry: zipfile.ZipInfo, path: Path) -> list[str]:
    """Return an entry's name as its components; UserError unless it is a plain file or folder below the target."""
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
        raise UserError(f"{path} holds the name {name[:80]!r}, not a relative path below one folder")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > entry.is_dir():
        raise UserError(f"{path} holds {name!r} as a link or a device: a bundle has files and folders only")
    if entry.flag_bits & 0x1 or entry.compress_type not in _METHODS:
        raise UserError(
            f"{path} holds {name!r} encrypted or with an unsupported compression: only stored and deflated are read"
        )
    return parts
