"""Reports of several experiments in one checkout: each has its own names, and none writes over another's files."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from workflow.checkouts import ROOT, Checkout
from workflow.test_plan import counts
from workflow.test_settle import CLAIM, OVERLAY, WORDS, holding  # noqa: F401

from flashtrail.experiment import config
from flashtrail.record import reports

FINAL = ["reports/final.html", "reports/claims.html", "reports/episodes/index.html", "results/logs/render_final.json"]
FINAL += ["reports/episodes/clean/index.html", "results/claims/claims.json", "results/claims/looks.parquet"]


@pytest.fixture
def lift(checkout: Checkout) -> Checkout:
    """A checkout with what profiles/lift names."""
    for source in (ROOT / "resources/scripted", *(ROOT / "resources").glob("lift_*")):
        shutil.copytree(source, checkout.path / "resources" / source.name)
    shutil.copy(ROOT / "claims-lift.yaml", checkout.path)
    return checkout


def test_the_lift_profile_plans_its_own_names_and_no_chapter_without_content(lift):
    plan = ["snakemake", "--profile", "profiles/lift", "--quiet", "host", "-n"]  # with each job's files
    output = lift.run(*plan, "--", "reports/lift.html").stdout
    for name in ("baseline", "profiling", "robustness", "claims"):
        assert f"Rendering reports/lift-{name}.html" in output
    assert counts(output)["render_chapter"] == 4, "no arm has a guard or a running clock"
    assert counts(lift.run(*plan).stdout) == counts(output), "the default"
    named = ("final.html", "claims/claims.json", "environments/libero.json", "episodes/index.html", "looks.parquet")
    assert "results/claims/lift.json" in output and not [name for name in named if name in output]


def test_the_fluid_profile_plans_its_controls_and_what_no_episode_has(checkout):
    for source in (ROOT / "resources/measured", *(ROOT / "resources").glob("fluid_*")):
        shutil.copytree(source, checkout.path / "resources" / source.name)
    shutil.copy(ROOT / "claims-fluid.yaml", checkout.path)
    output = checkout.run(
        "snakemake", "--profile", "profiles/fluid", "--quiet", "host", "-n", "--", "reports/fluid.html"
    ).stdout
    planned = counts(output)
    assert planned["take_artifact"] == 5 and planned["merge_shards"] == 10 and planned["profile_scaling"] == 1
    assert planned["measure_substrate"] == 4 and planned["check_sensitivity"] == 1
    assert "results/claims/fluid.json" in output and "results/claims/claims.json" not in output


def planned_by(checkout, name):
    """Return what `make NAME` would say and do, and its experiment."""
    for resource in ("measured", "lift_nano", "lift_doubt", "scripted", "drills"):
        shutil.copytree(ROOT / "resources" / resource, checkout.path / "resources" / resource, dirs_exist_ok=True)
    shutil.copy(ROOT / f"claims-{name}.yaml", checkout.path)
    plan = ["snakemake", "--profile", f"profiles/{name}", "--quiet", "host", "-n", "--", f"reports/{name}.html"]
    output = checkout.run(*plan).stdout
    return output, counts(output), config.load(ROOT / "config.yaml", ROOT / f"profiles/{name}/overlay.yaml")


def test_the_deployment_profile_plans_each_arm(checkout):
    _, planned, experiment = planned_by(checkout, "deployment")
    assert planned["take_artifact"] == 4 and planned["merge_shards"] == len(experiment.arms)
    assert planned["roll_out_shard"] == sum(len(experiment.tasks_of(arm)) for arm in experiment.arms)


def test_refits_are_planned_behind_the_episodes_that_they_learn_from(checkout):
    output, planned, experiment = planned_by(checkout, "corrections")
    assert planned["take_artifact"] == 1 and planned["roll_out_shard"] == len(experiment.arms)
    assert planned["refit_policy"] == sum(policy.refit is not None for policy in experiment.policies.values())
    assert planned["record_corrections"] == 3 and planned["record_lift_demonstrations"] == 1
    order = (
        "Rolling out corrected,",
        "Refitting dagger_100\n",
        "Rolling out corrected_2,",
        "Refitting dagger_round_2\n",
    )
    assert (places := [output.index(job) for job in order]) == sorted(places)


def test_policies_of_several_robots_are_planned_behind_each_robots_demonstrations(checkout):
    output, planned, experiment = planned_by(checkout, "robots")
    trained = [policy for policy in experiment.policies.values() if policy.train is not None]
    assert planned["train_robots"] == len(trained) == 9 and planned["record_robot_demonstrations"] == 4
    assert planned["roll_out_shard"] == len(experiment.arms) and planned["boot_server"] == planned["smoke"] == 9
    assert not {"take_artifact", "convert_base", "refit_policy", "record_lift_demonstrations"} & set(planned)
    order = (
        "Recording demonstrations of iiwa\n",
        "Training three\n",
        "Training three_ur5e_5\n",
        "Smoke test of three_ur5e_5: episodes of task 4\n",
        "Rolling out new_5,",
    )
    assert (places := [output.index(job) for job in order]) == sorted(places)


@pytest.mark.parametrize(("profile", "target"), [("lift", "final"), ("local", "lift"), ("local", "lift-claims")])
def test_the_report_of_another_config_is_refused_though_it_is_there(lift, profile, target):
    (lift.path / "reports").mkdir()
    (lift.path / f"reports/{target}.html").write_text("finished")
    command = ["snakemake", "--profile", f"profiles/{profile}", "-n", "--", f"reports/{target}.html"]
    output = lift.run(*command, check=False)
    own = "lift" if profile == "lift" else "final"
    assert f"error: reports/{target}.html: this config makes reports/{own}.html" in output.stdout
    assert output.returncode and "Traceback" not in output.stdout and "Nothing to be done" not in output.stdout


def test_a_name_that_leads_elsewhere_is_refused_in_one_line(checkout):
    command = ["snakemake", "--profile", "profiles/local", "-n", "--config", "report=../../etc/x"]
    output = checkout.run(*command, check=False).stdout
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: config: report: '../../etc/x' does not have the form") and "Traceback" not in output


def test_a_second_report_stands_beside_the_first_and_leaves_it_as_it_was(holding):  # noqa: F811
    root = holding.path
    shutil.copytree(ROOT / "notebooks", root / "notebooks", dirs_exist_ok=True)
    own = OVERLAY.replace("clean:", "again:").replace("few.yaml", "more.yaml") + "report: other\n"
    (root / "other.yaml").write_text(own)
    claim = {"id": "L1", **WORDS, "test": "metric_rate", "arm": "again", "metric": "verified_success"}
    claims = {"version": 1, "title": "Another question", "claims": [claim | {"side": "at_most", "bar": 0.5}]}
    (root / "more.yaml").write_text(yaml.safe_dump(claims))
    profile = (root / "profiles/still/profile.yaml").read_text()
    (root / "profiles/other").mkdir()
    (root / "profiles/other/profile.yaml").write_text(profile.replace("still.yaml", "other.yaml"))

    holding.run("snakemake", "--profile", "profiles/still", "--", "reports/final.html")
    before = {file: (root / file).read_bytes() for file in FINAL}
    holding.run("snakemake", "--profile", "profiles/other", "--", "reports/other.html")
    assert {file: (root / file).read_bytes() for file in FINAL} == before
    again = holding.run("snakemake", "--profile", "profiles/still", "-n", "--", "reports/final.html").stdout
    assert "Nothing to be done" in again

    text = (root / "reports/other.html").read_text()
    assert "<h1>Another question</h1>" in text and "final.html" not in text
    assert 'href="other-claims.html"' in text and 'href="episodes/other.html"' in text
    listed = (root / "reports/episodes/again/index.html").read_text()
    assert 'href="../../other.html"' in listed and 'href="../other.html"' in listed
    judged = json.loads((root / "results/claims/other.json").read_text())["claims"]
    assert [claim["id"] for claim in judged] == ["L1"] and CLAIM["id"] == "C5"

    with reports.opened([root]) as found:
        names = list(found)
        assert names[:2] == ["final", "other"] and "other-claims" in names
        assert found["other"].arms == ["again"] and found["final"].arms == ["clean"]
    flashtrail(holding, "reports")
    index = (root / "reports/index.html").read_text()
    assert index.index('href="final.html"') < index.index('href="other.html"') < index.index('href="claims.html"')


def flashtrail(checkout: Checkout, *words: str) -> str:
    """Run a command of the checkout's own package there."""
    own = {"PYTHONPATH": str(checkout.path / "src")}
    return checkout.run("python", "-m", "flashtrail", *words, environment=own).stdout
