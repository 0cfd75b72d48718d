"""What is planned: the experiment of each profile, job by job, and a refusal in one line of what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from workflow.checkouts import ROOT, Checkout, copy_checkout, counts, planned

from flashtrail.experiment import config

REPORT = "reports/final.html"
GOLDEN = ROOT / "tests/datasets/golden"  # a LeRobot set
ONCE = ["check_model_env", "check_libero_env", "record_observations", "profile_routes", "evaluate_claims"]
ONCE += ["locate_model_env", "index_episodes", "render_final"]
PER_POLICY = ["probe_checkpoints", "fetch_checkpoint", "convert_base", "convert_draft", "check_parity"]
PER_POLICY += ["boot_server", "smoke"]
PER_ARM = ("merge_shards", "write_episode_pages")


@pytest.fixture(scope="module")
def local_plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a dry run of the report says with the local profile in a fresh checkout."""
    checkout = copy_checkout(tmp_path_factory.mktemp("local") / "checkout")
    return checkout.run("snakemake", "--profile", "profiles/local", "-n", REPORT).stdout


def expected_jobs(policies: int, arms: int, tasks: int, chapters: int = 6) -> dict[str, int]:
    jobs = dict.fromkeys(ONCE, 1) | dict.fromkeys(PER_POLICY, policies) | dict.fromkeys(PER_ARM, arms)
    return jobs | {"roll_out_shard": arms * tasks, "render_chapter": chapters}


def test_the_literal_command_plans_pi0_libero_without_conda_and_network(checkout):
    """`snakemake --profile runpod-l40s -n reports/final.html`, as the README has it."""
    result = checkout.run("unshare", "--net", "true", check=False)
    offline = ["unshare", "--net"] if result.returncode == 0 else []
    output = checkout.run(*offline, "snakemake", "--profile", "runpod-l40s", "-n", REPORT).stdout
    assert counts(output) == expected_jobs(policies=1, arms=6, tasks=3, chapters=5) | {"check_kernels": 1}
    assert "Rolling out clean, task 2" in output and "pi0_nano" not in output
    assert "Reason:" not in output  # each lists every file of the job's input: 200 lines' worth on a full report
    reasons = checkout.run(*offline, "snakemake", "--profile", "runpod-l40s", "--quiet", "host", "-n", REPORT).stdout
    assert reasons.count("Reason:") == sum(counts(output).values())


def test_kernels_are_examined_only_on_a_gpu_that_leaves_the_backend_open(checkout):
    """By name they are taken unexamined, on a CPU there is nothing to examine; whoever serves waits for the verdict."""
    plan = ["snakemake", "--profile", "runpod-l40s", "-n", "--", "results/smoke/pi0_libero/boot.json"]
    before = checkout.run(*plan).stdout
    assert counts(before)["check_kernels"] == 1
    assert before.index("Examining the kernels of pi0_libero") < before.index("Booting the server of pi0_libero")
    on_a_cpu = ["snakemake", "--profile", "profiles/local", "-n", "--", "results/smoke/pi0_nano/boot.json"]
    assert "check_kernels" not in counts(checkout.run(*on_a_cpu).stdout)
    checkout.edit("profiles/runpod-l40s/overlay.yaml", "device: cuda", "backend: triton\n    device: cuda")
    assert "check_kernels" not in counts(checkout.run(*plan).stdout)


def test_the_l40s_experiment_has_the_episodes_of_the_reproduction():
    experiment = config.load(ROOT / "config.yaml", ROOT / "profiles/runpod-l40s/overlay.yaml")
    assert {name: arm.episodes for name, arm in experiment.arms.items()} == {
        "clean": 10,
        "full_only": 10,
        "wrist_zero_every4": 5,
        "wrist_zero_all": 5,
        "guard_wrist_zero_every4": 5,
        "guard_wrist_zero_all": 3,
    }
    assert (experiment.suite, experiment.task_ids, experiment.seed) == ("libero_goal", [0, 1, 2], 7)
    assert experiment.profile.episodes == 3 and experiment.used_policies == ["pi0_libero"]
    policy = experiment.policies["pi0_libero"]
    assert policy.device == "cuda" and policy.candidates[0] == "gs://openpi-assets/checkpoints/pi0_libero"


def test_only_the_gpu_profiles_deploy_conda():
    with_conda = {p.parent.name for p in ROOT.glob("profiles/*/profile.yaml") if "conda" in p.read_text()}
    assert with_conda == {"runpod-l40s", "slurm"}
    assert (ROOT / "runpod-l40s").is_symlink() and (ROOT / "runpod-l40s").readlink() == Path("profiles/runpod-l40s")


def test_the_local_profile_plans_seven_arms_of_two_policies_and_six_under_a_running_clock(local_plan):
    assert counts(local_plan) == expected_jobs(policies=2, arms=7 + 6, tasks=3)


def test_the_ci_profile_plans_one_task_and_three_arms(checkout):
    output = checkout.run("snakemake", "--profile", "profiles/ci", "-n", REPORT).stdout
    assert counts(output) == expected_jobs(policies=1, arms=3, tasks=1, chapters=5)  # no arm under a running clock


def test_the_checkup_is_planned_by_itself_and_the_final_report_knows_nothing_of_it(checkout, local_plan):
    command = ("snakemake", "--profile", "profiles/local", "-n", "--")
    output = checkout.run(*command, "reports/checkup.html").stdout
    before = ["locate_model_env", "probe_checkpoints", "fetch_checkpoint", "convert_base", "convert_draft", "smoke"]
    own = ["roll_out_shard", *PER_ARM, "judge_checkup", "render_checkup"]
    assert counts(output) == dict.fromkeys([*before, *own], 1)
    assert "Rolling out checkup, task 0" in output
    assert "checkup" not in local_plan.split("Job stats:", 2)[1]


def test_without_a_checkup_in_the_config_its_report_is_refused_in_words(checkout):
    checkout.edit("config.yaml", "checkup: {", "# checkup: {")
    command = ["snakemake", "--profile", "profiles/local", "-n", "--", "reports/checkup.html"]
    result = checkout.run(*command, check=False)
    assert result.returncode != 0 and "Job stats" not in result.stdout and "Traceback" not in result.stdout
    assert "error: config: checkup is missing: add checkup: {policy: ...} to config.yaml" in result.stdout
    assert counts(checkout.run(*command[:-1], REPORT).stdout)["roll_out_shard"] == 13 * 3


def test_without_drills_in_the_config_their_report_is_refused_in_words(checkout):
    text = (ROOT / "config.yaml").read_text()
    checkout.edit("config.yaml", text[text.index("drills:\n") : text.index("profile: ")], "")
    result = checkout.run("snakemake", "--profile", "profiles/local", "-n", "--", "reports/drills.html", check=False)
    assert result.returncode != 0 and "Job stats" not in result.stdout and "Traceback" not in result.stdout
    assert "error: config: drills is missing: add drills: {policy: ...} to config.yaml" in result.stdout


GRID = "wrist_grid: {policy: pi0_nano, episodes: 2, fault: zero, severity: {every: [2, 4]}, guards: [none, wrist_mask]}"


def test_a_grid_line_plans_its_arms_in_every_stage_and_changes_no_other(checkout):
    line = f"grids={{{GRID}}}"
    output = checkout.run("snakemake", "--profile", "profiles/local", "-n", "--config", line, "--", REPORT).stdout
    assert counts(output) == expected_jobs(policies=2, arms=7 + 6 + 4, tasks=3)
    assert "Rolling out wrist_grid_every4_wrist_mask, task 2" in output
    assert "Merging the shards of wrist_grid_every2_none" in output


LIFT = """
policies: {still: {artifact: resources/still}}
arms: {lifted: {policy: still, suite: robosuite_lift, tasks: "0,7"}}
"""


def test_one_config_plans_arms_of_two_suites(checkout):
    """Each with its own tasks, simulator and smoke test; a change of Lift's simulator runs nothing of LIBERO again."""
    shutil.copytree(ROOT / "resources/still", checkout.path / "resources/still")
    (checkout.path / "lift.yaml").write_text(LIFT)
    plan = ["snakemake", "--profile", "profiles/local", "--configfile", "profiles/local/overlay.yaml", "lift.yaml"]
    output = checkout.run(*plan, "-n", REPORT).stdout
    jobs = expected_jobs(policies=2, arms=7 + 6, tasks=3)
    more = {"take_artifact": 1, "boot_server": 1, "smoke": 1, "roll_out_shard": 2, **dict.fromkeys(PER_ARM, 1)}
    assert counts(output) == {name: jobs.get(name, 0) + more.get(name, 0) for name in {*jobs, *more}}
    assert "Rolling out lifted, task 7" in output and "Rolling out lifted, task 1" not in output
    assert "Smoke test of still: episodes of task 0" in output


ODD = """
conditions: {"wrist / zero": {kind: zero, view: wrist}}
guards: {"keep {it}": {kind: wrist_health}}
arms:
  "a/b c": {policy: pi0_nano, episodes: 1, condition: "wrist / zero"}
  "../Zü|{x}": {policy: pi0_nano, episodes: 1, condition: "wrist / zero", guard: "keep {it}"}
"""


def test_arms_of_any_name_are_planned_in_every_stage_as_names_of_files(checkout):
    (checkout.path / "odd.yaml").write_text(ODD)
    overlays = ["--configfile", "profiles/ci/overlay.yaml", "odd.yaml", "--quiet", "host"]
    output = checkout.run("snakemake", "--profile", "profiles/ci", *overlays, "-n", "--", REPORT).stdout
    assert counts(output) == expected_jobs(policies=1, arms=3 + 2, tasks=1, chapters=5)
    assert "Rolling out a=2Fb=20c, task 0" in output and "reports/episodes/a=2Fb=20c/index.html" in output
    assert "results/tables/=2E.=2FZ=C3=BC=7C=7Bx=7D/rounds.parquet" in output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: 7\nseed: 8\n", "error: config.yaml is not valid YAML (line 2): duplicate key 'seed'"),
        ("# \u00e9t\u00e9\n".encode("latin-1"), "error: config.yaml:1: byte 0xe9 is not UTF-8"),
        (b"- a\n", "error: config.yaml holds a list at its top"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_line_before_snakemake_reads_it(checkout, content, words):
    (checkout.path / "config.yaml").write_bytes(content)
    result = checkout.run("snakemake", "--cores", "1", "-n", check=False)
    assert result.returncode != 0 and words in result.stdout and "Traceback" not in result.stdout


SWEEP = "later: {policy: pi0_nano, episodes: 2, constant_ms: [0, 58], hz: [20, 100]}"
REPLAY = (
    "replayed: {policy: pi0_nano, episodes: 2, "
    "clock: {kind: running, source: {replay: results/tables/clean/rounds.parquet}}}"
)


def test_a_sweep_and_a_replay_of_another_arm_are_planned_like_any_arm(checkout):
    settings = [f"sweeps={{{SWEEP}}}", f"arms={{{REPLAY}}}"]
    command = ["snakemake", "--profile", "profiles/local", "-n", "--config", *settings, "--", REPORT]
    output = checkout.run(*command).stdout
    assert counts(output) == expected_jobs(policies=2, arms=7 + 6 + 4 + 1, tasks=3)
    assert "Rolling out later_58ms_100hz, task 2" in output
    assert output.index("Merging the shards of clean") < output.index("Rolling out replayed, task 0")


DRILLS = [f"results/tables/drill_{name}/steps.parquet" for name in ("reference", "clean", "bad_unnorm", "long_chunk")]
STEP_LOG = "results/rollouts/drill_no_flip/task_1/steps.jsonl"


def test_drills_are_planned_by_the_ordinary_rules_and_only_where_they_are_asked_for(checkout, local_plan):
    output = checkout.run("snakemake", "--profile", "profiles/local", "-n", "--", *DRILLS, STEP_LOG).stdout
    jobs = counts(output)
    assert (jobs["roll_out_shard"], jobs["merge_shards"], jobs["write_step_log"]) == (4 * 3 + 1, 4, 1)
    assert "Rolling out drill_bad_unnorm, task 2" in output and "Writing the step log of drill_no_flip" in output
    assert not {"record_observations", "evaluate_claims", "render_final"} & set(jobs)
    assert not [job for job in planned(local_plan) if "drill" in job]


def test_the_page_of_drills_asks_for_the_reference_every_drill_their_logs_and_their_episodes(checkout):
    output = checkout.run("snakemake", "--profile", "profiles/local", "-n", "--", "reports/drills.html").stdout
    jobs = counts(output)
    once = ("derive_bounds", "diagnose_drills", "index_drill_episodes", "render_drills")
    assert {rule: jobs[rule] for rule in once} == dict.fromkeys(once, 1)
    # Ten drills and the clean run are shown; the reference is merged for its bounds and has no pages.
    assert (jobs["merge_shards"], jobs["write_episode_pages"], jobs["write_step_log"]) == (12, 11, 11 * 3)
    assert not {"evaluate_claims", "render_final", "index_episodes"} & set(jobs)


def test_a_policy_is_asked_what_it_looks_at_only_where_the_config_or_a_target_says_so(checkout, local_plan):
    target = "results/measured/sensitivity_pi0_nano.json"
    output = checkout.run("snakemake", "--profile", "profiles/local", "-n", "--", target).stdout
    assert {rule: counts(output)[rule] for rule in ("check_sensitivity", "record_observations")} == dict.fromkeys(
        ("check_sensitivity", "record_observations"), 1
    )
    assert "profile_routes" not in counts(output) and "check_sensitivity" not in counts(local_plan)


def test_other_statistics_run_their_own_drill_again(checkout):
    """The file is an input of the shards that unnormalise by it, and of no other."""
    command = ["snakemake", "--profile", "profiles/local", "-n", "--forcerun", "convert_base", "--", *DRILLS]
    (checkout.path / "resources/drills/bridge_like.json").unlink()
    refused = checkout.run(*command, check=False)
    assert refused.returncode and "Missing input files for rule roll_out_shard" in refused.stdout
    others = [file for file in DRILLS if "bad_unnorm" not in file]
    assert counts(checkout.run(*command[: -len(DRILLS)], *others).stdout)["roll_out_shard"] == 9


def test_a_substrate_is_measured_only_where_the_config_lists_it(checkout, local_plan):
    assert not [job for job in planned(local_plan) if "Measuring" in job]
    plan = ["snakemake", "--profile", "profiles/local", "-n", "--config", "measured={substrate: [digits, moving]}"]
    made = [f"results/measured/{name}.json" for name in ("digits", "moving")]
    assert counts(checkout.run(*plan, "--", *made).stdout) == {"measure_substrate": 2}
    refused = checkout.run(*plan, "--", "results/measured/volumes.json", check=False)
    assert refused.returncode and "error: config: measured.substrate lacks volumes" in refused.stdout


def test_a_set_of_demonstrations_is_summarised_where_the_config_names_it_and_again_when_it_changes(
    checkout, local_plan
):
    assert "summarise_dataset" not in counts(local_plan)
    root = Path(shutil.copytree(GOLDEN, checkout.path / "sets/so101"))
    command = ["snakemake", "--profile", "profiles/local", "--config", "datasets={so101: {path: sets/so101}}"]
    assert counts(checkout.run(*command, "-n", "--", REPORT).stdout)["summarise_dataset"] == 1
    target = "results/datasets/so101.json"
    checkout.run(*command, "--", target)
    about = json.loads((checkout.path / target).read_text())
    assert (about["episodes"], about["steps"], about["refused"]) == (3, 30, [])
    assert (checkout.path / "results/datasets/so101.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert "Nothing to be done" in checkout.run(*command, "-n", "--", target).stdout
    (root / "meta/link").symlink_to("n" * 300)  # one that cannot be asked: no file, and no traceback
    assert "Nothing to be done" in checkout.run(*command, "-n", "--", target).stdout
    (root / "meta/note.txt").write_text("another file")
    assert counts(checkout.run(*command, "-n", "--", target).stdout) == {"summarise_dataset": 1}
    shutil.rmtree(root)
    refused = checkout.run(*command, "-n", "--", REPORT, check=False)
    assert refused.returncode and "error: datasets.so101.path: sets/so101 is not a directory" in refused.stdout


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sead=3", "error: config: unknown key 'sead'; did you mean 'seed'?"),
        ("tasks=0-12", "error: config: tasks: task 12 is out of range 0-9 of libero_goal"),
        (
            "arms={clean: {policy: pi0_nano, epsiodes: 3}}",
            "key 'arms.clean.epsiodes'; did you mean 'episodes'?",
        ),
    ],
)
def test_a_wrong_config_is_one_line_and_nothing_is_planned(checkout, setting, words):
    command = ["snakemake", "--profile", "profiles/local", "-n", "--config", setting, "--", REPORT]
    result = checkout.run(*command, check=False)
    assert result.returncode != 0
    errors = [line for line in result.stdout.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and words in errors[0]
    assert "Traceback" not in result.stdout and "Job stats" not in result.stdout
    assert not (checkout.path / "results").exists()


def test_every_rule_has_its_contract():
    """log, benchmark, conda, message and a docstring, in the house order; each file opens with what it needs."""
    order = ("input", "output", "log", "benchmark", "params", "threads", "resources", "conda", "message", "script")
    for path in sorted(ROOT.glob("rules/*.smk")):
        text = path.read_text()
        if path.name == "common.smk":
            continue
        assert "# REQUIRED INPUTS" in text and "# OUTPUTS" in text, path.name
        for block in text.split("\nrule ")[1:]:
            name = block.split(":")[0]
            assert '"""' in block.splitlines()[1], f"{name} has no docstring"
            keys = [key for key in re.findall(r"^    (\w+):", block, re.M) if key in order]
            assert keys == [key for key in order if key in keys], f"{name}: {keys}"
            asked = {"output", "log", "benchmark", "params", "threads", "conda", "message", "script"}
            asked -= {"benchmark"} if name in ("profile_routes", "profile_scaling") else set()
            assert asked <= set(keys), name


def test_the_snakefile_has_no_logic():
    lines = (ROOT / "Snakefile").read_text().splitlines()
    assert len(lines) <= 80
    assert not [line for line in lines if line.lstrip().startswith(("def ", "if ", "for ", "lambda"))]


def test_scripts_are_thin():
    long = {p.name: n for p in ROOT.glob("scripts/*.py") if (n := len(p.read_text().splitlines())) > 60}
    assert set(long) <= {"setup_env.py"}


def test_a_checkout_with_a_space_in_its_path_plans(checkout, tmp_path):
    moved = Path(str(tmp_path / "my checkout"))
    checkout.path.rename(moved)
    assert "Job stats" in Checkout(moved).run("snakemake", "--profile", "profiles/local", "-n", REPORT).stdout
