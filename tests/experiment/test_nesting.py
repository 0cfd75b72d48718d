"""Brackets within brackets, 100,000 deep, in each kind of JSON file that others hand in: one line, no traceback."""

from __future__ import annotations

import base64

import pytest

from flashtrail.base import jobs
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, facts
from flashtrail.drills import step_lines
from flashtrail.imports import official
from flashtrail.imports.record import Imported
from flashtrail.policies.pi0 import transforms, weights
from flashtrail.policies.pi0.errors import ArtifactError
from flashtrail.record import private, snakemake_record

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("read", "name", "content"),
    [
        (jobs.Job.from_json, "job.json", DEEP),
        (step_lines.read, "log.jsonl", DEEP),
        (official.json_list, "episode_log.json", DEEP),
        (official._manifest, "manifest.json", DEEP),
    ],
)
def test_a_file_of_a_run_says_that_it_is_nested_too_deeply(tmp_path, read, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=rf"{name}.*nested too deeply"):
        read(path)


def test_a_line_of_an_official_run_is_a_problem_by_number(tmp_path):
    path = tmp_path / "infer.jsonl"
    path.write_text('{"a": 1}\n' + DEEP + "\n")
    found = Imported(origin="here")
    assert list(official.json_lines(path, "infer.jsonl", found)) == [(1, {"a": 1})]
    (problem,) = found.problems
    assert problem.line == 2 and "nested too deeply" in str(problem)


def test_files_of_an_artifact_and_of_a_bundle_are_one_line(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(DEEP)
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read"):
        weights.read_manifest(tmp_path, "base")
    with pytest.raises(ArtifactError, match="must hold norm_stats"):
        transforms.read_norm_stats(path, 8, 7, 32)
    with pytest.raises(UserError, match="cannot be read"):
        facts.read_model_json(path)
    model = tmp_path / "model.safetensors"
    model.write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())
    with pytest.raises(UserError, match="not a safetensors file"):
        artifact.read_header(model)
    assert list(private.places_in([path])) == []
    record = tmp_path / snakemake_record.METADATA / base64.b64encode(b"results/x").decode()
    record.parent.mkdir(parents=True)
    record.write_text(DEEP)
    with pytest.raises(UserError, match="not a record of Snakemake's"):
        snakemake_record.records(tmp_path)
