"""Whether a policy looks: on policies whose answer is known, on shipped ones that see and do not, and bad input."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from policies.fluid.made import dims, made
from policies.pi0.conftest import tokenizer_model, write_policy  # noqa: F401  (a fixture)

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.base.jobs import Job
from flashtrail.drills import sensitivity
from flashtrail.experiment import config
from flashtrail.rollouts import recordings
from flashtrail.rollouts.recordings import Recorded
from flashtrail.simulators.observation import Observation
from flashtrail.tables import measurements

ROOT = Path(__file__).parents[2]
LIFT = Path(__file__).with_name("lift_observations.npz")  # task 0, init states 60-65, steps 0 and 24 of the expert
LONG = np.random.default_rng(5).standard_normal(8)


def seen(tasks: int = 2, starts: int = 40, queries: int = 3, pixels: int = 4) -> list[Recorded]:
    """Observations whose parts are independent draws."""
    generator = np.random.default_rng(0)

    def one(task: int) -> Observation:
        views = generator.integers(0, 256, (2, pixels, pixels, 3), dtype=np.uint8)
        return Observation(*views, generator.standard_normal(8), f"task {task}")

    return [Recorded((t, s), one(t)) for t in range(tasks) for s in range(starts) for _ in range(queries)]


def measured(answer, recorded=None, **more) -> dict[str, sensitivity.Figure]:
    """The figures of a policy that answers one action: `answer` of agent, wrist, state, task and noise, each SD 1."""

    def ask(one: Observation, seed: list[int]) -> np.ndarray:
        looks = [(float(view[0, 0, 0]) - 127.5) / 73.9 for view in (one.agent, one.wrist)]
        noise = np.random.default_rng(seed).standard_normal()
        task = 2.0 * int(one.prompt.split()[1]) - 1
        return np.full((2, 7), answer(*looks, float(one.state @ LONG / np.linalg.norm(LONG)), task, noise))

    return {figure.name: figure for figure in sensitivity.measure(ask, recorded or seen(), seed=3, **more)}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda a, w, s, t, n: a, {"agent": 1, "pictures": 1, "everything": 1, "agent_phase": 1}),
        (lambda a, w, s, t, n: w, {"wrist": 1, "pictures": 1, "everything": 1}),
        (lambda a, w, s, t, n: s, {"state": 1, "state_phase": 1, "everything": 1}),
        # Two tasks: every pair differs by about two standard deviations.
        (lambda a, w, s, t, n: t * (1 + 0.3 * a), {"prompt": 2**0.5, "agent": 0.29, "pictures": 0.29}),
        (lambda a, w, s, t, n: n, {"noise": 1}),
        (lambda a, w, s, t, n: a + w, {"agent": 0.5**0.5, "wrist": 0.5**0.5, "pictures": 1}),
        (lambda a, w, s, t, n: 0.6 * a + 0.8 * s, {"agent": 0.6, "pictures": 0.6, "state": 0.8, "everything": 1}),
    ],
)
def test_a_part_has_the_share_of_the_answer_that_follows_from_it(answer, expected):
    found = measured(answer)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=0.15), name
        assert found[name].low <= found[name].value <= found[name].high and found[name].n == 80
    untouched = set(found) - set(expected) - {"everything", "everything_phase", "blank", "amplitude"}
    parts = {name.removesuffix("_phase") for name in expected}
    still = {name for name in untouched if name.removesuffix("_phase") not in parts | {"pictures"}}
    assert {found[name].value for name in still} == {0.0}
    assert ("noise" in found) == ("noise" in expected)


def test_the_words_follow_from_the_interval_alone():
    known = {(0.11, 0.2): "looks", (0.1, 0.2): "open", (0.0, 0.049): "blind", (0.0, 0.05): "open", (0.04, 0.12): "open"}
    assert {ends: sensitivity.word(*ends) for ends in known} == known
    assert sensitivity.word(None, None) == "open" and sensitivity.word(0.0, 0.0) == "blind"


def test_few_episodes_have_no_interval_and_no_word_and_a_frozen_policy_is_blind():
    few = measured(lambda a, w, s, t, n: a, seen(tasks=1, starts=4))
    assert few["pictures"].value > 0.5 and few["pictures"].low is None
    assert set(sensitivity.words(few.values()).values()) == {"open"} and "prompt" not in few
    frozen = measured(lambda a, w, s, t, n: 0.3, action_sd=np.ones(6))
    assert [figure.value for figure in frozen.values()] == pytest.approx([0.0] * len(frozen), abs=1e-9)
    assert set(sensitivity.words(frozen.values()).values()) == {"blind"}


def test_the_amplitude_is_the_answers_spread_over_the_trainings():
    found = measured(lambda a, w, s, t, n: 0.2 * s, action_sd=np.full(6, 0.5))
    assert found["amplitude"].value == pytest.approx(0.4, rel=0.15) and "amplitude" not in sensitivity.words(
        found.values()
    )


def test_one_init_state_of_a_task_says_what_to_give():
    with pytest.raises(UserError, match=r"no two init states of one task in the observations: give profile\.episodes"):
        measured(lambda a, w, s, t, n: a, seen(tasks=3, starts=1))


def test_a_policy_with_a_memory_is_asked_afresh(tmp_path):
    """Three frames: what was asked before leaves no trace."""
    artifact = made(tmp_path / "artifact", dims(frames=3, lags=[1, 2]))
    one, other = (recorded.observation for recorded in fluid_seen(2))
    ask = sensitivity.asker(artifact)
    first = ask(one, [0])
    assert np.abs(ask(other, [0]) - first).max() > 1e-6
    np.testing.assert_array_equal(ask(one, [0]), first)


def fluid_seen(n: int, prompt: str = "open the middle drawer") -> list[Recorded]:
    generator = np.random.default_rng(1)
    views = generator.integers(0, 256, (n, 2, 224, 224, 3), dtype=np.uint8)
    return [Recorded((0, i), Observation(*views[i], generator.standard_normal(8), prompt)) for i in range(n)]


# --- shipped policies, the same observations ---


def doctor(capsys, *words: object) -> tuple[int, str, str]:
    code = cli.main(["doctor", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(("policy", "expected", "code"), [("lift_nano", "looks", 0), ("lift_nano_blind", "blind", 1)])
def test_the_seeing_policy_looks_and_its_blind_twin_is_blind(capsys, policy, expected, code):
    artifact = ROOT / "resources" / policy
    found = doctor(capsys, "--policy", artifact, "--observations", LIFT, "--json")
    report = json.loads(found[1])
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert found[0] == code and report["words"]["pictures"] == report["words"]["blank"] == expected
    assert report["words"]["state"] == "looks" and figures["pictures"]["n"] == 6 and figures["amplitude"]["value"] > 0.3
    assert "noise" not in figures and "prompt" not in figures
    if expected == "blind":
        assert {figures[name]["value"] for name in ("pictures", "agent", "wrist", "pictures_phase", "blank")} == {0.0}


@pytest.mark.parametrize("policy", ["nothing", "random"])
def test_scripts_that_see_nothing_are_blind_whatever_their_noise(capsys, policy):
    code, out, _ = doctor(capsys, "--policy", ROOT / "resources/scripted" / policy, "--observations", LIFT)
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert code == 1 and out.splitlines()[0].endswith(f"{policy}: blind") and "amplitude" not in lines
    assert all(" 0.000 [0.000, 0.000] " in lines[name] for name in ("pictures", "state", "blank"))
    assert ("noise" in lines) == (policy == "random")


@pytest.mark.parametrize("family", ["fluid", "pi0"])
def test_the_rules_script_writes_a_measurement_of_any_family(tmp_path, tokenizer_model, family):  # noqa: F811
    """pi0 has noise; its answers are differences to the state here, so the training's SD is no reference."""
    artifact = made(tmp_path / "base") if family == "fluid" else write_policy(tmp_path, tokenizer_model)[0]
    recordings.save(fluid_seen(5), tmp_path / "o.npz")
    spec = importlib.util.spec_from_file_location("check_sensitivity", ROOT / "scripts/check_sensitivity.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    files = {"base": str(artifact / "manifest.json"), "observations": str(tmp_path / "o.npz")}
    engine = {"device": "cpu", "dtype": "float32", "backend": "auto", "threads": 1}
    output = {"measurement": str(tmp_path / "sensitivity_tiny.json")}
    script.main(Job("check_sensitivity", files, output, {"engine": engine, "seed": 7}, {"policy": "tiny"}))
    found = measurements.read(tmp_path / "sensitivity_tiny.json")
    assert found.title == "What tiny looks at" and found.figure("pictures").n == 5
    names = {figure.name for figure in found.figures}
    assert ("noise" in names, "amplitude" in names) == ((False, True) if family == "fluid" else (True, False))
    assert not {"prompt", "pictures_phase"} & names, "one prompt, one query an episode: no pair"


def test_measured_policies_are_known_and_none_is_the_expert():
    data = yaml.safe_load((ROOT / "config.yaml").read_text())
    data["profile"]["episodes"] = 5
    assert config.parse(data).measured.files == {}
    given = config.parse({**data, "measured": {"sensitivity": ["pi0_nano"]}})
    assert given.measured.files == {"sensitivity_pi0_nano": "results/measured/sensitivity_pi0_nano.json"}
    assert {name: given.arm(name) for name in given.arms} == {n: config.parse(data).arm(n) for n in given.arms}
    data["policies"]["expert"] = {"expert": True}
    for name, said in (("pi0_nan", "did you mean 'pi0_nano'"), ("expert", "is the simulator's expert")):
        with pytest.raises(UserError, match=said):
            config.parse({**data, "measured": {"sensitivity": [name]}})


# --- what cannot be asked ---


def without(name: str, path: Path) -> Path:
    with np.load(LIFT) as data:
        np.savez(path, **{key: data[key] for key in data.files if key != name})
    return path


def test_what_cannot_be_asked_is_one_line(capsys, tmp_path):
    lift = ROOT / "resources/lift_nano"
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    strange = [(one.episode, replace(one.observation, prompt="zzz qqq")) for one in recordings.load(LIFT)]
    recordings.save([Recorded(*one) for one in strange], tmp_path / "strange.npz")
    for words, said in (
        (("--policy", lift, "--observations", without("wrist", tmp_path / "one_camera.npz")), "wrist"),
        (("--policy", lift, "--observations", tmp_path / "array.npy"), "does not hold recorded observations"),
        (("--policy", lift, "--observations", tmp_path / "text.npz"), "does not hold recorded observations"),
        (("--policy", lift, "--observations", tmp_path / "none.npz"), "none.npz"),
        (("--policy", lift, "--observations", tmp_path / "strange.npz"), "prompt: no word of 'zzz qqq'"),
        (("--policy", tmp_path / "nowhere", "--observations", LIFT), "nowhere"),
        (("--policy", lift), "--policy DIR and --observations FILE go together"),
        ((tmp_path, "--policy", lift, "--observations", LIFT), "go together, without RUN"),
        ((), "give a RUN, or --policy DIR and --observations FILE"),
    ):
        code, out, err = doctor(capsys, *words)
        assert (code, out) == (2, "") and err.startswith("error: ") and said in err and err.count("\n") == 1, err
