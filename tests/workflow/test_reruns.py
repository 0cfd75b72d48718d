"""What a change runs again, on the real DAG with real metadata: what it invalidates, and nothing for a touch."""

from __future__ import annotations

import os
import time

import pytest

from flashtrail.provenance import module_closure

VERDICTS = {"Evaluating the claims", "Rendering reports/claims.html", "Rendering reports/final.html"}


def arm_jobs(*arms: str, chapters: tuple[str, ...]) -> set[str]:
    """Everything that a changed arm of the small experiment runs again."""
    jobs = {f"Rolling out {arm}, task {task}" for arm in arms for task in (0, 1)}
    jobs |= {f"{verb} {arm}" for arm in arms for verb in ("Merging the shards of", "Summarising")}
    return jobs | VERDICTS | {f"Rendering reports/{chapter}.html" for chapter in chapters}


def test_a_finished_run_has_nothing_to_do(finished):
    assert finished.plan() == set()


def test_touching_every_file_runs_nothing(finished):
    later = time.time() + 100
    for path in finished.path.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path, (later, later))
    assert finished.plan() == set()


def test_one_condition_changed_reruns_its_arms_only(finished):
    finished.edit("config.yaml", "every: 4}", "every: 5}")
    assert finished.plan() == arm_jobs("wrist_zero_every4", "dropout_trained", chapters=("robustness", "guard"))


def test_a_guards_threshold_reruns_the_guarded_arm_only(finished):
    finished.edit("config.yaml", "std_min: 1.0", "std_min: 2.0")
    assert finished.plan() == arm_jobs("guard_wrist_zero_all", chapters=("guard",))


def test_an_engine_setting_of_one_arm_reruns_that_arm(finished):
    finished.edit(
        "tests/workflow/configs/small.yaml", "force_full_each_round: true", "periodic_full_every_n_draft_rounds: 2"
    )
    chapters = ("baseline", "profiling", "robustness", "guard")
    assert finished.plan() == arm_jobs("full_only", chapters=chapters)


def test_a_change_back_runs_nothing(finished):
    finished.edit("config.yaml", "every: 4", "every: 5")
    finished.edit("config.yaml", "every: 5", "every: 4")
    assert finished.plan() == set()


def test_an_unused_definition_runs_nothing(finished):
    finished.edit("config.yaml", "conditions:\n", "conditions:\n  agent_zero: {kind: zero, view: agent}\n")
    assert finished.plan() == set()


def test_a_new_arm_runs_itself_and_what_shows_it(finished):
    arm = "arms:\n  __only__: true\n  wrist_zero_all: {policy: pi0_nano, episodes: 2, condition: wrist_zero_all}\n"
    finished.edit("tests/workflow/configs/small.yaml", "arms:\n  __only__: true\n", arm)
    assert finished.plan() == arm_jobs("wrist_zero_all", chapters=("robustness", "guard"))


def test_more_smoke_episodes_do_not_rerun_the_shards_behind_the_gate(finished):
    with (finished.path / "config.yaml").open("a") as config:
        config.write("smoke: {episodes: 3}\n")
    smokes = {f"Smoke test of {policy}: episodes of task 0" for policy in ("pi0_nano", "pi0_nano_dropout")}
    assert finished.plan() == smokes | VERDICTS


def test_an_interrupted_run_still_renews_what_lies_behind(finished):
    """The shard ran with the new condition, then the run stopped: its parameters say nothing any more."""
    finished.edit("config.yaml", "std_min: 1.0", "std_min: 2.0")
    for task in (0, 1):
        finished.snakemake("--", f"results/rollouts/guard_wrist_zero_all/task_{task}/ledger.json")
    rollouts = {f"Rolling out guard_wrist_zero_all, task {task}" for task in (0, 1)}
    assert finished.plan() == arm_jobs("guard_wrist_zero_all", chapters=("guard",)) - rollouts


def test_a_retrained_local_policy_is_probed_again_with_all_that_follows(finished):
    finished.edit("resources/pi0_nano_dropout/draft.pt", "draft", "retrained")
    plan = finished.plan()
    assert arm_jobs("dropout_trained", chapters=("robustness", "guard")) <= plan
    assert "Probing the checkpoint candidates of pi0_nano_dropout" in plan
    assert not any("full_only" in job or job.endswith(" pi0_nano") for job in plan)


def test_a_notebook_renders_its_own_chapter_and_the_final_one(finished):
    path = finished.path / "notebooks/guard.ipynb"
    path.write_text(path.read_text() + "\n")
    assert finished.plan() == {"Rendering reports/guard.html", "Rendering reports/final.html"}


DIRECT = {
    # script: the message of one of its jobs
    "check_model_env.py": "Checking the model environment",
    "probe_checkpoints.py": "Probing the checkpoint candidates of pi0_nano",
    "convert_base.py": "Converting the base model of pi0_nano",
    "check_parity.py": "Comparing the artifact of pi0_nano with its source",
    "roll_out_shard.py": "Rolling out clean, task 0",
    "profile_routes.py": "Profiling the routes of pi0_nano, alone on the device",
    "merge_shards.py": "Merging the shards of clean",
    "summarize_arm.py": "Summarising clean",
    "evaluate_claims.py": "Evaluating the claims",
    "render_report.py": "Rendering reports/baseline.html",
}


@pytest.mark.parametrize(
    "module",
    ["checkpoints/probe.py", "rollouts/guards.py", "evidence/claims.py", "evidence/figures.py", "serving/server.py"],
)
def test_an_edited_module_reruns_the_stages_that_use_it(finished, module):
    """Compared with the imports themselves: a stage that reaches the module runs, and only what lies behind it."""
    users = users_of(finished, module)
    assert users and len(users) < len(DIRECT), users
    edit = finished.path / "src/flashtrail" / module
    edit.write_text(edit.read_text() + "\n# a change\n")
    reasons = directly_changed(finished.snakemake("-n", "--", "reports/final.html").stdout)
    assert {script for script, message in DIRECT.items() if message in reasons} == users


def users_of(checkout, module: str) -> set[str]:
    """Return the scripts of DIRECT that reach a module, by the import graph of this very checkout."""
    import flashtrail.provenance as provenance

    programs = {"roll_out_shard.py": ["src/flashtrail/__main__.py"]}
    wanted = provenance.PACKAGE_ROOT / module
    assert wanted.is_file(), f"{module} is gone: choose another module for this test"
    root = provenance.PACKAGE_ROOT.parents[1]
    return {
        script
        for script in DIRECT
        if wanted in module_closure([root / "scripts" / script, *(root / p for p in programs.get(script, []))])
    }


def directly_changed(output: str) -> set[str]:
    """Return the messages of the jobs whose own parameters changed, not only an input of theirs."""
    found, message = set(), ""
    for line in output.splitlines():
        if line.startswith("Job "):
            message = line.split(": ", 1)[-1]
        elif line.startswith("Reason:") and "Params have changed" in line:
            found.add(message)
    return found
