"""A CSV file as rows with their line numbers, whatever wrote it: delimiter, encoding, line ends, quoted newlines.

What it cannot read it names, by file and line.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection, Iterator
from pathlib import Path

from flashtrail.base.errors import UserError

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LARGEST = 2**30  # bytes; a file is read whole


class Delimited:
    """One file: `header`, and `rows` as (line, cells); the delimiter is the one that gives the most known columns."""

    kind = "CSV file"
    unsaid, note, starts = "", "", True  # as an EpisodeList has them

    def __init__(self, path: Path, known: Collection[str]) -> None:
        self.path = path
        self._text = text_of(path)
        if not self._text.strip("\ufeff \t\r\n"):
            raise UserError(f"{path} is empty")
        self.delimiter = max(_DELIMITERS, key=lambda sign: len(set(self._header(sign)) & set(known)))
        self.header = self._header(self.delimiter)
        named = [name for name in self.header if name]  # an index column has no name
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise UserError(f"{path} has two columns {twice[0]!r}: remove or rename one")
        if not set(named) & set(known):
            signs = ", ".join(_DELIMITERS.values())
            raise UserError(
                f"{path}: the first line names no known column (read with {signs}): {', '.join(named)[:200]!r}; "
                "give --map OURS=THEIRS"
            )

    @property
    def name(self) -> str:
        """Return what a problem's line says before the number."""
        return self.path.name

    def _reader(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        # strict: a quote that is never closed would otherwise take the rest of the file for one cell
        reader = csv.reader(io.StringIO(self._text, newline=""), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(f"{self.path}:{line}: not readable as CSV ({error})") from None
            if cells:
                yield line, cells

    def _header(self, delimiter: str) -> list[str]:
        return [cell.strip() for cell in next(self._reader(delimiter), (0, []))[1]]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line at which the row begins, cells) of every row that is not blank; a row may be short or long."""
        found = self._reader(self.delimiter)
        next(found)
        yield from found


def text_of(path: Path) -> str:
    """Return a file's text, UTF-8 or UTF-16; UserError for one that is no text, too large or not to be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST:,} bytes: is it a file of episodes?")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not {encoding.removesuffix('-sig').upper()}: save the file as UTF-8") from None
