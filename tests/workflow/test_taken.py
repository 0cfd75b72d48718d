"""A policy that is a finished artifact of another family: planned, checked, copied and served by the same workflow."""

from __future__ import annotations

import json
import shutil

import pytest
from workflow.checkouts import ROOT, Checkout, counts

OVERLAY = """
policies: {still: {artifact: resources/still}}
arms: {__only__: true, clean: {policy: pi0_nano, episodes: 1}, floor: {policy: still, episodes: 1}}
sweeps: {__only__: true}
"""
BOOT = "results/smoke/still/boot.json"


@pytest.fixture
def taken(checkout: Checkout) -> Checkout:
    shutil.copytree(ROOT / "resources/still", checkout.path / "resources/still")
    (checkout.path / "floor.yaml").write_text(OVERLAY)
    return checkout


def run(checkout: Checkout, *arguments: str, check: bool = True) -> str:
    command = ["snakemake", "--profile", "profiles/local", "--configfile", "floor.yaml", *arguments]
    return checkout.run(*command, check=check).stdout


def test_it_is_taken_where_others_are_converted(taken):
    jobs = counts(run(taken, "-n", "--", "reports/final.html"))
    assert {job: jobs[job] for job in ("take_artifact", "convert_base", "check_parity", "boot_server", "smoke")} == {
        "take_artifact": 1,
        "convert_base": 1,
        "check_parity": 1,
        "boot_server": 2,
        "smoke": 2,
    }


def test_it_is_served_with_the_settings_that_its_family_has(taken):
    run(taken, "--", BOOT)
    boot = json.loads((taken.path / BOOT).read_text())
    manifest = json.loads((taken.path / "results/artifacts/still/base/manifest.json").read_text())
    assert boot["metadata"]["family"] == "nothing" and boot["metadata"]["settings"] == {"max_exec_steps": 12}
    assert boot["artifact"] == {"base": manifest["digest"]} == {"base": boot["metadata"]["base_digest"]}
    assert "Nothing to be done" in run(taken, "-n", "--", BOOT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"action_horizon": 50', '"action_horizon": 49', "manifest.json was edited (its digest does not follow"),
        ('"family": "nothing"', '"family": "nothin"', "names the family 'nothin'; did you mean 'nothing'?"),
        ('"files": {}', '"files": {"../x": {"bytes": 1, "sha256": ""}}', "names '../x', a file outside its directory"),
        ('"kind": "base"', '"kind": "draft"', "is a draft artifact where a base artifact is needed"),
    ],
)
def test_an_artifact_that_is_not_what_its_manifest_says_is_one_line(taken, old, new, message):
    taken.edit("resources/still/manifest.json", old, new)
    output = run(taken, "--", "results/artifacts/still/base/manifest.json", check=False)
    lines = {line for line in output.splitlines() if line.startswith("error: ")}  # a failed job's log is shown again
    assert len(lines) == 1 and message in lines.pop()
    assert not (taken.path / "results/artifacts/still/base").exists()


def test_what_is_wrong_with_artifact_or_claims_is_told_before_anything_is_planned(taken):
    for overlay, message in (
        ("policies: {still: {artifact: resources/stil}}", "policies.still.artifact: resources/stil is not a directory"),
        ("policies: {still: {artifact: gs://b/still}}", "policies.still.artifact: gs://b/still is not a directory"),
        ("policies: {pi0_nano: {published: pi0_nano/FLAHS}}", "policies.pi0_nano.published: no success is published"),
        ("checkup: {published: pi0_nan/FLASH}", "did you mean 'pi0_nano/FLASH'?"),
        (
            "arms: {held: {policy: still, episodes: 1, flash: {tau_radius: 0.2}}}",
            "arms.held.flash.tau_radius: the family nothing has no such setting; leave it out",
        ),
        (
            "arms: {held: {policy: still, episodes: 1, settings: {epsilon: 0.2}}}",
            "arms.held.settings.epsilon: the family nothing has no such setting; leave it out",
        ),
        ("claims: claim.yaml", "claim.yaml"),
        ("claims: Snakefile", "Snakefile"),
    ):
        (taken.path / "wrong.yaml").write_text(overlay)
        output = run(taken, "wrong.yaml", "-n", "--", "reports/final.html", check=False)
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert message in line and "Job stats" not in output
