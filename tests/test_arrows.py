"""The arrows of docs/DESIGN.md: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/flashtrail"


def imported(file: Path) -> set[str]:
    """Modules of ours that a file imports anywhere in it, by their names below the package."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("flashtrail.") for name in found if name.startswith("flashtrail.")}


@pytest.mark.parametrize(
    ("stage", "forbidden"),
    [
        ("flash", lambda name: not name.startswith("flash.")),  # nothing of ours
        ("rollouts", lambda name: name.startswith("flash.")),
        ("evidence", lambda name: name.startswith(("rollouts", "imports"))),
        ("imports", lambda name: name.startswith(("rollouts", "flash.", "serving", "drills"))),
        ("serving", lambda name: name.startswith("flash.")),
    ],
)
def test_arrows_point_one_way(stage, forbidden) -> None:
    files = sorted((PACKAGE / stage).rglob("*.py"))
    assert len(files) > 5
    wrong = {f"{file.relative_to(PACKAGE)}: {name}" for file in files for name in imported(file) if forbidden(name)}
    assert not wrong
