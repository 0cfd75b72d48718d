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
_PLACE = re.compile(r"(tables|profile)/[A-Za-z0-9_+=][A-Za-z0-9_.+=-]*")  # what file_name can give
PENDING = ".import"  # there while an import is under way; left behind by one that was killed


def write(
    found: Imported, out: str | Path, device: str = "", source: str = "", replace: bool = False
) -> tuple[list[str], list[str]]:
    """Write ``tables/ARM/`` and ``profile/NAME/`` below `out`; return what was written and what went before it.

    The digests of the files that were read take the place of the config's; artifact and code are unknown. UserError
    for a directory that is there already; with `replace`, the earlier import that it belongs to goes as a whole.
    """
    root = Path(out)
    arms = found.arms()
    if not arms and not found.rows["profile"]:
        raise UserError(f"{found.origin}: no row could be read")
    places = {f"tables/{file_name(arm)}": arm for arm in arms}
    places |= {f"profile/{file_name(found.profile)}": found.profile} if found.rows["profile"] else {}
    try:
        make_directory(root)
        gone = _in_the_way(root, places, replace)
        fresh = root / PENDING
        _remove(fresh)
        _stage(found, fresh / "new", places, device, source)
        _swap(root, fresh, gone, places)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): give another --out") from None
    return list(places), [place for place in gone if place not in places]


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


def _in_the_way(root: Path, places: Iterable[str], replace: bool) -> list[str]:
    """Return, below `root`, the directories of every earlier import that has one of these places."""
    there = [place for place in places if (root / place).exists()]
    if there and not replace:
        names = ", ".join(sorted(there))
        raise UserError(f"{root} has {names} already: give --replace, another --arm or another --out")
    records = [path for kind in ("tables", "profile") for path in sorted((root / kind).glob(f"*/{RECORD}"))]
    together = [{*_places_of(path), str(path.parent.relative_to(root))} for path in records]
    gone = {place for group in together if group & set(there) for place in group}
    return sorted(place for place in {*there, *gone} if (root / place).exists())


def _places_of(record: Path) -> set[str]:
    """Return the places that a record names. It is data: only a plain component below tables/ or profile/ counts."""
    said = provenance.json_load(record)
    found = said.get("places", []) if isinstance(said, dict) else []
    return {str(place) for place in found if _PLACE.fullmatch(str(place))}


def _stage(found: Imported, fresh: Path, places: dict[str, str], device: str, source: str) -> None:
    digests = {_source_name(path): provenance.sha256_file(path) for path in found.files}
    metadata = {"imported": found.said(source), "source": source, "device": device}
    metadata |= {"config_digest": provenance.digest_json(digests)}
    record: dict[str, Any] = {"origin": found.origin, "source": source, "places": list(places)}
    record |= {"arms": found.arms(), "counts": found.counts(), "sources": digests}
    record |= {"columns_not_read": found.unread, "problems": [str(problem) for problem in found.problems]}
    for place, name in places.items():
        if place.startswith("profile/"):
            schemas.write_table(fresh / place / "rounds.parquet", found.rows["profile"], schemas.PROFILE, metadata)
        else:
            for table, schema in schemas.SCHEMAS.items():
                rows = [row for row in found.rows[table] if row["arm"] == name]
                schemas.write_table(fresh / place / f"{table}.parquet", rows, schema, metadata)
        provenance.json_dump(record, fresh / place / RECORD)


def _swap(root: Path, fresh: Path, gone: Iterable[str], places: Iterable[str]) -> None:
    """Move what goes aside and what comes in; both are renames on one file system."""
    for place in gone:
        (fresh / "old" / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).rename(fresh / "old" / place)
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (fresh / "new" / place).rename(root / place)
    _remove(fresh)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)


def _source_name(path: Path) -> str:
    return path.name if path.parent.name == "" else f"{path.parent.name}/{path.name}"
