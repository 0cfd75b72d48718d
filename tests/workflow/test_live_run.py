"""The live panel and the run's record through the real Snakefile, in a real terminal; an error or Ctrl-C ends it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from report.terminal import Screen, Terminal, opened
from workflow.checkouts import Checkout
from workflow.test_early_page import COMMAND, checkout  # noqa: F401  a fixture

from flashtrail.report import watch


def started(place: Checkout, terminal: Terminal) -> subprocess.Popen[bytes]:
    """Start Snakemake as a shell does: the terminal is its own, and Ctrl-C reaches it."""
    left = ("PYTHONPATH", "SNAKEMAKE_PROFILE", "NO_COLOR", "CI")
    variables = {key: value for key, value in os.environ.items() if key not in left} | {"TERM": "xterm-256color"}

    def own() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = [str(Path(sys.executable).parent / "snakemake"), *COMMAND[1:]]
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    return subprocess.Popen(command, cwd=place.path, env=variables, preexec_fn=own, **ends)


def panel_of(screen: Screen) -> list[str]:
    return [line for line in screen.lines if line and set(line) <= set("━─")]


@pytest.mark.parametrize(("columns", "end"), [(80, "error"), (40, "ctrl-c")])
def test_a_run_in_a_terminal(checkout, columns, end):  # noqa: F811
    with opened(columns, 30) as terminal:
        run = started(checkout, terminal)
        try:
            whole = "━" * columns
            screen = terminal.wait(lambda screen: screen.lines[-4:][0] == whole or screen.lines[-6:][0] == whole)
            assert any(line.startswith("2 of 2 episodes") for line in screen.lines[-5:])
            assert "so far   clean 2/2" in screen.lines[-2:]
            terminal.wait(lambda screen: "evaluate claims" in screen.lines[-4:])
            assert watch.Site(checkout.path).line() == "2 of 2 episodes. A run under way."
            terminal.resize(60, 24)
            screen = terminal.wait(lambda screen: panel_of(screen) == ["━" * 60])
            assert screen.region == (0, 17), "six lines of 24"
            if end == "error":
                (checkout.path / "go").write_text("fail")
            else:
                os.write(terminal.master, b"\x03")
            terminal.wait(lambda screen: run.poll() is not None)
            screen = terminal.read(0.5)
        finally:
            if run.poll() is None:
                run.kill()
            run.wait()
    said = screen.text()
    assert run.returncode and "━" not in said and screen.region == (0, 23) and screen.wraps
    assert "Error in rule evaluate_claims:\n" in said, said
    last = "".join(said.rstrip().splitlines()[-3:])
    assert last.endswith("2 of 2 episodes; the run has stopped: the same command goes on"), last
    assert screen.lines[screen.row] == "" and screen.column == 0
    text, _ = watch.Site(checkout.path)("")
    assert "The run has stopped: the same command goes on." in text
    assert "2/2 [34" in text.replace('<span class="kept">', "")
    if end == "error":  # what Ctrl-C ends has not failed
        assert ">Failed: evaluate_claims</h2>" in text
