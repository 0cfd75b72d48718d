"""What says whose machine a run was made on, taken out of a bundle: places, names, secrets.

Texts that jobs and users wrote are cleaned, each place by a stand-in of its own, so that two texts that agreed still
do. Code, tables and other files stay as they are; one that holds such a string is refused by name.
"""

from __future__ import annotations

import functools
import getpass
import html
import json
import os
import re
import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", re.I)
_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)")
_SYSTEM = ("/", "/usr", "/usr/local", "/etc", "/proc", "/dev", "/sys", "/opt", "/var", "/bin", "/lib")
_SHORTEST_WORD = 4  # a shorter name of a user or a host is also a part of many other things
_SHORTEST_SECRET = 8


class Private:
    """Strings to hide and their stand-ins; `root`: the run's directory, `ordinary`: text whose words are not names.

    `places`: paths that are known to be a user's own.
    """

    def __init__(self, root: Path, ordinary: str = "", places: Iterable[str] = ()) -> None:
        known = {str(root.resolve()): ".", tempfile.gettempdir(): "TMP", sys.prefix: "ENV", sys.base_prefix: "ENV"}
        known |= {place: f".../{PurePosixPath(place).name}" for place in places}
        known |= {str(Path.home()): "~", os.environ.get("HOME", "/"): "~"}
        words = {socket.gethostname(): "HOST", _user(): "USER"}
        secrets = [v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= _SHORTEST_SECRET]
        self._by_text = {
            spelt: instead for text, instead in known.items() if text not in _SYSTEM for spelt in _spellings(text)
        }
        self._secrets = {spelt for secret in secrets for spelt in _spellings(secret)}
        self._words = {w: i for w, i in words.items() if len(w) >= _SHORTEST_WORD and not _word(w).search(ordinary)}

    def cleaned(self, text: str) -> str:
        """Return a text without any of it."""
        for secret in self._secrets:
            text = text.replace(secret, "SECRET")
        text = _SECRET.sub("SECRET", text)
        if self._by_text:
            text = self._places.sub(lambda found: self._by_text[found[0]], text)
        for word, instead in self._words.items():
            text = _word(word).sub(instead, text)
        return text

    @functools.cached_property
    def _places(self) -> re.Pattern[str]:
        longest_first = sorted(self._by_text, key=len, reverse=True)
        return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")


def clean(path: Path, private: Private) -> str | None:
    """Clean a text file; return the SHA-256 that it had before, or None where there was nothing to clean."""
    text = _text(path)
    if text is None or (less := private.cleaned(text)) == text:
        return None
    before = provenance.sha256_file(path)
    path.write_text(less, encoding="utf-8", newline="")
    return before


def check(path: Path, name: str, private: Private) -> None:
    """UserError, naming the file, where it says what it should not: in a text, or in a table's strings."""
    strings = _strings(path) if path.suffix == ".parquet" else filter(None, [_text(path)])
    for text in strings:
        if (less := private.cleaned(text)) != text:
            at = next((i for i, (a, b) in enumerate(zip(text, less, strict=False)) if a != b), 0)
            shown = less[max(0, at - 20) : at + 20]
            raise UserError(
                f"{name} names a path or person of the machine it was made on ({shown!r}), and is not a text that can "
                "be cleaned: keep paths in config.yaml relative to the run, and run that part again"
            )


def places_in(files: Iterable[Path]) -> Iterator[str]:
    """Yield the absolute paths that YAML and JSON files name as values, the checkpoints of a user's disk among them."""
    for file in files:
        text = _text(file) or ""
        try:
            value = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError, RecursionError):
            continue
        yield from (p.rstrip("/") for p in _values(value) if p.startswith("/") and "\n" not in p and p.count("/") > 1)


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)


def _spellings(text: str) -> set[str]:
    """Return how JSON, HTML and URLs write a text."""
    return {text, json.dumps(text)[1:-1], html.escape(text), urllib.parse.quote(text)}


@functools.cache
def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return ""


def _text(path: Path) -> str | None:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _strings(path: Path) -> Iterator[str]:
    """Yield every string of a Parquet file: its columns' and its metadata's."""
    table = pq.ParquetFile(path).read()
    for key, value in (table.schema.metadata or {}).items():
        if key != b"ARROW:schema":
            yield value.decode("utf-8", "replace")
    for column, field in zip(table.columns, table.schema, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            yield from filter(None, pc.unique(column).to_pylist())
