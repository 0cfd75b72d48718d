"""Checksums of a directory in BagIt's form: one line a file, ``<sha256>  <path>``, in manifest-sha256.txt.

A manifest shows that nothing changed since it was written, not who wrote it: whoever changes a file can write another
one. Its own digest, kept elsewhere, closes that gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

NAME = "manifest-sha256.txt"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class Verification:
    """What differs between a directory and its manifest, by path."""

    files: int
    changed: list[str]
    missing: list[str]
    unlisted: list[str]

    @property
    def problems(self) -> list[str]:
        """Return one phrase for each file that differs."""
        kinds = (("changed", self.changed), ("missing", self.missing), ("not in the manifest", self.unlisted))
        return [f"{path} is {kind}" for kind, paths in kinds for path in paths]


def write(root: Path, files: Iterable[str]) -> str:
    """Write the manifest of these relative paths and return its own SHA-256."""
    listed = sorted(set(files) - {NAME})
    for file in listed:
        if "\n" in file or "\r" in file:
            raise UserError(f"{file!r} has a line break in its name: rename it")
    lines = [f"{provenance.sha256_file(root / file)}  {file}\n" for file in listed]
    with provenance.write_atomic(root / NAME) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return provenance.sha256_file(root / NAME)


def read(root: Path) -> dict[str, str]:
    """Return SHA-256 by relative path; UserError for a malformed line or a path outside the directory."""
    path = root / NAME
    if not path.is_file():
        raise UserError(f"{path} is missing: {root} is not a bundle; make one with flashtrail bundle")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): get the bundle again") from None
    entries = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if not match or PurePosixPath(match[2]).is_absolute() or ".." in PurePosixPath(match[2]).parts:
            raise UserError(f"{path}:{number}: not '<sha256> <path>': {line[:80]!r}")
        entries[match[2]] = match[1]
    return entries


def verify(root: Path, present: Iterable[str]) -> Verification:
    """Compare every file of the directory (`present`, relative) with the manifest."""
    listed, there = read(root), set(present) - {NAME}
    changed = [f for f, digest in listed.items() if f in there and provenance.sha256_file(root / f) != digest]
    return Verification(len(listed), sorted(changed), sorted(listed.keys() - there), sorted(there - listed.keys()))
