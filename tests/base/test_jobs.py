"""The frame of every script: one line and exit code 2 for a mistake, all output in the log, a job to run again."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flashtrail.base.errors import UserError
from flashtrail.base.jobs import Job

SRC = Path(__file__).parents[2] / "src"
SCRIPT = """
import os
import sys
from flashtrail.base.errors import UserError
from flashtrail.base.jobs import Job, run

class Names(dict):
    def __getattr__(self, name):
        return self[name]

class FakeSnakemake:
    rule, threads, log = "convert", 2, ["logs/convert/a.log"]
    input, output = Names(base="in.json", shards=["a/x", "b/x"]), Names(out="out.json")
    params, wildcards = Names(dtype="float32", mode=sys.argv[1]), Names(policy="a")

def main(job):
    print("hello from Python")
    os.write(2, b"hello from below\\n")
    if job.params["mode"] == "user":
        raise UserError("the tokenizer is missing: fetch it again")
    if job.params["mode"] == "bug":
        raise RuntimeError("a bug")

run(main, FakeSnakemake())
"""


def run_script(directory: Path, mode: str) -> subprocess.CompletedProcess[str]:
    (directory / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", mode]
    return subprocess.run(command, cwd=directory, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True)


def test_everything_printed_is_in_the_log_and_on_the_terminal(tmp_path):
    result = run_script(tmp_path, "well")
    log = (tmp_path / "logs/convert/a.log").read_text()
    assert result.returncode == 0
    for text in (log, result.stdout + result.stderr):
        assert "hello from Python" in text and "hello from below" in text


def test_a_terminal_that_knows_ascii_only_or_a_file_is_no_error(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.replace("hello from Python", "Z\\xfcrich \\u2265"))
    with (tmp_path / "output").open("wb") as output:
        environment = {"PYTHONPATH": str(SRC), "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "script.py", "well"]
        assert subprocess.run(command, cwd=tmp_path, env=environment, stdout=output, stderr=output).returncode == 0
    for file in ("output", "logs/convert/a.log"):
        assert "Z\\xfcrich \\u2265" in (tmp_path / file).read_text()


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    result = run_script(tmp_path, "user")
    log = (tmp_path / "logs/convert/a.log").read_text()
    assert result.returncode == 2
    for text in (log, result.stdout + result.stderr):
        assert text.count("error: the tokenizer is missing: fetch it again\n") == 1
        assert "Traceback" not in text


def test_a_bug_keeps_its_traceback_in_the_log(tmp_path):
    assert run_script(tmp_path, "bug").returncode == 1
    assert "RuntimeError: a bug" in (tmp_path / "logs/convert/a.log").read_text()


def test_the_job_beside_the_log_is_the_job(tmp_path):
    run_script(tmp_path, "user")
    job = Job.from_json(tmp_path / "logs/convert/a.json")
    assert (job.rule, job.threads, job.wildcards) == ("convert", 2, {"policy": "a"})
    assert job.input == {"base": "in.json", "shards": ["a/x", "b/x"]}
    assert str(job.directory("shards")) == "a" and str(job.directory("out")) == "."


def test_packages_of_another_environment_are_not_seen(tmp_path):
    """Snakemake appends its own environment to sys.path; ours may be there twice."""
    other = tmp_path / "other/lib/python3.11/site-packages"
    (tmp_path / "script.py").write_text(
        f"import sys; own = [p for p in sys.path if 'site-packages' in p]; sys.path += [*own, {str(other)!r}]\n"
        "from flashtrail.base.jobs import run\n"
        "run(lambda job: print(sys.path), None)"
    )
    (tmp_path / "job.json").write_text('{"rule": "x"}')
    command = [sys.executable, "script.py", "job.json"]
    result = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    paths = [p for p in ast.literal_eval(result.stdout.splitlines()[0]) if "site-packages" in p]
    assert paths and len(paths) == len(set(paths)) and str(other) not in paths


CODED = SCRIPT.replace('Names(dtype="float32", mode=sys.argv[1])', "Names(mode='well', code=@CODE)").replace(
    'print("hello from Python")', "print('digest', job.code)"
)


def test_a_job_does_not_run_other_code_than_was_planned(tmp_path):
    """Planned on one node, started on another when a module had been edited; by hand it runs and names what it ran."""
    shutil.copytree(SRC / "flashtrail", tmp_path / "src/flashtrail", ignore=shutil.ignore_patterns("__pycache__"))
    script, module = tmp_path / "scripts/convert.py", tmp_path / "src/flashtrail/base/errors.py"
    script.parent.mkdir()
    digest = "from flashtrail.base import provenance; print(provenance.code_digest('src/flashtrail/base/jobs.py'))"

    def python(*arguments: str) -> str:
        run = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return run.stdout

    planned = python("-c", digest).strip()
    code = {"digest": planned, "of": ["src/flashtrail/base/jobs.py"]}
    script.write_text(CODED.replace("@CODE", repr(code)))
    assert f"digest {planned}" in python("scripts/convert.py")
    module.write_text(module.read_text() + "\n# another behaviour\n")
    result = python("scripts/convert.py")
    found = python("-c", digest).strip()
    expected = f"error: the code of convert changed after this run was planned (digest {found}, planned {planned})"
    assert result == f"{expected}: start the run again\n"
    script.write_text(CODED.replace("@CODE", "{}").replace("run(main, FakeSnakemake())", "run(main)"))
    assert f"digest {found}" in python("scripts/convert.py", "logs/convert/a.json")


def test_an_unknown_key_of_a_job_file_is_named(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"rule": "x", "inputs": {}}))
    with pytest.raises(UserError, match="unknown key 'inputs'"):
        Job.from_json(tmp_path / "job.json")
