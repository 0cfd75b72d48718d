"""Every arm of the shipped experiment becomes a spec that the shard accepts and a command that the server accepts."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import config
from flashtrail.experiment import shard as specs
from flashtrail.rollouts.shard import episodes_of
from flashtrail.rollouts.spec import shard_spec
from flashtrail.serving import command as serving_command
from flashtrail.serving.handles import server_command

ROOT = Path(__file__).parents[2]
EXPERIMENT = config.load(ROOT / "config.yaml")
STATS = {"action_stats": str(ROOT / "resources/drills/bridge_like.json")}


@pytest.fixture
def handles(tmp_path) -> dict[str, str]:
    records = {
        "model": {"python": sys.executable, "device": {"cpu": "a processor"}},
        "base": {"digest": "b" * 64},
        "draft": {"digest": "d" * 64},
    }
    for name, record in records.items():
        (tmp_path / name).mkdir()
        provenance.json_dump(record, tmp_path / name / "handle.json")
    return {name: str(tmp_path / name / "handle.json") for name in records}


@pytest.mark.parametrize("name", EXPERIMENT.arms)
def test_every_arm_is_accepted_by_the_shard(name, handles):
    arm = EXPERIMENT.arm(name)
    spec = shard_spec(arm, 2, handles, code="c0de")
    assert len(episodes_of(spec)) == EXPERIMENT.arms[name].episodes
    clock = {} if arm["clock"] == "paused" else {"clock": json.dumps(arm["clock"], sort_keys=True)}
    assert spec.metadata == clock | {
        "config_digest": specs.config_digest(arm),
        "artifact_digest": "b" * 64 + "+" + "d" * 64,
        "code_digest": "c0de",
        "device": "a processor",
        "max_exec_steps": "12",
        "official_time_bias": "false",
        "condition": json.dumps(arm["condition"], sort_keys=True),
        "guard": json.dumps(arm["guard"], sort_keys=True),
    }


def test_an_arm_differs_from_its_control_where_it_says(handles):
    both = {name: shard_spec(EXPERIMENT.arm(name), 0, handles, code="c0de") for name in ("clean", "full_only")}
    words = {name: set(spec.server.command) for name, spec in both.items()}
    assert words["full_only"] - words["clean"] == {"--force-full-each-round"}
    assert words["clean"] - words["full_only"] == {"--no-force-full-each-round"}


def test_what_an_episode_depends_on_is_the_same_wherever_files_lie_and_whichever_others_there_are(handles, tmp_path):
    arm = EXPERIMENT.arm("clean")
    spec = shard_spec(arm, 0, handles, code="c0de")
    more = {**arm, "init_states": [0, 9], "repeats": 2, "video": "all"}
    more["rollout"] = {**arm["rollout"], "simulators": 4, "server_ready_timeout_s": 9}
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path, moved)
    provenance.json_dump({"python": shutil.which("sh"), "device": {"cpu": "another"}}, moved / "model/handle.json")
    elsewhere = {name: str(moved / name / "handle.json") for name in handles}
    grown = shard_spec(more, 0, elsewhere, code="c0de")
    assert grown.server.command != spec.server.command and grown.metadata["device"] != spec.metadata["device"]
    assert (grown.digest, specs.config_digest(more)) == (spec.digest, specs.config_digest(arm))
    for change in ({"guard": {"kind": "oracle"}}, {"rollout": {**arm["rollout"], "replan_steps": 6}}, {"arm": "other"}):
        assert specs.config_digest({**arm, **change}) != specs.config_digest(arm)
    provenance.json_dump({"digest": "x" * 64}, moved / "draft/handle.json")
    assert shard_spec(arm, 0, elsewhere, code="c0de").digest != spec.digest


def test_the_full_report_finds_every_episode_of_the_small_one(handles):
    full = config.load(ROOT / "config.yaml", ROOT / "profiles/full/overlay.yaml")
    assert list(full.arms) == list(EXPERIMENT.arms) and full.task_ids == EXPERIMENT.task_ids
    counts = []
    for name in EXPERIMENT.all_arms:
        small, large = (shard_spec(e.arm(name), 0, handles | STATS, code="c0de") for e in (EXPERIMENT, full))
        assert small.digest == large.digest
        assert set(episodes_of(small)) <= set(episodes_of(large))
        assert name in EXPERIMENT.arms or episodes_of(small) == episodes_of(large), "drills and checkup keep their size"
        counts.append((len(episodes_of(small)), len(episodes_of(large))) if name in EXPERIMENT.arms else (0, 0))
    small_total, full_total = (len(EXPERIMENT.task_ids) * sum(column) for column in zip(*counts, strict=True))
    assert small_total <= 90 < full_total == 183


def test_on_a_measured_clock_an_episode_depends_on_the_device(handles):
    measured = clocked({"kind": "running", "source": "measured"}, handles)
    provenance.json_dump({"python": sys.executable, "device": {"cpu": "another"}}, handles["model"])
    assert clocked({"kind": "running", "source": "measured"}, handles).digest != measured.digest


def understood(command, **values):
    """What the server makes of a spec's command, filled in as the shard does."""
    return cli._parser(command[4:]).parse_args([word.format(**values) for word in command[4:]])


def test_how_many_simulators_there_are_is_no_part_of_a_result(handles):
    """The command says it by a word, so that the digest under which finished episodes lie does not hold it."""
    server = shard_spec(EXPERIMENT.arm("clean"), 0, handles, code="c0de").server
    arm = {"arm": "clean", "policy": "p", "suite": "libero_goal", "task_id": 0, "init_states": [0], "seed": 7}
    told = [specs.read({**arm, "server": server, "simulators": count}) for count in (1, 5)]
    assert len({spec.digest for spec in told}) == 1
    assert "{simulators}" in server.command


def test_a_job_with_one_client_prepares_for_no_more(handles):
    arm = EXPERIMENT.arm("clean")
    assert understood(server_command(handles, arm["engine"], arm["flash"], 8001)).max_batch == 1


def test_the_server_understands_its_command(handles):
    words = shard_spec(EXPERIMENT.arm("full_only"), 0, handles, code="c0de").server.command
    assert words[:4] == [sys.executable, "-P", "-m", "flashtrail"] and "{port}" in words
    arguments = understood(words, port=8001, simulators=5)
    assert (arguments.port, arguments.max_batch) == (8001, 5)
    assert str(arguments.artifact) == str(Path(handles["base"]).parent)
    flash = serving_command._settings(arguments)
    assert json.loads(json.dumps(flash.to_dict())) == EXPERIMENT.arm("full_only")["flash"] | {"samples": 1}


def arm_with(**more):
    data = config.merge(yaml.safe_load((ROOT / "config.yaml").read_text()), {"arms": {"clean": more}})
    return config.parse(data)


def test_an_arm_with_a_server_of_its_own_starts_none():
    experiment = arm_with(server="ws://192.0.2.7:8000")
    spec = shard_spec(experiment.arm("clean"), 2, {}, code="c0de")
    assert spec.server.url == "ws://192.0.2.7:8000" and spec.server.command is None
    assert (spec.metadata["artifact_digest"], spec.metadata["device"]) == ("", "")
    assert "server" not in experiment.arm("full_only")


def test_a_policy_that_only_a_foreign_server_has_needs_no_artifact():
    name = "dropout_trained_wrist_zero_every4"
    data = yaml.safe_load((ROOT / "config.yaml").read_text())
    data["arms"][name]["server"] = "ws://192.0.2.7:8000"
    assert "pi0_nano_dropout" in EXPERIMENT.used_policies
    assert "pi0_nano_dropout" not in config.parse(data).used_policies


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"server": "http://h:1"}, "arms.clean.server"),
        ({"server": "ws://h:1/path"}, "arms.clean.server"),
        ({"server": "ws://h:1", "flash": {"tau_radius": 0.1}}, "arms.clean.flash: the server at ws://h:1"),
    ],
)
def test_a_wrong_server_is_one_line(arm, message):
    with pytest.raises(UserError, match=message):
        arm_with(**arm)


# Digests of specs as they were before arms could say how they execute: finished episodes must stay usable.
KNOWN = {
    "clean": "b9d9a38520169c47",
    "guard_wrist_zero_all": "466e17a0f89f5699",
    "running_flash_100hz": "19a189cd256f707b",
}


@pytest.mark.parametrize("name", KNOWN)
def test_an_arm_that_says_nothing_of_its_execution_keeps_its_digest(name):
    server = {"command": ["serve", "--port", "{port}"]}
    arm = {"arm": name, "policy": "pi0_nano", "suite": "libero_goal", "task_id": 1, "init_states": [0], "seed": 7}
    shipped = EXPERIMENT.arm(name)
    arm |= {key: shipped[key] for key in ("condition", "guard", "clock")}
    assert specs.read({**arm, "server": server}).digest == KNOWN[name]
    assert specs.read({**arm, "server": server, "window_lag": 0, "answer": None}).digest == KNOWN[name]
    for more in ({"horizon": 60}, {"window_lag": 9}, {"answer": "first"}):
        assert specs.read({**arm, "server": server, **more}).digest != KNOWN[name]
    with pytest.raises(UserError, match="horizon: must be at least 1, not 0"):
        specs.read({**arm, "server": server, "horizon": 0})


@pytest.mark.parametrize("name", EXPERIMENT.drill_arms)
def test_every_drill_is_a_spec_of_its_own(name, handles):
    handles["action_stats"] = str(ROOT / "resources/drills/bridge_like.json")
    given = handles if name == "drill_bad_unnorm" else {k: v for k, v in handles.items() if k != "action_stats"}
    spec = shard_spec(EXPERIMENT.arm(name), 0, given, code="c0de")
    own = {"drill_long_chunk": (50, None, 0), "drill_short_horizon": (12, 60, 0), "drill_late_window": (12, None, 9)}
    assert (spec.replan_steps, spec.horizon, spec.window_lag) == own.get(name, (12, None, 0))
    assert spec.answer == ("first" if name == "drill_frozen_policy" else None)
    words = spec.server.command
    assert ("--action-stats" in words) is (name == "drill_bad_unnorm")
    assert ("--max-exec-steps=50" in words) is (name == "drill_long_chunk")
    told = understood(words, port=1, simulators=1)
    assert told.action_stats is None or told.action_stats.is_file()
    said = json.loads(spec.metadata.get("execution", "{}"))
    assert set(said) == {
        "drill_bad_unnorm": {"action_stats", "action_stats_digest"},
        "drill_long_chunk": {"replan_steps"},
        "drill_short_horizon": {"horizon"},
        "drill_late_window": {"window_lag"},
        "drill_frozen_policy": {"answer"},
    }.get(name, set())


def test_foreign_statistics_are_held_to_by_their_content(handles, tmp_path):
    file = tmp_path / "stats.json"
    handles["action_stats"] = str(file)
    digests = set()
    for text in ("one", "another"):
        file.write_text(text)
        spec = shard_spec(EXPERIMENT.arm("drill_bad_unnorm"), 0, handles, code="c0de")
        digests.add(spec.digest)
    assert len(digests) == 2
    del handles["action_stats"]
    with pytest.raises(UserError, match=r"the file resources/drills/bridge_like\.json of its execution is not at hand"):
        shard_spec(EXPERIMENT.arm("drill_bad_unnorm"), 0, handles, code="c0de")


def test_a_lost_interpreter_is_one_line(handles):
    provenance.json_dump({"python": "/nowhere/python"}, handles["model"])
    with pytest.raises(UserError, match="its interpreter /nowhere/python is gone; remove that file and run again"):
        shard_spec(EXPERIMENT.arm("clean"), 0, handles, code="c0de")


def clocked(clock, handles, code="c0de"):
    arms = {
        **yaml.safe_load((ROOT / "config.yaml").read_text()),
        "arms": {"late": {"policy": "pi0_nano", "clock": clock}},
    }
    return shard_spec(config.parse(arms).arm("late"), 0, handles, code=code)


def test_the_digest_covers_the_clock(handles, tmp_path):
    running = {"kind": "running", "source": {"constant_ms": 58}}
    variants = [
        "paused",
        running,
        {**running, "hz": 50},
        {**running, "while_waiting": "hold"},
        {**running, "ask_ahead": 2},
        {**running, "source": "measured"},
        {**running, "source": {"published": "reproduction/FLASH+Triton"}},
    ]
    specs = [clocked(clock, handles) for clock in variants]
    assert len({spec.digest for spec in specs}) == len(variants)
    assert "clock" not in specs[0].metadata
    assert json.loads(specs[2].metadata["clock"]) == specs[2].clock.model_dump() and specs[2].clock.hz == 50.0


def test_a_replayed_table_is_held_to_by_its_content(handles, tmp_path):
    table = tmp_path / "rounds.parquet"
    table.write_bytes(b"one")
    clock = {"kind": "running", "source": {"replay": str(table)}}
    one = clocked(clock, handles)
    assert one.clock.source.digest == provenance.sha256_file(table)
    table.write_bytes(b"another")
    assert clocked(clock, handles).digest != one.digest
    table.unlink()
    with pytest.raises(UserError, match="does not exist; give the path of a table of rounds"):
        clocked(clock, handles)
