"""The kernels' examination as the workflow runs it: its record, or a verdict however the process ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flashtrail import environment
from flashtrail.base.errors import UserError

ENGINE = {"device": "cuda", "dtype": "bfloat16"}
RECORD = {"version": 1, "backend": "triton", "why": "right and shorter", "device": "cuda", "dtype": "bfloat16"}


@pytest.fixture
def examination(tmp_path, monkeypatch):
    """Stands in for the interpreter that runs the examination, which needs a GPU: a script with this body."""

    def stand_in(body: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\nimport json, os, pathlib, sys, time\nwords = sys.argv[1:]\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setattr(environment.sys, "executable", str(script))

    return stand_in


def examine():
    return environment.examine_kernels(Path("artifact/base"), Path("artifact/draft"), ENGINE, 3)


def test_the_record_of_an_examination_is_returned(examination, tmp_path) -> None:
    target = tmp_path / "asked.json"
    save = f"pathlib.Path({str(target)!r}).write_text(json.dumps(words))"
    answer = f"pathlib.Path(words[words.index('--json') + 1]).write_text({json.dumps(json.dumps(RECORD))})"
    examination(f"{save}\n{answer}")
    assert examine() == RECORD
    asked = json.loads(target.read_text())
    assert asked[:3] == ["-m", "flashtrail.benchmark", "examine"]
    options = dict(zip(asked[3::2], asked[4::2], strict=True))
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
    monkeypatch.setattr(environment, "EXAMINATION_S", 1.0)
    examination(body)
    record = examine()
    assert record["backend"] == "torch" and why in record["why"]


def test_a_device_that_is_not_there_stops_the_run_in_one_line(examination) -> None:
    examination("print('a warning', 'error: no CUDA device', sep='\\n', file=sys.stderr)\nsys.exit(2)")
    with pytest.raises(UserError, match=r"^no CUDA device$"):
        examine()
