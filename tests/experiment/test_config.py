"""The experiment file: what is refused, in which words, and which slice a job sees."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from flashtrail.base.errors import UserError
from flashtrail.experiment import conditions, config, guards, suites

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data() -> dict[str, Any]:
    """config.yaml without its arms under a running clock."""
    text = yaml.safe_load((ROOT / "config.yaml").read_text())
    text["arms"] = {name: arm for name, arm in text["arms"].items() if "clock" not in arm}
    return {**text, "sweeps": {}}


def test_the_arms_under_a_running_clock_of_the_shipped_config():
    experiment = config.parse(yaml.safe_load((ROOT / "config.yaml").read_text()))
    late = [f"late_{ms}ms_20hz" for ms in (0, 100, 300, 600)]
    assert experiment.running_arms == ["running_torch_100hz", "running_flash_100hz", *late]


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(data)
    place = result
    *parents, last = path.split("/")
    for key in parents:
        place = place[key]
    place[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("sead", 1, "unknown key 'sead'; did you mean 'seed'?"),
        ("arms/clean/epsiodes", 3, "unknown key 'arms.clean.epsiodes'; did you mean 'episodes'?"),
        ("flash/tau_radus", 1, "did you mean 'tau_radius'?"),
        ("policies/pi0_nano/artifact", "a", "policies.pi0_nano: artifact and candidates, draft, tokenizer exclude"),
        ("arms/full_only/flash", {"t_list": [2.0]}, "arms.full_only.flash: t_list [2.0] must be"),
        ("policies/pi0_nano", 3, "policies.pi0_nano: expected a mapping, not a number"),
        ("flash/t_list", [], "flash.t_list: is empty"),
        ("arms/clean/server", "http://x", "arms.clean.server: 'http://x' does not have the form ^wss?://"),
        ("policies/pi0_nano/candidates", [], "policies.pi0_nano: give candidates and tokenizer"),
        ("arms/clean/guard", "wrist_helth", "did you mean 'wrist_health'?"),
        ("arms/clean/condition", "wrist_zero_every3", "did you mean 'wrist_zero_every4'?"),
        ("arms/clean/policy", "pi0_nan", "did you mean 'pi0_nano'?"),
        (
            "arms/full_only/flash",
            {"force_full_each_rond": True},
            "unknown key 'arms.full_only.flash.force_full_each_rond'; did you mean 'force_full_each_round'?",
        ),
        ("datasets", {"demos": {"pth": "x"}}, "unknown key 'datasets.demos.pth'; did you mean 'path'?"),
        ("datasets", {"demos": {"path": ""}}, "datasets.demos.path"),
        ("measured", {"substrate": ["digit"]}, "measured.substrate.0: unknown value 'digit'; did you mean 'digits'?"),
        (
            "measured",
            {"sensitivity": ["pi0_nano"]},
            "needs two starts of a task (an interval five): profile.episodes: 5",
        ),
        ("measured", {"sensitivity": ["pi0"]}, "measured.sensitivity: unknown name 'pi0'"),
        ("measured", {"given": ["a/x.json", "b/x.json"]}, "given: two measurements have one name"),
        ("tasks", "0-12", "task 12 is out of range 0-9 of libero_goal"),
        ("tasks", "3-1", "runs backwards"),
        ("tasks", "a", "neither a task id nor a range"),
        ("arms/clean/episodes", 60, "init state 59 is out of range 0-49"),
        (
            "conditions/wrist_zero_every4/view",
            {},
            "conditions.wrist_zero_every4.view: unknown value {}; known: agent, ",
        ),
        ("conditions/wrist_zero_every4/phase", 4, "phase 4 is never reached with every 4"),
        ("conditions/wrist_zero_every4", {"kind": "zeroes"}, "unknown kind 'zeroes'; did you mean 'zero'?"),
        (
            "conditions/wrist_zero_every4",
            {"kind": "zero", "evry": 4},
            "unknown key 'conditions.wrist_zero_every4.evry'",
        ),
        ("conditions/wrist_zero_every4", [{"kind": "noise"}], "conditions.wrist_zero_every4.0.sigma: is missing"),
        ("guards/wrist_health/max_ag", 4, "unknown key 'guards.wrist_health.max_ag'; did you mean 'max_age'?"),
        ("smoke", {"task": 5}, "smoke.task: 5 is not among tasks"),
        ("policies/pi0_nano/device", "gpu", "policies.pi0_nano.device"),
        ("checkup/episods", 3, "unknown key 'checkup.episods'; did you mean 'episodes'?"),
        ("checkup/policy", "pi0_nan", "checkup.policy: unknown name 'pi0_nan'; did you mean 'pi0_nano'?"),
        ("checkup/task", 10, "checkup.task: task 10 is out of range 0-9"),
        ("checkup/first_init_state", 1, "checkup.episodes: init state 50 is out of range 0-49"),
        ("checkup/flash", {"tau_radus": 1}, "unknown key 'checkup.flash.tau_radus'; did you mean 'tau_radius'?"),
        ("arms/checkup", {"policy": "pi0_nano"}, "arms.checkup: this name is reserved for the checkup's arm"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_remedy(data, path, value, words):
    with pytest.raises(UserError) as caught:
        config.parse(changed(data, path, value))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_task_specs():
    assert suites.parse_tasks("0,2,5-7", "libero_goal") == [0, 2, 5, 6, 7]
    assert suites.parse_tasks(" 3 ", "libero_goal") == [3]
    assert suites.parse_tasks("80-89", "libero_90")[-1] == 89


def test_one_condition_changes_the_slice_of_its_arms_only(data):
    before = config.parse(data)
    after = config.parse(changed(data, "conditions/wrist_zero_every4/every", 5))
    differing = {name for name in before.arms if before.arm(name) != after.arm(name)}
    users = {name for name, arm in before.arms.items() if arm.condition == "wrist_zero_every4"}
    assert differing == users and len(users) == 3


def test_an_arm_changes_only_the_flash_settings_it_names(data):
    experiment = config.parse(data)
    clean, full = experiment.arm("clean")["flash"], experiment.arm("full_only")["flash"]
    assert {k for k in clean if clean[k] != full[k]} == {"force_full_each_round"}


def test_the_checkup_is_an_arm_of_its_own_task_and_seed_beside_those_of_the_final_report(data):
    experiment, without = config.parse(data), config.parse({k: v for k, v in data.items() if k != "checkup"})
    arm = experiment.arm("checkup")
    assert (arm["init_states"], arm["seed"], arm["condition"]["kind"]) == (list(range(50)), 11, "none")
    assert experiment.tasks_of("checkup") == [0] and experiment.tasks_of("clean") == [0, 1, 2]
    assert "checkup" not in experiment.arms and list(experiment.all_arms)[-1] == "checkup"
    assert {n: without.arm(n) for n in without.arms} == {n: experiment.arm(n) for n in experiment.arms}
    changed_seed = config.parse(changed(data, "checkup/seed", None)).arm("checkup")
    assert changed_seed["seed"] == experiment.seed and arm | {"seed": 7} == changed_seed
    with pytest.raises(ValueError, match="arm: unknown name 'checkup'"):
        without.arm("checkup")


def test_overlay_merges_and_only_replaces():
    base = {"arms": {"a": {"episodes": 1, "policy": "x"}, "b": {}}, "seed": 7}
    assert config.merge(base, {"arms": {"a": {"episodes": 2}}}) == {
        "arms": {"a": {"episodes": 2, "policy": "x"}, "b": {}},
        "seed": 7,
    }
    assert config.merge(base, {"arms": {"__only__": True, "a": {}}})["arms"] == {"a": {}}


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        config.load(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(UserError, match=r"broken\.yaml is not valid YAML"):
        config.load(broken)


def test_the_defaults_of_flash_are_the_official_command_line():
    flash = config.Flash()
    assert (flash.tau_radius, flash.t_list, flash.max_exec_steps) == (0.3, (0.10, 0.05), 12)
    assert flash.periodic_full_every_n_draft_rounds == 0 and flash.full_fallback


def test_every_key_is_described_in_the_schema():
    definitions = config.schema()["$defs"]
    assert {"Arm", "Flash", "Policy", "Zero", "WristHealth", "Running", "Replay"} <= set(definitions)
    assert all(not d.get("additionalProperties", True) for d in definitions.values())
    for kind in (*conditions.KINDS, *(guard.model_fields["kind"].default for guard in get_args(guards._Any))):
        own = [d for d in definitions.values() if d["properties"].get("kind", {}).get("const") == kind]
        assert own
        assert all(p.get("description") for d in own for name, p in d["properties"].items() if name != "kind")


def test_the_schema_for_editors_is_that_of_the_code_and_takes_what_the_code_takes():
    """Written by ``python -m flashtrail.experiment.config > resources/config.schema.json``."""
    written = json.loads((ROOT / "resources/config.schema.json").read_text())
    assert written == config.schema()
    first, *_ = (ROOT / "config.yaml").read_text().splitlines()
    assert first == "# yaml-language-server: $schema=resources/config.schema.json"
    validator = jsonschema.Draft202012Validator(written)
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text())
    more = {"x": [{"kind": "zero"}, {"kind": "swap"}], "y": {"kind": "bursts", "probability": 0.5}}
    taken = config.merge(shipped, {"tasks": 2, "smoke": {"task": 2}, "conditions": more, "grids": {"wrist_grid": GRID}})
    assert config.parse(taken) and not list(validator.iter_errors(taken))
    for path, value in (
        ("sead", 1),
        ("arms/clean/epsiodes", 3),
        ("arms/clean/flash", {"tau_radus": 1}),
        ("conditions/x", {"kind": "zeroes"}),
        ("policies/x", {"device": "cpu"}),
        ("guards/none", {"kind": "wrist_health", "max_agee": 3}),
        ("arms/clean/clock", {"kind": "running", "source": {"constant": 3}}),
    ):
        assert list(validator.iter_errors(changed(taken, path, value))), path


GRID = {
    "policy": "pi0_nano",
    "episodes": 5,
    "fault": "zero",
    "view": "wrist",
    "severity": {"every": [2, 4, 8]},
    "guards": ["none", "wrist_health", "wrist_mask"],
}


def test_one_line_is_a_grid_of_arms(data):
    experiment = config.parse({**data, "grids": {"wrist_grid": GRID}})
    names = [name for name in experiment.arms if name not in data["arms"]]
    assert names == [
        f"wrist_grid_every{every}_{guard}" for every in (2, 4, 8) for guard in ("none", "wrist_health", "wrist_mask")
    ]
    arm = experiment.arm("wrist_grid_every4_wrist_mask")
    assert arm["condition"]["kind"] == "zero" and arm["condition"]["every"] == 4 and arm["condition"]["view"] == "wrist"
    assert arm["guard"]["name"] == "wrist_mask" and arm["init_states"] == list(range(5))
    assert list(experiment.grid_cells()) == names and experiment.grid_cells(["clean"]) == {}
    assert experiment.grid_cells()["wrist_grid_every4_wrist_mask"]["severity"] == 4
    assert {name: experiment.arm(name) for name in data["arms"]} == {
        name: config.parse(data).arm(name) for name in data["arms"]
    }


def test_a_changed_grid_changes_only_the_arms_that_it_says(data):
    def arms(grid):
        experiment = config.parse({**data, "grids": {"wrist_grid": grid}})
        return {name: experiment.arm(name) for name in experiment.arms}

    before = arms(GRID)
    longer = arms({**GRID, "severity": {"every": [2, 3, 4, 8]}, "guards": [*GRID["guards"], "oracle"]})
    assert {name: longer[name] for name in before} == before and len(longer) == len(before) - 9 + 16
    other = arms({**GRID, "severity": {"every": [2, 4, 9]}})
    assert {name for name in other if before.get(name) != other[name]} == {
        f"wrist_grid_every9_{guard}" for guard in GRID["guards"]
    }


def test_a_grid_may_stand_alone_and_takes_other_faults(data):
    grid = {"policy": "pi0_nano", "fault": "noise", "severity": {"sigma": [2.5, 40]}, "parameters": {"every": 2}}
    experiment = config.parse({**data, "arms": {}, "grids": {"noise": grid}})
    assert list(experiment.arms) == ["noise_sigma2p5_none", "noise_sigma40_none"]
    assert experiment.arm("noise_sigma2p5_none")["condition"] | {"name": ""} == conditions.read(
        {"kind": "noise", "sigma": 2.5, "every": 2}
    ).called("")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("fault", "zeros", "grids.wrist_grid.fault: unknown name 'zeros'; did you mean 'zero'?"),
        (
            "guards",
            ["wrist_helth"],
            "grids.wrist_grid.guards: unknown name 'wrist_helth'; did you mean 'wrist_health'?",
        ),
        ("guards", ["none", "none"], "grids.wrist_grid.guards: give at least one, each once"),
        ("severity", {"every": [2], "phase": [0]}, "grids.wrist_grid.severity: give one parameter"),
        ("severity", {"evry": [2]}, "unknown key 'conditions.wrist_grid_evry2.evry'; did you mean 'every'?"),
        ("severity", {"every": [0]}, "conditions.wrist_grid_every0.every: must be at least 1, not 0"),
        ("episods", 3, "unknown key 'grids.wrist_grid.episods'; did you mean 'episodes'?"),
        ("policy", "pi0_nan", "grids.wrist_grid.policy: unknown name 'pi0_nan'; did you mean 'pi0_nano'?"),
    ],
)
def test_a_mistake_in_a_grid_is_one_line(data, key, value, words):
    with pytest.raises(UserError) as caught:
        config.parse({**data, "grids": {"wrist_grid": {**GRID, key: value}}})
    assert words in str(caught.value)


def test_a_grid_does_not_take_the_name_of_an_arm(data):
    arms = data["arms"] | {"wrist_grid_every4_none": data["arms"]["clean"]}
    with pytest.raises(UserError, match="arm 'wrist_grid_every4_none' has the same name as another arm"):
        config.parse({**data, "arms": arms, "grids": {"wrist_grid": GRID}})


def test_the_grid_in_the_shipped_comment_is_a_grid(data):
    """config.yaml shows one, commented out: with the mark removed it must be accepted as it stands."""
    lines = (ROOT / "config.yaml").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("# grids:"))
    shown = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[first : first + 3]))
    experiment = config.parse({**data, **shown})
    assert len(experiment.grid_cells()) == 9


FULL_ONLY = {"force_full_each_round": True}
FLASH_L40S = "reproduction/FLASH+Triton"


def with_clock(data, clock, **more):
    return config.parse(changed(data, "arms/late", {"policy": "pi0_nano", "clock": clock, **more}))


def test_the_clock_is_paused_unless_an_arm_says_otherwise(data):
    experiment = config.parse(data)
    assert experiment.arm("clean")["clock"] == "paused" and experiment.running_arms == []
    experiment = with_clock(data, {"kind": "running", "source": {"constant_ms": 58}})
    assert experiment.running_arms == ["late"] and experiment.arm("clean") == config.parse(data).arm("clean")
    assert experiment.arm("late")["clock"] == {
        "kind": "running",
        "hz": 20.0,
        "while_waiting": "chunk",
        "ask_ahead": 0,
        "source": {"constant_ms": {"full": 58.0, "draft": 58.0}},
    }


@pytest.mark.parametrize(
    ("name", "flash", "figures"),
    [
        ("paper/Torch-pi0", FULL_ONLY, {"full": 58.0, "draft": None}),
        ("paper/Triton-pi0", FULL_ONLY, {"full": 39.7, "draft": None}),
        (FLASH_L40S, {}, {"full": 33.156, "draft": 8.067}),
    ],
)
def test_published_latencies_are_in_the_slice_that_the_job_sees(data, name, flash, figures):
    experiment = with_clock(data, {"kind": "running", "source": {"published": name}}, flash=flash)
    assert experiment.arm("late")["clock"]["source"] == {"constant_ms": figures, "published": name}


@pytest.mark.parametrize(
    ("clock", "words"),
    [
        ("pausd", "arms.late.clock: unknown value 'pausd'; did you mean 'paused'?"),
        ({"kind": "running", "hz": 20, "sorce": 1}, "unknown key 'arms.late.clock.sorce'; did you mean 'source'?"),
        ({"kind": "running", "source": {"published": "paper/Torch-pi"}}, "did you mean 'paper/Torch-pi0'?"),
        ({"kind": "running", "source": {"published": "paper/Torch-pi0"}}, "add flash: {force_full_each_round: true}"),
        ({"kind": "running", "source": {"constant_ms": {"full": 3}}}, "constant_ms has no draft round"),
    ],
)
def test_a_mistake_in_a_clock_is_one_line(data, clock, words):
    with pytest.raises(UserError) as caught:
        with_clock(data, clock)
    assert words in str(caught.value) and "\n" not in str(caught.value)


SWEEP = {"policy": "pi0_nano", "constant_ms": [0, 8.07, 58], "hz": [20, 100], "ask_ahead": "auto", "episodes": 3}


def test_one_line_is_a_sweep_of_the_clock(data):
    experiment = config.parse({**data, "sweeps": {"late": SWEEP}})
    names = [f"late_{ms}ms_{hz}hz" for ms in ("0", "8p07", "58") for hz in (20, 100)]
    assert experiment.running_arms == names == [name for name in experiment.arms if name not in data["arms"]]
    arm = experiment.arm("late_8p07ms_100hz")
    assert arm["clock"]["hz"] == 100 and arm["clock"]["ask_ahead"] == "auto" and arm["init_states"] == [0, 1, 2]
    assert arm["clock"]["source"] == {"constant_ms": {"full": 8.07, "draft": 8.07}}
    longer = config.parse({**data, "sweeps": {"late": {**SWEEP, "constant_ms": [0, 8.07, 30, 58]}}})
    assert {name: longer.arm(name) for name in experiment.arms} == {n: experiment.arm(n) for n in experiment.arms}


def test_a_sweep_and_a_grid_stand_side_by_side(data):
    experiment = config.parse({**data, "arms": {}, "sweeps": {"late": SWEEP}, "grids": {"wrist_grid": GRID}})
    assert len(experiment.arms) == 6 + 9 and set(experiment.grid_cells()) == set(experiment.arms) - set(
        experiment.running_arms
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("policy", "pi0_nan", "sweeps.late.policy: unknown name 'pi0_nan'; did you mean 'pi0_nano'?"),
        ("constant_ms", [5, 5], "sweeps.late.constant_ms: give at least one, each once"),
        ("constant_ms", [-5], "sweeps.late.constant_ms.0"),
        ("hz", [], "sweeps.late.hz: give at least one, each once"),
        ("herz", [20], "unknown key 'sweeps.late.herz'; did you mean 'hz'?"),
        ("while_waiting", "stop", "sweeps.late.while_waiting"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line(data, key, value, words):
    with pytest.raises(UserError) as caught:
        config.parse({**data, "sweeps": {"late": {**SWEEP, key: value}}})
    assert words in str(caught.value)


def test_a_sweep_does_not_take_the_name_of_an_arm(data):
    taken = changed(data, "arms/late_0ms_20hz", data["arms"]["clean"])
    with pytest.raises(UserError, match=r"sweeps\.late: its arm 'late_0ms_20hz' has the same name as another arm"):
        config.parse({**taken, "sweeps": {"late": SWEEP}})


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("seed", 99999999999999999999, "seed: the number does not fit in 64 bits"),
        ("seed", "99999999999999999999", "seed: must be at most 9223372036854775807"),
        ("checkup/seed", 2**63, "checkup.seed: the number does not fit in 64 bits"),
        ("seed", 1e20, "seed: "),
        ("tasks", "0-999999999", "tasks: task 999999999 is out of range 0-9 of libero_goal"),
        ("tasks", "9" * 5000, "is neither a task id nor a range"),
        ("flash/tau_radius", float("nan"), "flash.tau_radius: nan is not a finite number"),
        ("flash/t_list", [0.1, float("inf")], "flash.t_list.1: inf is not a finite number"),
        (
            "rollout",
            {"server_ready_timeout_s": "inf"},
            "rollout.server_ready_timeout_s: must be a finite number, not 'inf'",
        ),
        (
            "conditions/noisy",
            {"kind": "noise", "sigma": float("inf")},
            "conditions.noisy.sigma: inf is not a finite number",
        ),
        (
            "conditions/noisy",
            {"kind": "noise", "sigma": 1e300},
            "noisy.sigma: must be at most 1e+06, not 1e+300",
        ),
        ("conditions/noisy", {"kind": ["noise"]}, "unknown kind ['noise']"),
        ("conditions/wrist_zero_every4/every", 10**12, "every: must be at most 1000000, not 1000000000000"),
        ("arms/clean/repeats", 10**12, "arms.clean.repeats: must be at most 1000"),
        ("arms/clean/episodes", 10**12, "init state 999999999999 is out of range 0-49"),
        ("arms/clean/execution", {"horizon": 10**12}, "arms.clean.execution.horizon"),
        (
            "arms/clean/clock",
            {"kind": "running", "hz": 1e9, "source": "measured"},
            "arms.clean.clock.hz: must be at most 1000",
        ),
        (
            "arms/clean/clock",
            {"kind": "running", "source": {"constant_ms": 1e300}},
            "source.constant_ms: must be at most 3.6e+06, not 1e+300",
        ),
        (
            "arms/clean/clock",
            {"kind": "running", "source": {"published": None}},
            "give one of constant_ms, published and replay",
        ),
        ("profile/episodes", 10**9, "profile.episodes"),
        ("smoke", {"episodes": 10**9}, "smoke.episodes"),
        ("profile/samples", 10**12, "profile.samples"),
        ("arms", {1: {}}, "arms.1 is a number, not a key: quote it"),
        ("arms", ["clean"], "arms: expected a mapping, not a list"),
        ("flash/t_list", [], "flash.t_list: "),
        ("claims", ["a"], "claims: expected text, not a list"),
        ("claims", "a\0b", r"claims: the character '\x00' is not allowed in a setting"),
        ("claims", "\ud800", r"claims: the character '\ud800' is not allowed in a setting"),
        ("suite", datetime.date(2026, 1, 1), "is read as a date: quote it"),
        ("suite", "reach", "suite: reach says nothing about a policy; give one of libero_spatial, "),
    ],
)
def test_a_value_that_no_run_can_use_is_refused_before_anything_runs(data, path, value, words):
    with pytest.raises(UserError) as caught:
        config.parse(changed(data, path, value))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_overlay_alone_is_told_from_a_whole_config(tmp_path):
    (tmp_path / "overlay.yaml").write_text("seed: 8\n")
    with pytest.raises(UserError, match=r"policies: missing; an overlay .* config\.yaml OVERLAY\.yaml"):
        config.load(tmp_path / "overlay.yaml")


def test_one_task_may_be_a_number(data):
    assert config.parse({**data, "tasks": 3, "smoke": {"task": 3}}).task_ids == [3]


def test_a_fault_within_a_fault_within_a_fault_is_one_line(data):
    deep: Any = {"kind": "none"}
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(UserError, match="nested too deeply"):
        config.parse(changed(data, "conditions/clean", deep))


def test_a_key_given_twice_in_the_config_or_an_overlay_is_named(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("arms:\n  clean: {episodes: 10}\n  clean: {episodes: 2}\n")
    with pytest.raises(UserError, match=r"overlay\.yaml is not valid YAML \(line 3\): duplicate key 'clean'"):
        config.load(ROOT / "config.yaml", overlay)


def test_the_chapter_on_faults_shows_them_and_what_they_are_held_against():
    """An arm that differs by its policy or its settings is no fault."""
    fluid = config.load(ROOT / "config.yaml", ROOT / "profiles/fluid/overlay.yaml")
    assert fluid.arms_of_chapter("robustness") == ["fluid_nano", "fluid_nano_black"]
    assert "fluid_cnn" in fluid.arms_of_chapter("baseline")
    shown = config.load(ROOT / "config.yaml").arms_of_chapter("robustness")
    assert "clean" in shown and "wrist_zero_every4" in shown and "full_only" not in shown
