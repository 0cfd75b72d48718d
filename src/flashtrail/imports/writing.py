"""An import on disk: one directory an arm (and one a profile) with its tables and the record of where they come from.

An import is there whole or not at all, and an arm that is there already is never mixed with a new one. Names from the
record become directories through `names.file_name` only.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.base.names import file_name
from flashtrail.imports.record import Imported
from flashtrail.tables import schemas

RECORD = "import.json"  # beside each arm's tables: origin, sources, counts, problems, and the arms it came with
_DIRECTORY = re.compile(r"(tables|profile)/[A-Za-z0-9_+=][A-Za-z0-9_.+=-]*")  # what file_name can give
PENDING = ".import"  # there while an import is under way; left behind by one that was killed


def write(
    imported: Imported, out: str | Path, device: str = "", source: str = "", replace: bool = False
) -> tuple[list[str], list[str]]:
    """Write ``tables/ARM/`` and ``profile/NAME/`` below `out`; return what was written and what went before it.

    The digests of the files that were read take the place of the config's; artifact and code are unknown. UserError
    for a directory that is there already; with `replace`, the earlier import that it belongs to goes as a whole.
    """
    root = Path(out)
    directories = _directories(imported)
    try:
        make_directory(root)
        gone = _in_the_way(root, directories, replace)
        fresh = root / PENDING
        _remove(fresh)
        _stage(imported, fresh / "new", directories, device, source)
        _swap(root, fresh, gone, directories)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): give another --out") from None
    return list(directories), [directory for directory in gone if directory not in directories]


def check_free(runs: Iterable[Imported], out: str | Path, replace: bool) -> None:
    """Refuse, before anything is written, two runs of one arm, and a place that `write` would refuse."""
    places: set[str] = set()
    for imported in runs:
        directories = _directories(imported)
        if twice := places & {*directories}:
            raise UserError(f"two of the runs would be {sorted(twice)[0]}: give each its own --arm")
        places |= {*directories}
        _in_the_way(Path(out), directories, replace)


def _directories(imported: Imported) -> dict[str, str]:
    """Return the places of what was imported, each with its arm's or the profile's name; UserError without any row."""
    arms = imported.arms()
    if not arms and not imported.rows["profile"]:
        raise UserError(f"{imported.origin}: no row could be read")
    directories = {f"tables/{file_name(arm)}": arm for arm in arms}
    return directories | (
        {f"profile/{file_name(imported.profile)}": imported.profile} if imported.rows["profile"] else {}
    )


def check_out(path: Path) -> None:
    """Refuse a place for what is written that is a file: known before anything is read."""
    if path.is_file():
        raise UserError(f"--out {path} is a file: give a directory")


def make_directory(path: Path) -> None:
    """Make a directory for what is written; UserError where that cannot be, as below a file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be a directory ({error.strerror}): give another --out") from None


def check_finished(root: str | Path) -> None:
    """Refuse a directory in which an import was interrupted: what is there may be part of it."""
    if (Path(root) / PENDING).exists():
        raise UserError(f"{root}: an import was interrupted here; run it again with --replace")


def _in_the_way(root: Path, directories: Iterable[str], replace: bool) -> list[str]:
    """Return, below `root`, the directories of every earlier import that has one of these places."""
    there = [directory for directory in directories if (root / directory).exists()]
    if there and not replace:
        names = ", ".join(sorted(there))
        raise UserError(f"{root} has {names} already: give --replace, another --arm or another --out")
    records = [path for kind in ("tables", "profile") for path in sorted((root / kind).glob(f"*/{RECORD}"))]
    together = [{*_directories_of(path), str(path.parent.relative_to(root))} for path in records]
    gone = {directory for group in together if group & set(there) for directory in group}
    return sorted(directory for directory in {*there, *gone} if (root / directory).exists())


def _directories_of(record: Path) -> set[str]:
    """Return the places that a record names. It is data: only a plain component below tables/ or profile/ counts."""
    content = provenance.json_load(record)
    names = content.get("places", []) if isinstance(content, dict) else []
    return {str(name) for name in names if _DIRECTORY.fullmatch(str(name))}


def _stage(imported: Imported, fresh: Path, directories: dict[str, str], device: str, source: str) -> None:
    digests = {_source_name(path): provenance.sha256_file(path) for path in imported.files}
    metadata = {"imported": imported.described(source), "source": source, "device": device}
    metadata |= {"config_digest": provenance.digest_json(digests)}
    metadata |= {"starts": "not recorded"} if imported.unpaired else {}
    record: dict[str, Any] = {"origin": imported.origin, "source": source, "places": list(directories)}
    record |= {"arms": imported.arms(), "counts": imported.counts(), "sources": digests}
    record |= {"columns_not_read": imported.unread, "problems": [str(problem) for problem in imported.problems]}
    for directory, name in directories.items():
        if directory.startswith("profile/"):
            schemas.write_table(
                fresh / directory / "rounds.parquet", imported.rows["profile"], schemas.PROFILE, metadata
            )
        else:
            for table, schema in schemas.SCHEMAS.items():
                rows = [row for row in imported.rows[table] if row["arm"] == name]
                schemas.write_table(fresh / directory / f"{table}.parquet", rows, schema, metadata)
        provenance.json_dump(record, fresh / directory / RECORD)


def _swap(root: Path, fresh: Path, gone: Iterable[str], directories: Iterable[str]) -> None:
    """Move what goes aside and what comes in; both are renames on one file system."""
    for directory in gone:
        (fresh / "old" / directory).parent.mkdir(parents=True, exist_ok=True)
        (root / directory).rename(fresh / "old" / directory)
    for directory in directories:
        (root / directory).parent.mkdir(parents=True, exist_ok=True)
        (fresh / "new" / directory).rename(root / directory)
    _remove(fresh)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)


def _source_name(path: Path) -> str:
    return path.name if path.parent.name == "" else f"{path.parent.name}/{path.name}"
