"""A job that starts late runs what was planned: on the real Snakefile, in processes of their own as on a cluster."""

from __future__ import annotations

import pytest
from workflow.checkouts import Checkout

# `run:` rules are started as Snakemake's remote jobs are: a process with the arguments that travel, which parses all.
LATE = """
include: "Snakefile"

rule edit:
    output: touch("edited")
    shell: {edit!r}

rule late:
    input: "edited"
    output: "told"
    run:
        clean = EXPERIMENT.arm("clean")
        Path(output[0]).write_text(f"{{EXPERIMENT.flash.tau_radius}} {{EXPERIMENT.seed}} {{clean['seed']}}")
"""
EDIT = "sed -i 's/^seed: 7/seed: 8/' config.yaml && grep -q '^seed: 8' config.yaml"


def run_late(checkout: Checkout, edit: str, *arguments: str, check: bool = True):
    (checkout.path / "late.smk").write_text(LATE.format(edit=edit))
    command = ("snakemake", "-s", "late.smk", "--profile", "profiles/ci", *arguments, "--", "told")
    return checkout.run(*command, check=check)


def test_a_config_that_changes_while_a_job_waits_does_not_reach_it(checkout):
    run_late(checkout, EDIT, "--config", "flash={tau_radius: 0.25}")
    assert (checkout.path / "told").read_text() == "0.25 7 7"
    assert "seed: 8" in (checkout.path / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("rm -r .snakemake/flashtrail", "is missing on this node"),
        ('sed -i \'s/"seed": 7/"seed": 8/\' .snakemake/flashtrail/plan-*.json', "is not what this job was planned as"),
    ],
)
def test_a_job_without_its_plan_is_refused_in_one_line(checkout, edit, words):
    result = run_late(checkout, edit, check=False)
    assert result.returncode and not (checkout.path / "told").exists()
    (line,) = {line for line in result.stdout.splitlines() if line.startswith("error:")}
    assert words in line and line.endswith("start the run again") and "Traceback" not in result.stdout


def test_a_dry_run_freezes_nothing(checkout):
    checkout.run("snakemake", "--profile", "profiles/ci", "-n", "--", "reports/final.html")
    assert not (checkout.path / ".snakemake/flashtrail").exists()
