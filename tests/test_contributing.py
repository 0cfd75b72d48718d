"""CONTRIBUTING.md names files and names that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| a")]
_QUOTED = re.compile(r"`([^`]+)`")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_leads_to_files_and_to_names_in_them(row: str) -> None:
    quoted = _QUOTED.findall(row)
    paths = [ROOT / word for word in quoted if "/" in word or "." in word]
    assert paths and not [path for path in paths if not path.exists()]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))]
    text = "\n".join(file.read_text() for file in files)
    names = {word for word in quoted if word.isidentifier()}
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


def test_there_are_twelve_rows_or_more() -> None:
    assert len(ROWS) >= 12
