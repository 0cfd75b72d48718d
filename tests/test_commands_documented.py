"""The commands of the evidence and the record as their page has them: every option is explained there, none is left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flashtrail import cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evidence.md"
COMMANDS = ("audit", "bundle", "cite", "explain", "figure", "import-run", "report-run", "reports", "summary", "table")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def options(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    assert cli.main([command, "--help"]) == 0
    return set(_OPTION.findall(capsys.readouterr().out)) - {"--help"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_on_its_page(command, capsys):
    said = set(_OPTION.findall(PAGE.read_text()))
    missing = options(command, capsys) - said
    assert not missing, f"docs/evidence.md does not say what {sorted(missing)} of flashtrail {command} are"


def test_the_tables_of_options_name_none_that_is_not_there(capsys):
    real = set().union(*(options(command, capsys) for command in COMMANDS))
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `") and "--" in line]
    named = {option for row in rows for option in _OPTION.findall(row.split("|")[1])}
    assert len(named) >= 15 and named <= real
