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
        ("checkpoints", lambda name: name.startswith("benchmark")),  # dims of known policies lie in flash
    ],
)
def test_arrows_point_one_way(stage, forbidden) -> None:
    files = sorted((PACKAGE / stage).rglob("*.py"))
    assert len(files) > 5
    wrong = {f"{file.relative_to(PACKAGE)}: {name}" for file in files for name in imported(file) if forbidden(name)}
    assert not wrong


def test_the_product_imports_no_tool() -> None:
    tools = {file.stem for file in (PACKAGE.parents[1] / "tools").glob("*.py")}
    assert len(tools) > 5
    for file in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        assert not {name.split(".")[0] for name in names} & tools, file
