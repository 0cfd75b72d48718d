"""docs/evidence.md against the code: columns of tables, tests of claims and their keys, names of an import."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

from flashtrail.claims import claims
from flashtrail.imports import columns
from flashtrail.tables import schemas

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
_NAME = re.compile(r"`([a-z]\w*\??)`")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def outside_brackets(text: str) -> str:
    """The text without what stands in brackets: values of a column, units, remarks."""
    return re.sub(r"\([^()]*\)", "", text)


@pytest.mark.parametrize("name", [*schemas.SCHEMAS, "profile", "sheets"])
def test_the_columns_of_a_table_are_those_of_its_schema(name: str) -> None:
    """Also which of them may be empty (`?`)."""
    (line,) = [line for line in section("Tables").splitlines() if line.startswith(f"- **{name}**")]
    said = outside_brackets(line).split(". Its metadata")[0]
    named = _NAME.findall(said) + list(schemas.EPISODE_KEY) * bool(re.search(r"\bkey\b", said))
    schema = {**schemas.SCHEMAS, "profile": schemas.PROFILE, "sheets": schemas.SHEETS}[name]
    assert sorted(named) == sorted(field.name + "?" * field.nullable for field in schema)


def test_each_test_of_a_claim_is_there_with_its_own_keys() -> None:
    common = {*claims._Claim.model_fields, "test"}
    kinds = typing.get_args(typing.get_args(claims.AnyClaim)[0])
    rows = [line.split("|") for line in section("Claims and verdicts").splitlines() if line.startswith("| `")]
    said = {_NAME.findall(row[1])[0]: {*_NAME.findall(row[2])} for row in rows if len(row) == 7}
    assert said == {
        typing.get_args(kind.model_fields["test"].annotation)[0]: {*kind.model_fields} - common for kind in kinds
    }


def test_a_check_of_records_is_there_with_all_its_keys() -> None:
    (said,) = [line for line in section("Claims and verdicts").splitlines() if line.startswith("A check of `records`")]
    keys = {field.alias or name for name, field in claims.Check.model_fields.items()}
    assert keys <= {*_NAME.findall(said)}


def test_the_names_of_an_import_are_those_that_it_reads() -> None:
    (said,) = [line for line in PAGE.splitlines() if line.startswith("OURS is one of these names")]
    found = re.findall(r"`(\w+)`(?: \(`(\w+)`\))?", said)
    assert {ours: official or ours for ours, official in found} == columns.OFFICIAL
