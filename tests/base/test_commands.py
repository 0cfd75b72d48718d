"""How a command ends: one line and an exit code, whatever happens in it."""

from __future__ import annotations

import ast
import os
import signal
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from drills import made
from drills.written import write_log
from imports import official

from flashtrail import cli
from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.drills import bounds

ROOT = Path(__file__).parents[2]
PROGRAMS = [file for place in ("src/flashtrail", "tools", "benchmarks") for file in (ROOT / place).rglob("*.py")]
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="commands of stages that compute with torch")


def fails(error: BaseException):
    def main() -> int:
        raise error

    return main


def started(
    *words: str, cwd: Path = ROOT, code: str | None = None, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.Popen[bytes]:
    program = ["-c", code] if code else ["-m", "flashtrail"]
    return subprocess.Popen(
        [sys.executable, *program, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_an_unforeseen_error_is_one_line_and_its_traceback_is_in_the_file_that_the_line_names(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert commands.run(fails(KeyError("state\nsecond")), "doctor") == 1
    (line,) = capsys.readouterr().err.splitlines()
    (kept,) = (tmp_path / "results/logs").iterdir()
    assert line.startswith("error: KeyError: ") and f"results/logs/{kept.name}" in line
    assert "Traceback" in kept.read_text() and stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_without_results_the_traceback_is_in_a_private_temporary_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert commands.run(fails(RuntimeError("\ud800 boom\nadvice")), "x") == 1
    (line,) = capsys.readouterr().err.splitlines()
    (kept,) = tmp_path.glob("flashtrail-*.traceback")
    assert str(kept) in line and "boom" in line and "advice" not in line
    assert "boom" in kept.read_text() and stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("say what"), 2, "error: say what"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (FileExistsError(17, "File exists", "out"), 2, "error: out: a file is in its way"),
        (NotADirectoryError(20, "Not a directory", "out/x"), 2, "error: out/x: a file is in its way"),
        (IsADirectoryError(21, "Is a directory", "out"), 2, "error: out: this is a directory where a file is needed"),
        (PermissionError(13, "Permission denied", b"out\xff"), 2, "error: out\\udcff: no permission"),
        (OSError(28, "No space left on device", "out"), 2, "error: out: the disk is full"),
        (OSError(28, "No space left on device"), 2, "error: the output cannot be written: No space left on device"),
    ],
)
def test_what_a_user_can_mend_is_one_line(capsys, error, code, words):
    assert commands.run(fails(error), "x") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words)


@needs_torch
def test_out_that_is_a_file_is_one_line_and_the_file_stays_as_it_is(tmp_path, capsys):
    official.write_run(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    assert cli.main(["import-run", str(tmp_path / "run"), "--out", str(tmp_path / "imported")]) == 0
    for words in (
        ["import-run", tmp_path / "run", "--out", tmp_path / "file"],
        ["import-run", tmp_path / "run", "--out", tmp_path / "file/below"],
        ["report-run", tmp_path / "imported", "--out", tmp_path / "file"],
        ["doctor", tmp_path / "run", "--write-bounds", tmp_path / "file/bounds.json"],
        ["doctor", tmp_path / "run", "--write-bounds", tmp_path],
        ["import-pickle", "--base", tmp_path / "file", "--output", tmp_path / "file"],
        ["bundle", "--out", tmp_path / "file"],
    ):
        capsys.readouterr()
        assert cli.main([str(word) for word in words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: COMMAND; see flashtrail --help"),
        (["docter"], "argument COMMAND: invalid choice: 'docter' (choose from 'audit'"),
        (["ledger", "--nonsense"], "unrecognized arguments: --nonsense; see flashtrail --help"),
        (["import-run", "--seed", "x"], "argument --seed: invalid int value: 'x'; see flashtrail import-run --help"),
        (
            ["serve", "--artifact", "a", "--port", "x"],
            "argument --port: 'x' is not a TCP port (0 to 65535); see flashtrail serve",
        ),
        (["serve", "--artifact", "a", "--workers", "0"], "argument --workers: 0 is not a positive number"),
    ],
)
def test_a_word_that_a_command_does_not_take_is_one_line(capsys, words, said):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"error: {said}") and not out


@needs_torch
def test_every_stage_reads_its_words_the_same_way():
    for file in PROGRAMS:
        if file.name != "commands.py":
            assert "argparse.ArgumentParser(" not in file.read_text(encoding="utf-8"), file
    command = [sys.executable, "-m", "flashtrail.benchmark", "compile", "--nonsense"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and "--nonsense" in line and not done.stdout


UMLAUT = (
    "from flashtrail.base import commands; "
    "raise SystemExit(commands.run(lambda: print('Z\\xfcrich \\u2265\\u2013\\xa07'), 'x'))"
)


def test_an_ascii_terminal_is_no_error(tmp_path):
    for said in ({"PYTHONIOENCODING": "ascii"}, {"PYTHONCOERCECLOCALE": "0"}):
        process = started(code=UMLAUT, LC_ALL="C", PYTHONUTF8="0", **said)
        out, err = process.communicate()
        assert process.returncode == 0 and out == b"Z\\xfcrich \\u2265- 7\n" and not err
    name = tmp_path / "ü.yaml"
    process = started("ledger", str(name), LC_ALL="C", PYTHONIOENCODING="ascii")
    assert b"\\xfc.yaml does not exist" in process.communicate()[1] and process.returncode == 2


def test_text_files_are_utf_8_whatever_the_locale_is():
    """No call leaves the encoding to the locale: `write_text(x)`, `read_text()`, `open("w")`."""
    for file in PROGRAMS:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and not any(word.arg == "encoding" for word in call.keywords):
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                said = [word.value for word in call.args if isinstance(word, ast.Constant)]
                text = name in ("open", "fdopen") and {"r", "w", "a", "x"} & set(said) and "utf-8" not in said
                text = text or (name == "read_text" and not call.args) or (name == "write_text" and len(call.args) < 2)
                assert not text, f"{file}:{call.lineno}"


def test_doctor_in_the_c_locale_says_what_it_says_elsewhere(tmp_path):
    log = write_log(tmp_path / "log.jsonl", [made.episode(i) for i in range(5)], ["x"] * 5)
    bounds.save(made.reference(), tmp_path / "bounds.json")
    said = []
    for locale in ({"PYTHONUTF8": "1"}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}):
        process = started("doctor", str(log), "--bounds", str(tmp_path / "bounds.json"), **locale)
        out, err = process.communicate()
        assert process.returncode == 0 and not err
        said.append(out.decode())
    assert said[0].replace("\xa0", " ").replace("\u2013", "-") == said[1] != said[0]


PROGRAM = (
    "import sys, time; from flashtrail.base import commands; "
    "print('ready', flush=True); sys.exit(commands.run({}, 'x'))"
)


def test_a_reader_that_leaves_is_no_error():
    process = started(code=PROGRAM.format(r"lambda: print('x\n' * 10**6)"))
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize("lines", [1, 10**5])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(lines, unbuffered):
    code = PROGRAM.replace("print('ready', flush=True); ", "").format(f"lambda: print('x\\n' * {lines})")
    assert into_full(code=code, PYTHONUNBUFFERED=unbuffered) == (FULL, 2)


def test_help_that_cannot_be_written_is_one_line():
    assert into_full("--help", PYTHONUNBUFFERED="") == (FULL, 2)


FULL = b"error: the output cannot be written: No space left on device\n"


def into_full(*words: str, **how: Any) -> tuple[bytes, int]:
    with Path("/dev/full").open("wb") as full:
        process = started(*words, stdout=full, **how)
    return process.communicate()[1], process.returncode


def test_ctrl_c_is_one_line():
    process = started(code=PROGRAM.format("lambda: [print('in', flush=True), time.sleep(60)]"))
    assert process.stdout is not None
    assert (process.stdout.readline(), process.stdout.readline()) == (b"ready\n", b"in\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert err == b"error: interrupted\n" and process.returncode == 130


def test_every_program_of_the_package_ends_this_way():
    """A file that can be started by itself starts through `commands.run`, or is a worker of ours with its own frame."""
    own = {
        ROOT / f"src/flashtrail/{name}.py"
        for name in ("rollouts/worker", "rollouts/keeper", "base/fork", "base/forkserver", "studio/begin")
    }
    for file in PROGRAMS:
        text = file.read_text()
        if 'if __name__ == "__main__":' in text and file not in own:
            assert "commands.run(" in text.split('if __name__ == "__main__":')[1], file
