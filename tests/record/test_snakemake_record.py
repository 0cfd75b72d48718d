"""What Snakemake says of a run, with Snakemake itself: report without a network, graph, picture, checksums."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.record import snakemake_record

SNAKEFILE = """
rule all:
    input: "reports/final.html"
rule first:
    output: "a.txt"
    shell: "echo a > {output}"
rule second:
    input: "a.txt"
    output: "reports/final.html"
    shell: "cp {input} {output}"
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a small run."""
    root = tmp_path_factory.mktemp("engine")
    (root / "Snakefile").write_text(SNAKEFILE)
    (root / "profile").mkdir()
    (root / "profile/profile.yaml").write_text("cores: 1\n")
    command = [sys.executable, "-m", "snakemake", "--profile", "profile", "reports/final.html"]
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": ""})
    return root


def test_report_and_graph_are_written(ran: Path, tmp_path: Path) -> None:
    assert snakemake_record.describe(ran, tmp_path, "profile", "reports/final.html")
    assert "<html" in (tmp_path / snakemake_record.REPORT).read_text()[:2000]
    graph = (tmp_path / snakemake_record.GRAPH).read_text()
    assert graph.startswith("digraph") and '"first"' in graph and '"second"' in graph and "->" in graph


def test_work_that_is_left_is_noticed(ran: Path, tmp_path: Path) -> None:
    os.utime(ran / "a.txt")
    (ran / "a.txt").write_text("b")
    assert not snakemake_record.describe(ran, tmp_path, "profile", "reports/final.html")


def test_snakemake_s_own_word_is_passed_on(ran: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="snakemake --report failed"):
        snakemake_record.describe(ran, tmp_path, "no-profile", "reports/final.html")


def test_its_checksums_are_read(ran: Path) -> None:
    noted = snakemake_record.input_checksums(snakemake_record.records(ran))
    (digest,) = noted["a.txt"]
    assert noted["a.txt"][digest] == {"reports/final.html"} and len(digest) == 64
    assert digest != provenance.sha256_file(ran / "a.txt")  # the test above wrote another one
