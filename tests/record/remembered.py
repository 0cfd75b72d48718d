"""Answers that follow from files' bytes, given once: of a bundle with one spoiled file, fifty are as they were.

A function's answer is kept under the names of its arguments that are no files, and the SHA-256 of all that are. So a
changed byte is read, digested and judged anew. It cannot catch an answer that depends on anything else, such as where
a bundle lies or what was audited before: tests of bundles as they were built do without it.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flashtrail.base import provenance
from flashtrail.claims import summaries
from flashtrail.drills import power
from flashtrail.record import checks, rows
from flashtrail.tables import merge, schemas

_ANSWERS: dict[Any, Any] = {}
_OF_FILES = [(schemas, "read_table"), (schemas, "read_metadata"), (rows, "read"), (merge, "merge_shards")]
_OF_FILES += [(summaries, "summarize_arm"), (checks, "evaluate"), (power, "curve")]


def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the functions of an audit that read tables, and those that compute from them, answer from memory."""
    for module, name in _OF_FILES:
        monkeypatch.setattr(module, name, _remembering(getattr(module, name)))
    monkeypatch.setattr(rows, "digest_table", _digests(rows.digest_table))


def _remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def answer(*arguments: Any, **named: Any) -> Any:
        key = (function.__qualname__, _content(arguments), _content(named))
        if key not in _ANSWERS:
            _ANSWERS[key] = function(*arguments, **named)  # an error is none
        found = _ANSWERS[key]
        return copy.deepcopy(found) if isinstance(found, dict | list) else found  # tables cannot be changed

    return answer


def _digests(function: Callable[[Path, list[str]], pa.Table]) -> Callable[[Path, Iterable[str]], pa.Table]:
    one = lambda root, file: function(root, [file])  # noqa: E731
    of_file = _remembering(lambda file, path: one(Path(str(path).removesuffix(file)), file))
    return lambda root, files: pa.concat_tables([of_file(file, root / file) for file in files])


def _content(value: Any) -> Any:
    """Return what two values share that lead to the same answer: their files' digests, else what they are."""
    if isinstance(value, Mapping):
        return tuple((key, _content(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(_content(one) for one in value)
    if isinstance(value, str | os.PathLike) and (path := Path(value)).is_absolute():
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            return tuple((str(file.relative_to(path)), provenance.sha256_file(file)) for file in files)
        return provenance.sha256_file(path) if path.is_file() else str(path)
    return str(value) if isinstance(value, pa.Schema) else repr(value)
