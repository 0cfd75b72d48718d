"""A finished run changed: what a change runs again and what it leaves alone, on the real DAG with real metadata.

Missing and failed episodes stop the real merge by name. One file, so that one run of the small experiment serves all.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from workflow.checkouts import ROOT, SMALL, Checkout

from flashtrail.base import provenance
from flashtrail.record.snakemake_record import _REMOTE
from flashtrail.tables import schemas

VERDICTS = {"Evaluating the claims", "Rendering reports/claims.html", "Rendering reports/final.html"}
VERDICTS |= {"Listing the episodes of all arms"}


def arm_jobs(*arms: str, chapters: tuple[str, ...]) -> set[str]:
    """Everything that a changed arm of the small experiment runs again."""
    jobs = {f"Rolling out {arm}, task {task}" for arm in arms for task in (0, 1)}
    verbs = ("Merging the shards of", "Writing the episodes of")
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
    assert finished.plan() == arm_jobs("full_only", chapters=("baseline", "profiling", "guard"))


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
    "merge_shards": ("Merging the shards of clean", "write_episode_pages index_episodes evaluate_claims"),
    "evaluate_claims": ("Evaluating the claims", "render_final"),
    "write_episode_pages": ("Writing the episodes of clean", "render_chapter render_final"),
    "index_episodes": ("Listing the episodes of all arms", "render_final"),
    "render_chapter": ("Rendering reports/profiling.html", "render_final"),
    "render_final": ("Rendering reports/final.html", ""),
}
SCRIPTS = {"smoke": "roll_out_shard", "render_chapter": "render_report", "render_final": "render_report"}
SERVER = [f"src/flashtrail/{name}" for name in ("__main__.py", "serving/command.py", "policies/pi0/family.py")]
SHARD = [*SERVER, "src/flashtrail/simulators/libero/simulator.py"]  # and what an episode is played in
STARTS_A_SERVER = {"boot_server", "smoke", "roll_out_shard", "record_observations"}
MODULES = {
    # module: some rules that must use it, some that must not
    "environment.py": ({"check_model_env", "check_libero_env"}, {"smoke", "roll_out_shard"}),
    "checkpoints/parity.py": ({"check_parity"}, {"convert_base", "roll_out_shard"}),
    "checkpoints/probe.py": ({"probe_checkpoints", "fetch_checkpoint"}, {"convert_base", "roll_out_shard"}),
    "serving/server.py": (STARTS_A_SERVER, {"convert_base", "merge_shards", "check_parity"}),
    "simulators/libero/simulator.py": ({"smoke", "roll_out_shard", "check_libero_env"}, {"boot_server"}),
    "simulators/reach/simulator.py": (set(), set(RULES)),  # no suite of this experiment
    "simulators/robosuite_lift/simulator.py": (set(), set(RULES)),
    "rollouts/guards.py": ({"smoke", "roll_out_shard"}, {"boot_server", "merge_shards"}),
    "tables/merge.py": ({"merge_shards"}, {"roll_out_shard", "evaluate_claims"}),
    "claims/claims.py": ({"evaluate_claims"}, {"merge_shards"}),
    "report/figures.py": ({"render_chapter", "render_final"}, {"evaluate_claims", "write_episode_pages"}),
    "report/layout.py": (
        {"render_chapter", "render_final", "write_episode_pages", "index_episodes"},
        {"evaluate_claims", "merge_shards"},
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
        started = SERVER if rule == "boot_server" else SHARD if rule in STARTS_A_SERVER else []
        started = SHARD[-1:] if rule == "check_libero_env" else started
        files += [root / file for file in started]
        files += [checkout.path / "notebooks/final.ipynb"] if rule.startswith("render_") else []
        users |= {rule} if wanted in [*files, *provenance.module_closure(files)] else set()
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
    jobs = {f"{verb} checkup" for verb in ("Merging the shards of", "Writing the episodes of")}
    assert finished.plan(report) == jobs | {
        "Rolling out checkup, task 0",
        "Judging the checkup",
        "Rendering reports/checkup.html",
    }


# --- Snakemake's own report of the run: every output in it; the flags for it run nothing again ---

CATEGORIES = ("Reports", "Evidence", "Rollouts", "Profile")


def test_flags_and_captions_run_nothing_again(finished):
    """A run that was made without them (or with others) stays finished: what is recorded of a job has no flags."""
    finished.edit("rules/common.smk", "{name: report(file, labels={**labels,", "{name: (file, dict(labels={**labels,")
    finished.edit("rules/common.smk", '"file": name}, **kept) for name', '"file": name}, **kept))[0] for name')
    assert finished.plan() == set()
    (finished.path / "rules/captions/final.rst").write_text("Other words.\n")
    assert finished.plan() == set()


def test_the_report_holds_each_output_with_caption_and_category(finished):
    finished.snakemake("--report", "r.zip", "--", "reports/final.html")
    with zipfile.ZipFile(finished.path / "r.zip") as packed:
        page = next(packed.read(name).decode() for name in packed.namelist() if name.endswith("report.html"))
        held = {Path(name).name for name in packed.namelist()}
    assert not _REMOTE.search(page)
    captions = " ".join(page.replace("\\n", " ").split())  # within JSON
    for category in CATEGORIES:
        assert f'"{category}"' in page, category
    for name in ("shard", "merged", "claims", "observations", "profile", "episodes", "index", "chapter", "final"):
        words = (ROOT / "rules/captions" / f"{name}.rst").read_text(encoding="utf-8").split("{{")[0].split("*")[0]
        assert " ".join(words.split()) in captions, name
    assert {"claims.json", "final.html", "episodes.parquet", "ledger.json", "control.json"} <= held
    assert "arm <em>wrist_zero_every4</em>" in page  # a caption's own wildcards


# --- holes: the real merge on tables in place of the stand-ins' ---

TABLES = "results/tables/clean"


def episode(task: int, init_state: int, **changes: Any) -> dict[str, Any]:
    """One row of the small experiment's arm `clean`, without rounds."""
    row = dict.fromkeys(schemas.EPISODES.names)
    row |= {"run_id": "test", "policy": "pi0_nano", "arm": "clean", "suite": "libero_goal", "task_id": task}
    row |= {"task": "open it", "init_state": init_state, "repeat": 0, "seed": 7, "success": True, "steps": 0}
    row |= {"outcome": "success", "rounds": 0, "full_rounds": 0, "draft_rounds": 0, "executed_actions": 0}
    return row | {"wall_s": 1.0, "started_at": "2026-01-01T00:00:00Z"} | changes


PLANNED = f"""
import json
from flashtrail.base import provenance
from flashtrail.experiment import config, shard
arm = config.load("config.yaml", "{SMALL}").arm("clean")
code = provenance.code_digest("scripts/roll_out_shard.py", *{SHARD})
print(json.dumps({{"config_digest": shard.config_digest(arm), "code_digest": code, "artifact_digest": "b+d"}}))
"""


@pytest.fixture(scope="module")
def plan(finished_tree: Path) -> dict[str, str]:
    """Return the digests of the plan: what is below results/ is in none of them, nor the place of the checkout."""
    told = Checkout(finished_tree).run("python", "-c", PLANNED, environment={"PYTHONPATH": "src"}).stdout
    digests: dict[str, str] = json.loads(told)
    return digests


def write_shards(checkout: Checkout, plan: dict[str, str], rows: list[dict[str, Any]], **other: str) -> None:
    """Put real tables of the plan in place of the stand-ins' shards, and the real merge in place of its stand-in.

    `other`: metadata in which the second shard is not the plan's.
    """
    for kind in ("base", "draft"):
        manifest = checkout.path / f"results/artifacts/pi0_nano/{kind}/manifest.json"
        before = manifest.stat()
        manifest.write_text(json.dumps({"digest": kind[0]}))
        os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))  # not newer than what was made with it
    for task in (0, 1):
        shard = checkout.path / f"results/rollouts/clean/task_{task}"
        told = plan | (other if task == 1 else {})
        of_task = [row for row in rows if row["task_id"] == task]
        schemas.write_table(shard / "episodes.parquet", of_task, schemas.EPISODES, told)
        schemas.write_table(shard / "rounds.parquet", [], schemas.ROUNDS, told)
        schemas.write_table(shard / "steps.parquet", [], schemas.STEPS, told)
    shutil.copy2(ROOT / "scripts/merge_shards.py", checkout.path / "scripts/merge_shards.py")


ALL = [episode(task, init_state) for task in (0, 1) for init_state in (0, 1)]


def merge(checkout: Checkout) -> tuple[int, str]:
    result = checkout.snakemake("--", f"{TABLES}/episodes.parquet", check=False)
    return result.returncode, result.stdout


def test_whole_shards_are_merged(finished, plan):
    write_shards(finished, plan, ALL)
    code, output = merge(finished)
    assert code == 0, output
    assert schemas.read_table(finished.path / TABLES / "episodes.parquet", schemas.EPISODES).num_rows == 4


@pytest.mark.parametrize("digest", ["config_digest", "code_digest", "artifact_digest"])
def test_a_shard_of_another_plan_stops_the_merge_by_name(finished, plan, digest):
    """Whoever computed it: here somebody put it where the workflow looks."""
    write_shards(finished, plan, ALL, **{digest: "theirs"})
    code, output = merge(finished)
    assert code != 0
    refusal = f"clean/task_1/episodes.parquet is of another plan ({digest} theirs, planned "
    assert any(line.startswith("error: clean:") and refusal in line for line in output.splitlines()), output[-1500:]
    assert not list((finished.path / TABLES).glob("*.parquet"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ALL[:2] + ALL[3:], "1 episode is missing: task 1 init 0 repeat 0 of 4"),
        (ALL[:3], "1 episode is missing: task 1 init 1 repeat 0 of 4"),
        ([*ALL, ALL[0]], "duplicated: task 0 init 0 repeat 0"),
        (
            [*ALL[:3], episode(1, 1, outcome="error", success=False, error="server gone")],
            "ended by infrastructure, not by the policy: task 1 init 1 repeat 0 (server gone)",
        ),
    ],
    ids=["hole", "end", "double", "error"],
)
def test_what_is_missing_stops_the_merge_by_name(finished, plan, rows, words):
    write_shards(finished, plan, rows)
    code, output = merge(finished)
    log = Path(finished.path / "results/logs/merge_shards/clean.log").read_text()
    assert code != 0
    for text in (output, log):
        assert any(line.startswith("error: clean:") and words in line for line in text.splitlines()), text[-1500:]
    assert "Traceback" not in log
    assert not list((finished.path / TABLES).glob("*.parquet"))
