"""Scripts run by themselves, from the job that each leaves beside its log; a mistake is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from workflow.checkouts import ROOT


def run_script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / f"{name}.py", *arguments]
    return subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)


def test_without_a_job_a_script_says_how_it_is_called():
    result = run_script("fetch_checkpoint")
    assert result.returncode == 2
    assert result.stderr.startswith("error: usage: python") and "JOB.json" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_policy_that_needs_cuda_where_there_is_none_is_one_line(tmp_path):
    job = {"rule": "check_model_env", "output": {"record": str(tmp_path / "model.json")}}
    (tmp_path / "job.json").write_text(json.dumps({**job, "params": {"devices": ["cpu", "cuda"]}}))
    result = run_script("check_model_env", tmp_path / "job.json")
    assert result.returncode == 2 and not (tmp_path / "model.json").exists()
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: a policy asks for device cuda and there is none here")


def test_candidates_that_do_not_match_stop_the_probe_and_are_all_in_its_output(tmp_path):
    job = {"rule": "probe_checkpoints", "output": {"record": str(tmp_path / "record.json")}}
    candidates = [str(tmp_path / "pi0_base"), str(tmp_path / "pi0_libero")]
    (tmp_path / "job.json").write_text(
        json.dumps({**job, "params": {"source": {"policy": "mine", "candidates": candidates}}})
    )
    result = run_script("probe_checkpoints", tmp_path / "job.json")
    assert result.returncode == 2 and not (tmp_path / "record.json").exists()
    assert result.stdout.count("NOT_FOUND") == 2, "a name says nothing of what is there"
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
