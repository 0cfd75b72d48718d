"""The two scripts of the workflow, as a user runs them again from the file that each job leaves beside its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from drills import made, written

from flashtrail.base import provenance
from flashtrail.drills import bounds

REPOSITORY = Path(__file__).resolve().parents[2]


def script(root: Path, name: str, inputs: dict, output: dict) -> subprocess.CompletedProcess[str]:
    job = root / f"{name}.json"
    job.write_text(json.dumps({"rule": name, "input": inputs, "output": output, "params": {}}))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, str(REPOSITORY / "scripts" / f"{name}.py"), str(job)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_bounds_then_diagnosis_from_tables(tmp_path):
    arms = {"reference": {}, "clean": {}, "bad_unnorm": made.FAILURES["bad_unnorm"]}
    for number, (name, failure) in enumerate(arms.items()):
        played = [made.episode(40 * number + i, **failure) for i in range(6)]
        written.write_tables(tmp_path / f"drill_{name}", f"drill_{name}", played)
    files = {name: str(tmp_path / f"drill_{name}/steps.parquet") for name in arms}
    stored = {kind: str(tmp_path / "out" / f"{kind}.json") for kind in ("bounds", "diagnosis")}
    first = script(tmp_path, "derive_bounds", {"steps": [files["reference"]]}, {"bounds": stored["bounds"]})
    assert first.returncode == 0 and "bounds of 6 clean episodes, 6 rewarded" in first.stdout, first.stderr
    assert bounds.load(stored["bounds"]).origin["arms"] == ["drill_reference"]
    inputs = {"bounds": stored["bounds"], "steps": [files["clean"], files["bad_unnorm"]]}
    second = script(tmp_path, "diagnose_drills", inputs, {"diagnosis": stored["diagnosis"]})
    assert second.returncode == 0 and "bad_unnorm: named, run diagnosed as bad_unnorm" in second.stdout, second.stderr
    found = provenance.json_load(stored["diagnosis"])
    assert found["matrix"]["bad_unnorm"]["bad_unnorm"]["k"] == 6 and found["false_alarms"]["any"]["n"] == 6


def test_a_diagnosis_without_a_clean_run_is_one_line(tmp_path):
    bounds.save(made.reference(), tmp_path / "bounds.json")
    arm = written.write_tables(tmp_path / "drill_no_flip", "drill_no_flip", [made.episode(i) for i in range(3)])
    inputs = {"bounds": str(tmp_path / "bounds.json"), "steps": [str(arm / "steps.parquet")]}
    result = script(tmp_path, "diagnose_drills", inputs, {"diagnosis": str(tmp_path / "d.json")})
    assert result.returncode == 2 and result.stderr.startswith("error: no clean run among no_flip")
    assert not (tmp_path / "d.json").exists()
