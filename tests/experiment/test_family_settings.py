"""Settings of a policy's own family, from `settings:` of an arm to the server's command and the table's column."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from policies.fluid.made import made

from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment import config
from flashtrail.experiment.shard import config_digest
from flashtrail.policies import registry
from flashtrail.rollouts.spec import shard_spec
from flashtrail.serving.command import add_arguments

SHIPPED = documents.mapping(Path(__file__).parents[2] / "config.yaml")
DIAL = {"epsilon": 0.05, "max_steps": 4}


def with_fluid(**arm):
    own = {"policies": {"field": {"artifact": "resources/fluid_nano"}}, "arms": {"calm": {"policy": "field", **arm}}}
    return config.parse(config.merge(SHIPPED, own))


def handles(directory: Path, base: Path) -> dict[str, str]:
    provenance.json_dump({"python": sys.executable, "device": {"cpu": "a processor"}}, directory / "model.json")
    return {"model": str(directory / "model.json"), "base": str(base / "manifest.json")}


def test_an_arm_without_settings_is_what_it_was():
    """No key, no flag, no other digest: finished shards are found again."""
    plain, beside = config.parse(SHIPPED), with_fluid(settings=DIAL)
    assert all("settings" not in plain.arm(name) for name in plain.all_arms)
    assert {name: beside.arm(name) for name in plain.all_arms} == {name: plain.arm(name) for name in plain.all_arms}
    assert (
        with_fluid().arm("calm")
        == with_fluid(settings={}).arm("calm")
        == with_fluid(settings={"epsilon": None}).arm("calm")
    )
    assert config_digest(with_fluid().arm("calm")) != config_digest(beside.arm("calm"))


def test_settings_reach_the_servers_command_and_only_there(tmp_path):
    base = made(tmp_path / "artifact")
    dialled, plain = (
        shard_spec(with_fluid(**more).arm("calm"), 0, handles(tmp_path, base), "c") for more in ({"settings": DIAL}, {})
    )
    extra = [word for word in dialled.server.command if word not in plain.server.command]
    assert extra == ["--epsilon=0.05", "--max-steps=4"]
    assert dialled.digest != plain.digest and "--max-exec-steps=12" in plain.server.command
    from flashtrail.base import commands

    words = [word.format(port=0, simulators=1) for word in dialled.server.command[5:]]
    parser = commands.Parser()
    parser.set_defaults(argv=words)
    add_arguments(parser)
    taken = parser.parse_args(words)
    assert (taken.epsilon, taken.max_steps, taken.min_steps, taken.max_exec_steps) == (0.05, 4, 3, 12)


def test_doubt_is_a_flag_of_lift_vla_and_of_no_other_family(tmp_path):
    spec = shard_spec(
        with_fluid(settings={"doubt": True}).arm("calm"),
        0,
        handles(tmp_path, Path(__file__).parents[2] / "resources/lift_doubt"),
        "c",
    )
    assert "--doubt" in spec.server.command
    with pytest.raises(UserError, match=r"doubt: the family fluid of .* has no such setting: leave it out"):
        arm = with_fluid(settings={"doubt": True}).arm("calm")
        shard_spec(arm, 0, handles(tmp_path, made(tmp_path / "artifact")), "c")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -0.1}, r"arms.calm.settings.epsilon: must be at least 0, not -0.1"),
        ({"epsilom": 0.1}, "epsilom.*did you mean 'epsilon'"),
        ({"precision": "int4"}, "precision: unknown value .int4.; known: bfloat16"),
        ({"max_steps": 65}, r"arms.calm.settings.max_steps: must be at most 64, not 65"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        with_fluid(settings=settings)
    assert "\n" not in str(refused.value)


def test_settings_of_a_policy_that_has_none_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"arms.clean.settings.epsilon: pi0 has no such setting; leave it out"):
        config.parse(config.merge(SHIPPED, {"arms": {"clean": {"settings": DIAL}}}))
    several = config.parse(config.merge(SHIPPED, {"arms": {"full_only": {"settings": {"samples": 5}}}}))
    assert several.arm("full_only")["settings"] == {"samples": 5}
    with pytest.raises(UserError, match=r"arms.calm.settings: the server at ws://far:1 has no such settings"):
        with_fluid(settings=DIAL, server="ws://far:1")
    manifest = {"family": "scripted", "digest": "0" * 16, "dims": {}}
    (tmp_path / "still").mkdir()
    (tmp_path / "still/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"the family scripted of .* has no such setting: leave it out"):
        shard_spec(with_fluid(settings=DIAL).arm("calm"), 0, handles(tmp_path, tmp_path / "still"), "c")


def test_the_code_of_another_familys_server_does_not_reach_this_one():
    """What a shard of pi0 depends on: nothing of fluid, and nothing that families trained here share."""
    source = provenance.PACKAGE_ROOT
    own = [source.parents[1] / "scripts/roll_out_shard.py"]
    own += [source / name for name in ("__main__.py", "serving/command.py", registry.source_of("pi0"))]
    reached = {str(path.relative_to(source)) for path in provenance.module_closure(own)}
    assert "policies/pi0/engine.py" in reached
    assert not {path for path in reached if path.startswith(("policies/fluid", "policies/parts", "policies/lift_vla"))}
    fluid = provenance.module_closure([source / registry.source_of("fluid")])
    assert {"field.py", "model.py", "controls.py"} <= {path.name for path in fluid}
