"""Every arm of the shipped experiment becomes a spec that the shard accepts and a command that the server accepts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from flashtrail import cli, config, provenance
from flashtrail.errors import UserError
from flashtrail.rollouts import plan, settings
from flashtrail.rollouts.spec import shard_spec

ROOT = Path(__file__).parents[2]
EXPERIMENT = config.load(ROOT / "config.yaml")


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
    spec = settings.checked(shard_spec(arm, 2, handles, code="c0de"))
    assert len(plan.expected_episodes(spec)) == EXPERIMENT.arms[name].episodes
    clock = {} if arm["clock"] == "paused" else {"clock": json.dumps(arm["clock"], sort_keys=True)}
    assert spec["metadata"] == clock | {
        "config_digest": provenance.digest_json(arm),
        "artifact_digest": "b" * 64 + "+" + "d" * 64,
        "code_digest": "c0de",
        "device": "a processor",
        "official_time_bias": "false",
        "condition": json.dumps(arm["condition"], sort_keys=True),
        "guard": json.dumps(arm["guard"], sort_keys=True),
    }


def test_an_arm_differs_from_its_control_where_it_says(handles):
    specs = {name: shard_spec(EXPERIMENT.arm(name), 0, handles, code="c0de") for name in ("clean", "full_only")}
    words = {name: set(spec["server"]["command"]) for name, spec in specs.items()}
    assert words["full_only"] - words["clean"] == {"--force-full-each-round"}
    assert words["clean"] - words["full_only"] == {"--no-force-full-each-round"}


def test_the_server_understands_its_command(handles):
    words = shard_spec(EXPERIMENT.arm("full_only"), 0, handles, code="c0de")["server"]["command"]
    assert words[:3] == [sys.executable, "-m", "flashtrail"] and "{port}" in words
    arguments = cli._parser(words[3:]).parse_args([word.replace("{port}", "8001") for word in words[3:]])
    assert arguments.port == 8001 and str(arguments.artifact) == str(Path(handles["base"]).parent)
    flash = cli._settings(arguments)
    assert json.loads(json.dumps(flash.to_dict())) == EXPERIMENT.arm("full_only")["flash"]


def arm_with(**more):
    data = config.merge(yaml.safe_load((ROOT / "config.yaml").read_text()), {"arms": {"clean": more}})
    return config.parse(data)


def test_an_arm_with_a_server_of_its_own_starts_none():
    experiment = arm_with(server="ws://192.0.2.7:8000")
    spec = settings.checked(shard_spec(experiment.arm("clean"), 2, {}, code="c0de"))
    assert spec["server"]["url"] == "ws://192.0.2.7:8000" and spec["server"]["command"] is None
    assert (spec["metadata"]["artifact_digest"], spec["metadata"]["device"]) == ("", "")
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


def test_a_lost_interpreter_is_one_line(handles):
    provenance.json_dump({"python": "/nowhere/python"}, handles["model"])
    with pytest.raises(UserError, match="its interpreter /nowhere/python is gone; remove that file and run again"):
        shard_spec(EXPERIMENT.arm("clean"), 0, handles, code="c0de")


def clocked(clock, handles, code="c0de"):
    arms = {
        **yaml.safe_load((ROOT / "config.yaml").read_text()),
        "arms": {"late": {"policy": "pi0_nano", "clock": clock}},
    }
    return settings.checked(shard_spec(config.parse(arms).arm("late"), 0, handles, code=code))


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
    assert len({settings.spec_digest(spec) for spec in specs}) == len(variants)
    assert "clock" not in specs[0]["metadata"]
    assert json.loads(specs[2]["metadata"]["clock"]) == specs[2]["clock"] and specs[2]["clock"]["hz"] == 50.0


def test_a_replayed_table_is_held_to_by_its_content(handles, tmp_path):
    table = tmp_path / "rounds.parquet"
    table.write_bytes(b"one")
    clock = {"kind": "running", "source": {"replay": str(table)}}
    one = clocked(clock, handles)
    assert one["clock"]["source"]["digest"] == provenance.sha256_file(table)
    table.write_bytes(b"another")
    assert settings.spec_digest(clocked(clock, handles)) != settings.spec_digest(one)
    table.unlink()
    with pytest.raises(UserError, match="does not exist; replay a table of rounds that is there"):
        clocked(clock, handles)
