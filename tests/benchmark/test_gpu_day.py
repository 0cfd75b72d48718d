"""`make gpu-day`: its dry form end to end at the smallest size, and stages that crash, hang or find no GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flashtrail.base.errors import UserError

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / "benchmarks/gpu_day.py"
spec = importlib.util.spec_from_file_location("gpu_day", COMMAND)
assert spec and spec.loader
gpu_day = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_day)


def test_the_dry_form_runs_stages_and_says_that_it_is_dry(tmp_path):
    pytest.importorskip("triton")
    stages = ["device", "kernels", "rollout"]
    ran = subprocess.run(
        [sys.executable, str(COMMAND), "--dry", "--out", str(tmp_path), "--stages", *stages],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (page,), (record,) = (list(tmp_path.glob(f"dry-*.{kind}")) for kind in ("md", "json"))
    day = json.loads(record.read_text())
    assert page.read_text().startswith("# DRY RUN") and day["dry"] is True
    assert list(day["stages"]) == sorted(stages) and {s["ended"] for s in day["stages"].values()} == {"done"}
    kernels = day["stages"]["kernels"]["record"]
    assert set(kernels["kernels"]) == set(gpu_day_references()) and max(kernels["kernels"].values()) < 1
    assert max(kernels["worst_share_of_leeway"].values()) < 1 and len(kernels["cases"]) == 2
    assert "agree with PyTorch's" in kernels["why"] and kernels["why"].endswith("but were not timed")
    assert "/2 successes" in day["stages"]["rollout"]["summary"]


def gpu_day_references():
    from flashtrail.benchmark.by_kernel import REFERENCES

    return REFERENCES


def test_a_stage_that_crashes_or_hangs_is_a_row_and_keeps_what_it_noted(tmp_path):
    (tmp_path / "base").mkdir()  # where the stage makes its artifact
    (tmp_path / "kernels.json").write_text('{"summary": "noted before"}')
    crashed = gpu_day.start("kernels", True, tmp_path, 120)
    assert crashed["ended"] == "exit code 2" and "a file is in its way" in crashed["log"][-1]
    assert crashed["summary"] == "noted before"
    hung = gpu_day.start("device", True, tmp_path, 0.1)
    assert hung["ended"] == "stopped after 0 s" and hung["code"]
    day = {"dry": False, "date": "2026-11-29", "device": "a | b", "commit": "c", "seconds": 1.0}
    page = gpu_day.markdown(day | {"stages": {"kernels": crashed, "device": hung}})
    assert "| kernels | exit code 2 |" in page and "| device | stopped after 0 s |" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a device")
def test_without_a_gpu_it_says_so_and_a_dry_page_never_goes_to_the_docs(tmp_path):
    with pytest.raises(UserError, match="sees no CUDA device; `make gpu-day DRY=1`"):
        gpu_day.run_all(False, tmp_path / "out", ["device"], tmp_path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="a dry run is not evidence"):
        gpu_day.run_all(True, ROOT / "docs/gpu", ["device"], tmp_path)


def test_a_wrong_result_of_a_stage_that_ended_well_is_named_and_is_the_exit_status(tmp_path, monkeypatch, capsys):
    def ended(name, *_):
        return {"ended": "done", "code": 0, "wrong": ["gelu_up"] if name == "kernels" else []}

    monkeypatch.setattr(gpu_day, "start", ended)
    assert gpu_day.run_all(True, tmp_path, ["device", "kernels"], tmp_path) == 1
    assert capsys.readouterr().err == "kernels: wrong: gelu_up\n"
    assert gpu_day.run_all(True, tmp_path, ["device"], tmp_path) == 0
