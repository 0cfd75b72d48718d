"""Which backend a server gets: the one that is named, or what the kernels' examination came to, however that ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flashtrail import provenance
from flashtrail.errors import UserError
from flashtrail.serving import handles

ENGINE = {"device": "cuda", "dtype": "bfloat16", "threads": 1, "backend": "auto"}
RECORD = {"version": 1, "backend": "triton", "why": "right and shorter", "device": "cuda", "dtype": "bfloat16"}


@pytest.fixture
def examination(tmp_path, monkeypatch):
    """Stands in for the interpreter that runs the examination, which needs a GPU: a script with this body."""

    def stand_in(body: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\nimport json, os, pathlib, sys, time\nwords = sys.argv[1:]\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setattr(handles.sys, "executable", str(script))

    return stand_in


def examine():
    return handles.examine(Path("artifact/base"), Path("artifact/draft"), ENGINE, 3)


def test_the_record_of_an_examination_is_returned(examination, tmp_path) -> None:
    target = tmp_path / "asked.json"
    save = f"pathlib.Path({str(target)!r}).write_text(json.dumps(words))"
    answer = f"pathlib.Path(words[words.index('--json') + 1]).write_text({json.dumps(json.dumps(RECORD))})"
    examination(f"{save}\n{answer}")
    assert examine() == RECORD
    asked = json.loads(target.read_text())
    assert asked[:2] == ["-m", "flashtrail.flash.kernels.check"]
    options = dict(zip(asked[2::2], asked[3::2], strict=True))
    del options["--json"]
    assert options == {
        "--artifact": "artifact/base",
        "--draft": "artifact/draft",
        "--device": "cuda",
        "--dtype": "bfloat16",
        "--together": "3",
    }


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("os.kill(os.getpid(), 11)", "exit code -11"),  # an illegal access takes the process along
        ("sys.exit(1)", "exit code 1"),
        ("pass", "exit code 0"),  # and no record
        ("time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_an_examination_that_does_not_end_well_leaves_pytorch_in_place(examination, monkeypatch, body, why) -> None:
    monkeypatch.setattr(handles, "EXAMINATION_S", 1.0)
    examination(body)
    record = examine()
    assert record["backend"] == "torch" and why in record["why"]


def test_a_device_that_is_not_there_stops_the_run_in_one_line(examination) -> None:
    examination("print('a warning', 'error: no CUDA device', sep='\\n', file=sys.stderr)\nsys.exit(2)")
    with pytest.raises(UserError, match=r"^no CUDA device$"):
        examine()


def test_the_verdict_decides_only_what_was_left_open(tmp_path) -> None:
    provenance.json_dump({"backend": "triton"}, tmp_path / "backend.json")
    examined = {"kernels": str(tmp_path / "backend.json")}
    assert handles.backend_of(examined, ENGINE) == "triton"
    assert handles.backend_of({}, ENGINE) == "auto"
    assert handles.backend_of(examined, ENGINE | {"backend": "torch"}) == "torch"


@pytest.mark.parametrize(("verdict", "flag"), [("triton", ["--backend", "triton"]), ("torch", ["--backend", "torch"])])
def test_a_server_is_started_with_the_verdict(tmp_path, verdict, flag) -> None:
    for name, record in {"model": {"python": sys.executable}, "base": {}, "kernels": {"backend": verdict}}.items():
        provenance.json_dump(record, tmp_path / f"{name}.json")
    paths = {name: str(tmp_path / f"{name}.json") for name in ("model", "base", "kernels")}
    command = handles.server_command(paths, ENGINE, {}, 8000)
    at = command.index("--backend")
    assert command[at : at + 2] == flag
