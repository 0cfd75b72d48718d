"""What --help says: a line for every option, every column of an import; docs/evidence.md names no other options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flashtrail import cli
from flashtrail.imports import columns

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evidence.md"
COMMANDS = ("audit", "bundle", "check-dataset", "cite", "explain", "export-dataset", "figure", "import-dataset")
COMMANDS += ("import-run", "report-run", "reports", "summary", "table")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_LINE = re.compile(r"^  (?:-\w[^-]*, )?(--[a-z][a-z-]+)[^\n]*?(?:  +|\n +)(\w[^\n]+)", re.MULTILINE)


def text_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main([command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_words_of_its_own(command, capsys):
    text = text_of(command, capsys)
    said = {option: words for option, words in _LINE.findall(text)}
    assert set(_OPTION.findall(text.split("\n\n")[0])) <= {*said, "--help"}
    assert all(len(words) > 5 for words in said.values())


def test_the_page_names_no_option_that_is_not_there(capsys):
    for command in COMMANDS:
        real = set(_OPTION.findall(text_of(command, capsys)))
        for line in re.findall(rf"^    flashtrail {command} (.*)$", PAGE.read_text(), re.MULTILINE):
            named = set(_OPTION.findall(line.partition("  # ")[0]))
            assert named <= real, f"docs/evidence.md: flashtrail {command} has no {sorted(named - real)}"


def test_an_import_lists_the_columns_that_it_reads(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    text = text_of("import-run", capsys)
    (said,) = [line for line in text.splitlines() if "OURS (" in line]
    found = re.findall(r"(\w+)(?: \((\w+)\))?(?:,|$)", said.split(": ", 1)[1])
    assert {ours: official or ours for ours, official in found} == columns.OFFICIAL
