"""The columns that docs/evidence.md lists are those of the schemas, and so is what may be empty. Knows no table."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from flashtrail.evidence import tables

PAGE = Path(__file__).parents[1] / "docs" / "evidence.md"


@pytest.mark.parametrize(
    ("name", "schema"), [("episodes", tables.EPISODES), ("rounds", tables.ROUNDS), ("steps", tables.STEPS)]
)
def test_a_documented_table_has_every_column(name: str, schema: pa.Schema) -> None:
    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith(f"- **{name}**: ")]
    columns = {f.name + "?" * f.nullable for f in schema if f.name not in tables.EPISODE_KEY}
    assert columns - set(re.findall(r"`(\w+\??)`", row)) == set()
