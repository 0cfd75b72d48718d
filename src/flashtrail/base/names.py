"""Names that come from outside as names of files: an arm of config.yaml, a run of an imported CSV, a task's text.

A name is data: it may hold anything. What is made of it here is one path component, never a way to another folder.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from flashtrail.base.errors import UserError

_PLAIN = re.compile(r"[A-Za-z0-9_.+-]")
_LONGEST = 100  # of 255 bytes that a file system allows: suffixes and temporary names need room


def file_name(name: str) -> str:
    """Return one path component for `name`; different names give different components, a plain one stays as it is.

    Every byte outside ``[A-Za-z0-9_.+-]``, and a leading dot or hyphen, becomes ``=XX`` (its hexadecimal value in
    UTF-8, as in quoted-printable): no slash, no ``..``, no blank, nothing that a shell, a glob, a link or an option
    parser reads. A result over 100 characters is cut and ends in a digest of the name, the empty name is ``=``.
    """
    plain = "".join(
        character if _PLAIN.match(character) and (place or character not in ".-") else _escaped(character)
        for place, character in enumerate(name)
    )
    if len(plain) > _LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        plain = f"{plain[: _LONGEST - 18]}=={digest}"
    return plain or "="


def below(root: Path, relative: object, links: bool = False) -> Path:
    """Return the file of this relative name; UserError for a name or, unless `links` may, a link that leaves `root`.

    The one way from a name that a record gives to a file: whoever made the record may have written anything.
    """
    pure = PurePosixPath(str(relative))
    if pure.is_absolute() or ".." in pure.parts or "\0" in str(relative):
        raise UserError(f"{str(relative)!r} is not below {root}: a record names files by their place in its own folder")
    path = root / pure
    if not links and not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leads out of {root}: put the file itself there")
    return path


def _escaped(character: str) -> str:
    return "".join(f"={byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
