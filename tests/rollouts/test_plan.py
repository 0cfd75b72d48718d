from dataclasses import replace

import pytest

from flashtrail.base.errors import UserError
from flashtrail.experiment import shard, suites
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.rollouts.shard import episodes_of
from flashtrail.simulators import seeds

SPEC = {
    "arm": "clean",
    "policy": "p",
    "suite": "libero_goal",
    "task_id": 3,
    "init_states": [4, 2],
    "repeats": 2,
    "seed": 7,
    "server": {"command": ["serve", "--port", "{port}"]},
}


@pytest.mark.parametrize(
    ("text", "suite", "ids"),
    [
        ("0,2,5-7", "libero_goal", [0, 2, 5, 6, 7]),
        ("3", "libero_10", [3]),
        (" 9 , 1 - 2 ,1", "libero_spatial", [1, 2, 9]),
        ("88-89", "libero_90", [88, 89]),
    ],
)
def test_task_specs(text, suite, ids):
    assert suites.parse_tasks(text, suite) == ids


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("10", "task 10 is out of range 0-9 of libero_goal"),
        ("8-12", "task 12 is out of range 0-9"),
        ("3-1", "'3-1' runs backwards"),
        ("1;2", "neither a task id nor a range"),
        ("", "neither a task id nor a range"),
        ("-1", "neither a task id nor a range"),
    ],
)
def test_wrong_task_specs(text, complaint):
    with pytest.raises(UserError, match=complaint):
        suites.parse_tasks(text, "libero_goal")


def test_an_unknown_suite_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'libero_goal'"):
        suites.parse_tasks("0", "libero_gaol")


def test_horizons_are_those_of_the_official_client():
    horizons = {
        name.removeprefix("libero_"): suite.horizon for name, suite in suites.SUITES.items() if "libero" in name
    }
    assert horizons == {"spatial": 220, "object": 280, "goal": 300, "10": 520, "90": 400}


def test_expected_episodes_run_repeat_by_repeat():
    keys = [(key.init_state, key.repeat) for key in episodes_of(shard.read(SPEC))]
    assert keys == [(4, 0), (2, 0), (4, 1), (2, 1)]
    assert len({key.name for key in episodes_of(shard.read(SPEC))}) == 4


def test_defaults_are_filled_in():
    full = shard.read(SPEC)
    assert (full.scene_seed, full.replan_steps, full.hard_reset) == ("episode", 12, True)
    assert full.server.url is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"init_state": [0]}, "unknown key 'init_state'; did you mean 'init_states'"),
        ({"init_states": [0, 50]}, "init state 50 is out of range 0-49 of libero_goal task 3"),
        ({"init_states": [1, 1]}, "give at least one, each once"),
        ({"init_states": []}, "at least one"),
        ({"task_id": 10}, "task 10 is out of range 0-9"),
        ({"clock": "runing"}, "clock: unknown value 'runing'"),
        ({"scene_seed": "offical"}, "did you mean 'official'"),
        ({"simulators": 0}, "simulators: must be at least 1, not 0"),
        ({"condition": {"kind": "zeros"}}, "did you mean 'zero'"),
        ({"condition": {"kind": "zero", "evry": 4}}, "unknown key 'condition.evry'; did you mean 'every'"),
        ({"condition": {"kind": "zero", "view": "wirst"}}, "did you mean 'wrist'"),
        ({"condition": {"kind": "zero", "every": 4, "phase": 4}}, "phase 4 is never reached"),
        ({"guard": {"kind": "wrist_helth"}}, "did you mean 'wrist_health'"),
        ({"guard": {"kind": "wrist_health", "max_agee": 3}}, "did you mean 'max_age'"),
        ({"server": {"command": ["serve"]}}, "has no {port} in it"),
        ({"server": {}}, "either a command"),
        ({"server": {"comand": []}}, "did you mean 'command'"),
    ],
)
def test_a_wrong_spec_gets_one_line(change, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        shard.read({**SPEC, **change})
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(UserError, match="arm: is missing"):
        shard.read({key: value for key, value in SPEC.items() if key != "arm"})


@pytest.mark.parametrize(
    ("what", "given", "key"),
    [("condition", {"kind": "none", "every": 4}, "every"), ("guard", {"max_age": 8}, "max_age")],
)
def test_a_kind_takes_no_parameter_of_another(what, given, key):
    with pytest.raises(UserError, match=f"unknown key '{what}.{key}'"):
        shard.read({**SPEC, what: given})


def test_the_digest_follows_what_an_episode_depends_on():
    def digest(**change):
        return shard.read({**SPEC, **change}).digest

    assert digest() == digest(init_states=[1, 2, 3]) == digest(simulators=4) == digest(video="all")
    changes = [
        {"seed": 8},
        {"condition": {"kind": "zero"}},
        {"guard": {"kind": "wrist_health"}},
        {"replan_steps": 6},
        {"scene_seed": "official"},
        {"metadata": {"artifact_digest": "x"}},
        {"server": {"command": ["serve", "--tau-radius=0.1", "{port}"]}},
    ]
    digests = [digest(**change) for change in changes]
    assert len({digest(), *digests}) == len(changes) + 1


def test_seeds_differ_wherever_the_key_differs():
    key = EpisodeKey("libero_goal", 1, 2, 0)
    other_keys = [
        replace(key, suite="libero_10"),
        replace(key, task_id=2),
        replace(key, init_state=3),
        replace(key, repeat=1),
    ]
    lists = [tuple(seeds.derive(7, k, "noise", 3)) for k in (key, *other_keys)]
    lists += [tuple(seeds.derive(8, key, "noise", 3)), tuple(seeds.derive(7, key, "noise", 4))]
    lists += [tuple(seeds.derive(7, key, stream, 3)) for stream in ("sim", "perturbation", "latency")]
    drawn = {seeds.legacy_seed(list(words)) for words in lists}
    assert len(drawn) == len(set(lists)) == 10


def test_seeds_do_not_move():
    key = EpisodeKey("libero_goal", 0, 3, 1)
    words = seeds.derive(7, key, "sim")
    assert words == [7, 2, 0, 3, 1, 1]
    assert seeds.legacy_seed(words) == 793383007
    assert seeds.spelled(seeds.derive(7, key, "noise", 5)) == "7-2-0-3-1-2-5"


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="negative"):
        seeds.derive(-1, EpisodeKey("libero_goal", 0, 0, 0), "sim")
