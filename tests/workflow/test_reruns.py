"""What a change runs again, on the real DAG with real metadata: what it invalidates, and nothing for a touch."""

from __future__ import annotations

import os
import time

import pytest
from workflow.checkouts import Checkout

from flashtrail.base import provenance

VERDICTS = {"Evaluating the claims", "Rendering reports/claims.html", "Rendering reports/final.html"}
VERDICTS |= {"Listing the episodes of all arms"}


def arm_jobs(*arms: str, chapters: tuple[str, ...]) -> set[str]:
    """Everything that a changed arm of the small experiment runs again."""
    jobs = {f"Rolling out {arm}, task {task}" for arm in arms for task in (0, 1)}
    verbs = ("Merging the shards of", "Summarising", "Writing the episodes of")
    jobs |= {f"{verb} {arm}" for arm in arms for verb in verbs}
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


def test_a_new_severity_of_a_grid_runs_its_own_arms_only(finished):
    small = "tests/workflow/configs/small.yaml"
    line = "grids:\n  dark: {policy: pi0_nano, episodes: 2, fault: zero, severity: {every: [2]}, guards: [none]}\n"
    finished.edit(small, "arms:\n", line + "arms:\n")
    assert finished.plan() == arm_jobs("dark_every2_none", chapters=("robustness", "guard"))
    finished.snakemake("--", "results/rollouts/dark_every2_none/task_0/ledger.json")
    finished.edit(small, "guards: [none]}", "guards: [none, oracle]}")
    plan = finished.plan()
    assert {f"Rolling out dark_every2_oracle, task {task}" for task in (0, 1)} <= plan
    assert "Rolling out dark_every2_none, task 0" not in plan
    assert not any("Rolling out" in job and "dark" not in job for job in plan)


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


# rule: its script, what one of its jobs says, the rules that read what it writes
RULES = {
    "locate_model_env": ("Locating the model environment", "boot_server smoke record_observations"),
    "check_model_env": ("Checking the model environment", "evaluate_claims render_final"),
    "check_libero_env": ("Checking the simulator environment", "evaluate_claims render_final"),
    "probe_checkpoints": ("Probing the checkpoint candidates of pi0_nano", "fetch_checkpoint evaluate_claims"),
    "fetch_checkpoint": ("Fetching the checkpoint of pi0_nano", "convert_base convert_draft check_parity"),
    "convert_base": ("Converting the base model of pi0_nano", "convert_draft check_parity boot_server smoke"),
    "convert_draft": ("Converting the draft head of pi0_nano", "check_parity boot_server smoke"),
    "check_parity": ("Comparing the artifact of pi0_nano with its source", "evaluate_claims"),
    "boot_server": ("Booting the server of pi0_nano", "evaluate_claims"),
    "smoke": ("Smoke test of pi0_nano: episodes of task 0", "roll_out_shard record_observations evaluate_claims"),
    "roll_out_shard": ("Rolling out clean, task 0", "merge_shards write_episode_pages render_chapter render_final"),
    "record_observations": ("Recording observations for profiling pi0_nano", "profile_routes"),
    "profile_routes": ("Profiling the routes of pi0_nano, alone on the device", "evaluate_claims render_chapter"),
    "merge_shards": ("Merging the shards of clean", "summarize_arm write_episode_pages index_episodes"),
    "summarize_arm": ("Summarising clean", "evaluate_claims render_chapter"),
    "evaluate_claims": ("Evaluating the claims", "render_final"),
    "write_episode_pages": ("Writing the episodes of clean", "render_chapter render_final"),
    "index_episodes": ("Listing the episodes of all arms", "render_final"),
    "render_chapter": ("Rendering reports/profiling.html", "render_final"),
    "render_final": ("Rendering reports/final.html", ""),
}
SCRIPTS = {"smoke": "roll_out_shard", "render_chapter": "render_report", "render_final": "render_report"}
STARTS_A_SERVER = {"boot_server", "smoke", "roll_out_shard", "record_observations"}
MODULES = {
    # module: some rules that must use it, some that must not
    "environment.py": ({"check_model_env", "check_libero_env"}, {"smoke", "roll_out_shard"}),
    "checkpoints/parity.py": ({"check_parity"}, {"convert_base", "roll_out_shard"}),
    "checkpoints/probe.py": ({"probe_checkpoints", "fetch_checkpoint"}, {"convert_base", "roll_out_shard"}),
    "serving/server.py": (STARTS_A_SERVER, {"convert_base", "merge_shards", "check_parity"}),
    "rollouts/guards.py": ({"smoke", "roll_out_shard"}, {"boot_server", "merge_shards"}),
    "tables/merge.py": ({"merge_shards"}, {"roll_out_shard", "evaluate_claims"}),
    "claims/claims.py": ({"evaluate_claims"}, {"merge_shards", "summarize_arm"}),
    "report/figures.py": ({"render_chapter", "render_final"}, {"evaluate_claims", "write_episode_pages"}),
    "report/layout.py": (
        {"render_chapter", "render_final", "write_episode_pages", "index_episodes"},
        {"evaluate_claims", "summarize_arm"},
    ),
    "base/provenance.py": (set(RULES), set()),
}


@pytest.mark.parametrize("module", MODULES)
def test_an_edited_module_reruns_exactly_the_stages_that_use_it(finished, module):
    """Held against the imports themselves: the rules that reach the module, what lies behind them, and no other."""
    users = users_of(finished, module)
    used, unused = MODULES[module]
    assert used <= users and not unused & users
    edit = finished.path / "src/flashtrail" / module
    edit.write_text(edit.read_text() + "\n# a change\n")
    plan = finished.plan()
    assert {rule for rule, (message, _) in RULES.items() if message in plan} == with_what_lies_behind(users)


def users_of(checkout: Checkout, module: str) -> set[str]:
    """Return the rules that reach a module: by their scripts, the server they start or the notebook they execute."""
    root = provenance.PACKAGE_ROOT.parents[1]
    wanted = provenance.PACKAGE_ROOT / module
    assert wanted.is_file(), f"{module} is gone: choose another module for this test"
    users = set()
    for rule in RULES:
        files = [root / "scripts" / f"{SCRIPTS.get(rule, rule)}.py"]
        files += [root / "src/flashtrail/__main__.py"] if rule in STARTS_A_SERVER else []
        files += [checkout.path / "notebooks/final.ipynb"] if rule.startswith("render_") else []
        users |= {rule} if wanted in provenance.module_closure(files) else set()
    return users


def with_what_lies_behind(rules: set[str]) -> set[str]:
    """Return the rules and every rule that reads what they write, directly or not."""
    found, todo = set(rules), list(rules)
    while todo:
        behind = set(RULES[todo.pop()][1].split()) - found
        found |= behind
        todo += behind
    return found


def test_the_checkups_seed_reruns_its_own_jobs_and_nothing_of_the_final_report(finished):
    report = "reports/checkup.html"
    finished.snakemake("--", report)
    assert finished.plan(report) == set()
    finished.edit("config.yaml", "seed: 11}", "seed: 12}")
    assert finished.plan() == set()
    jobs = {f"{verb} checkup" for verb in ("Merging the shards of", "Summarising", "Writing the episodes of")}
    assert finished.plan(report) == jobs | {
        "Rolling out checkup, task 0",
        "Judging the checkup",
        "Rendering reports/checkup.html",
    }
