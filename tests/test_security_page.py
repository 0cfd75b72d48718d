"""docs/security.md: every test that the threat model names is there, and no entry is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/security.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
ENTRIES = [row.strip("|").split("|") for row in PAGE.splitlines() if row.startswith("| ")][1:]


def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_named_test_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 30
    assert not [f"{file}::{name}" for file, name in named if name not in functions(file)]


def test_every_entry_says_who_controls_it_what_is_checked_and_by_which_test() -> None:
    assert len(ENTRIES) >= 20
    for entry in ENTRIES:
        assert len(entry) == 4 and all(cell.strip() for cell in entry), entry
        assert NAMED.search(entry[3]), entry[0]
