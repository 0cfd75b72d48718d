"""Training on synthetic demonstrations: windows within their episode, random depth, going on, and what is written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from flashtrail.base.errors import UserError
from flashtrail.policies.fluid.family import load
from flashtrail.policies.fluid.positions import to_actions, to_positions
from flashtrail.policies.fluid.settings import Settings
from flashtrail.tables import measurements
from flashtrail.training import dataset
from flashtrail.training.fluid import ablations, card
from flashtrail.training.fluid.__main__ import finish, main, trainer_of
from flashtrail.training.fluid.trainer import Recipe, figures, summary
from flashtrail.training.loop import BEST

RECIPE = Recipe(steps=4, batch=6, warmup=2, log_every=1, check_every=2, keep_every=4, save_every_s=0.0)
SMALL = {"width": 8, "head_width": 16, "layers": 2, "dilations": [1, 2]}
PROMPTS = {0: "open the middle drawer", 1: "put the bowl on the stove"}


def trainer(directory, demos, recipe=RECIPE, **sizes):
    return trainer_of(directory, demos, PROMPTS, SMALL | sizes, recipe)[0]


def test_a_window_is_of_its_episode_and_repeats_its_first_picture(demos) -> None:
    """Every fourth step has a picture; twelve steps are three of them."""
    rows = np.arange(len(demos))
    found = dataset.windows(demos, rows, 3, 12)
    np.testing.assert_array_equal(found[:, 2], rows)
    assert (demos.episode[found] == demos.episode[rows, None]).all()
    expected = np.maximum(demos.step[rows, None] - np.array([24, 12, 0]), 0)
    np.testing.assert_array_equal(demos.step[found], expected)


def test_augmenting_a_window_moves_all_its_frames_alike(demos) -> None:
    views = demos.views[np.arange(4)]
    alone = dataset.augment(views, np.random.default_rng(3))
    windows = np.stack([views, views], 2)
    both = dataset.augment(windows, np.random.default_rng(3))
    np.testing.assert_array_equal(both[:, :, 0], alone)
    np.testing.assert_array_equal(both[:, :, 1], alone)


@pytest.mark.parametrize("core", ["ours", "none", "cnn", "vit", "document"])
def test_everything_that_acts_gets_a_gradient_and_the_words_none(tmp_path, demo_dir, core) -> None:
    run = trainer(tmp_path, demo_dir, core=core, frames=2, lags=[1])
    run.losses(run.learner, run.batch(np.arange(6), np.random.default_rng(0), augmented=True))["loss"].backward()
    idle = {name for name, p in run.learner.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    assert idle == set()
    assert not list(run.learner.policy.text.parameters())


def test_depth_is_drawn_for_each_layer_but_not_in_the_documents_form(tmp_path, demo_dir) -> None:
    run = trainer(tmp_path / "ours", demo_dir)
    drawn = [run.batch(np.arange(2), np.random.default_rng(k), True).steps for k in range(60)]
    assert {count for each in drawn for count in each} == {3, 4, 5, 6} and all(len(each) == 2 for each in drawn)
    assert any(a != b for a, b in drawn)
    assert run.batch(np.arange(2), np.random.default_rng(0), False).steps is None
    theirs = trainer(tmp_path / "doc", demo_dir, core="document")
    assert theirs.batch(np.arange(2), np.random.default_rng(0), True).steps is None


def test_a_run_that_stops_goes_on_to_the_same_weights(tmp_path, demo_dir) -> None:
    whole, broken = trainer(tmp_path / "whole", demo_dir), trainer(tmp_path / "broken", demo_dir)
    whole.train()
    broken.train(until_s=0.0)
    assert broken.state.step == 1
    again = trainer(tmp_path / "broken", demo_dir)
    assert again.state.step == 1
    again.train()
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(again.average.state_dict()[name], tensor), name
    with pytest.raises(UserError, match="was trained with another rate, dims: move it away"):
        trainer(tmp_path / "broken", demo_dir, dataclasses.replace(RECIPE, rate=1.0), steps=3)


@pytest.mark.parametrize("absolute", [(), (0.05, 0.05, 0.05)])
def test_a_finished_run_is_an_artifact_that_answers_as_it_was_trained(tmp_path, demo_dir, absolute) -> None:
    sizes = SMALL | {"absolute": absolute}
    run, known = trainer_of(tmp_path, demo_dir, PROMPTS, sizes, dataclasses.replace(RECIPE, steps=2))
    run.train()
    finish(run, known)
    said = measurements.read(tmp_path / "offline.json")
    assert {figure.name: (figure.n, figure.low) for figure in said.figures} == dict.fromkeys(
        ("own", "motion", "blank_motion", "error_over_blank", "amplitude", "sensitivity"), (2, None)
    )
    assert json.loads((tmp_path / "artifact" / "manifest.json").read_text())["digest"][:16] in said.method
    policy = load(
        tmp_path / "artifact", None, device="cpu", dtype="float32", backend="auto", settings=Settings(),
        action_stats=None, together=None, sessions=1,
    )  # fmt: skip
    row = run.held_frames[:1]
    views, state = run.demos.views[row[0]].repeat(2, 1).repeat(2, 2), run.demos.states[row[0]]
    keys = dict(zip(("observation/image", "observation/wrist_image"), views, strict=True))
    prompt = PROMPTS[int(run.demos.task[row[0]])]
    answer = policy.infer(policy.new_session(), keys | {"observation/state": state, "prompt": prompt})["actions"]
    with torch.no_grad():
        trained = run.losses(run.average, run.batch(row, np.random.default_rng(0), augmented=False))["answer"][0]
    expected = to_actions(run.stats.actions(trained.numpy()), state, absolute)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)


def test_positions_add_up_the_moves_and_are_turned_back(demos) -> None:
    scale, states = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5), demos.states[:5]
    targets = to_positions(demos.chunks[:5], states, scale)
    np.testing.assert_allclose(targets[2, 0, :3], states[2, :3] + 0.05 * demos.chunks[2, 0, :3], rtol=1e-6)
    np.testing.assert_allclose(targets[2, 3, :3], states[2, :3] + 0.05 * demos.chunks[2, :4, :3].sum(0), rtol=1e-5)
    np.testing.assert_array_equal(targets[..., 6], demos.chunks[:5, :, 6])
    np.testing.assert_allclose(to_actions(targets, states, scale), demos.chunks[:5], atol=1e-6)
    assert to_positions(demos.chunks, demos.states, ()) is demos.chunks


def test_a_copy_of_the_state_looks_good_where_positions_are_answered(tmp_path, demo_dir) -> None:
    """The document's first version: its own error is small, and the robot does not move as the expert does."""
    sizes = {**SMALL, "absolute": [1e-3] * 6, "pool": 1, "skip": False, "action_horizon": 1}
    run, _ = trainer_of(tmp_path, demo_dir, PROMPTS, sizes, RECIPE, raw=True)
    assert run.stats.state_std.tolist() == [1.0] * 8 and run.stats.action_mean.tolist() == [0.0] * 7

    def copies(learner, batch):
        answer = torch.cat((batch.state[:, :6], batch.targets[:, 0, 6:]), 1)[:, None]
        return {"chunk": torch.zeros(()), "auxiliary": torch.zeros(()), "answer": answer}

    run.losses = copies
    found = summary(run.held_out())
    assert found["held_out_own"] < 0.05
    assert found["held_out_motion"] > 0.9 and found["amplitude"] < 0.05


@pytest.mark.parametrize("raw", [False, True])
def test_the_noise_of_a_state_is_a_share_of_its_spread(tmp_path, demo_dir, raw) -> None:
    """In metres and radians, too: there 0.03 would be 3 cm."""
    run, _ = trainer_of(tmp_path, demo_dir, PROMPTS, SMALL, RECIPE, raw=raw)
    rows = np.zeros(400, np.int64)
    states = run.batch(rows, np.random.default_rng(0), True).state.numpy()
    share = states.std(0) / np.maximum(run.stats.state(run.demos.states).std(0), 1e-9)
    moving = run.demos.states.std(0) > 1e-6
    assert moving.sum() >= 3 and np.allclose(share[moving], RECIPE.state_noise, rtol=0.2)


@pytest.mark.slow
def test_it_learns_what_only_a_picture_tells(tmp_path, demo_dir, monkeypatch) -> None:
    """Actions that follow how much brighter the left half of the agent view is; nothing else tells."""
    demos = dataset.load(demo_dir, 12)
    level = np.random.default_rng(0).uniform(-1, 1, len(demos)).astype(np.float32)
    halves = np.where(np.arange(112) < 56, 1.0, -1.0)[:, None]
    views = demos.views.copy()
    views[:, 0] = 128 + 100 * level[:, None, None, None] * halves
    chunks = np.broadcast_to(level[:, None, None], demos.chunks.shape).copy()
    told = dataclasses.replace(demos, views=views, chunks=chunks)
    monkeypatch.setattr(dataset, "load", lambda *_: told)
    recipe = dataclasses.replace(RECIPE, steps=150, batch=16, rate=5e-3, log_every=50, check_every=150)
    run = trainer(tmp_path, demo_dir, recipe)
    run.train()
    seen = summary(run.held_out())
    assert seen["held_out_motion"] < 0.3 and seen["blank_motion"] > 0.8 and seen["amplitude"] > 0.5
    assert seen["sensitivity"] > 0.5


def test_figures_are_quotients_over_episodes_with_their_interval() -> None:
    rng = np.random.default_rng(0)
    blank, ones = rng.uniform(5, 15, 20), np.ones(20)
    sums = {"own": ones, "own_variance": 2 * ones, "variance": 4 * ones, "blank": blank, "answered": ones}
    sums |= {"error": 0.6 * blank + rng.uniform(0, 1, 20), "swapped": rng.uniform(1.8, 2.2, 20)}
    found = {figure.name: figure for figure in figures(sums)}
    better, follows = found["error_over_blank"], found["sensitivity"]
    assert 0.6 < better.low < better.value < better.high < 0.75 and better.n == 20
    assert 0.97 < follows.low < follows.value < follows.high < 1.03  # the answer is the pictures' alone
    assert found["amplitude"].value == pytest.approx(0.5) and found["own"].value == pytest.approx(0.5)
    few = {figure.name: figure for figure in figures({name: x[:3] for name, x in sums.items()})}
    assert few["error_over_blank"].low is None and few["error_over_blank"].n == 3


def test_the_other_pictures_are_of_the_same_task_another_episode_and_the_nearest_step(demos) -> None:
    _, rows = dataset.split(demos, 0.5)
    others = dataset.others(demos, rows)
    np.testing.assert_array_equal(demos.task[others], demos.task[rows])
    assert (demos.episode[others] != demos.episode[rows]).all() and set(others) <= set(rows)
    last = np.array([demos.step[demos.episode == episode].max() for episode in demos.episode[others]])
    np.testing.assert_array_equal(demos.step[others], np.minimum(demos.step[rows], last))
    first = rows[demos.episode[rows] == demos.episode[rows[0]]]
    np.testing.assert_array_equal(dataset.others(demos, first), first)


def test_a_blind_run_sees_nothing(tmp_path, demo_dir) -> None:
    run = trainer(tmp_path, demo_dir, blind=True)
    assert not run.batch(np.arange(4), np.random.default_rng(0), augmented=True).pictures.any()
    found = summary(run.held_out())
    assert found["held_out_motion"] == pytest.approx(found["blank_motion"]) and found["sensitivity"] == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dilations": [1, 4]}, "--dims: dims: Value error, dilation 4 does not fit a grid of 7: below half of it"),
        ({"zzz": 1}, "dims.zzz: Extra inputs are not permitted"),
        ({"pixels": 56, "patch": 8}, "pixels of a view: the demonstrations have 112, this policy 56"),
        ({"state_dim": 6}, "dims of a state: the demonstrations have 8, this policy 6"),
        ({"action_dim": 6}, "dims of an action: the demonstrations have 7, this policy 6"),
    ],
)
def test_dims_that_differ_are_one_line(tmp_path, demo_dir, sizes, message) -> None:
    with pytest.raises(UserError) as refused:
        trainer(tmp_path, demo_dir, **sizes)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_demonstrations_of_one_camera_are_refused(tmp_path, demo_dir, monkeypatch) -> None:
    whole = dataset.load(demo_dir, 12)
    monkeypatch.setattr(dataset, "load", lambda *_: dataclasses.replace(whole, views=whole.views[:, :1]))
    with pytest.raises(UserError, match=r"the demonstrations have 1 camera\(s\), this policy 2"):
        trainer(tmp_path, demo_dir)
    trainer(tmp_path / "one", demo_dir, views=1).step_losses(np.random.default_rng(0))


@pytest.mark.parametrize("flag", ["--rate=nan", "--steps=0", "--batch=-1", "--seed=-1", "--threads=0", "--seconds=inf"])
def test_a_number_that_no_run_can_have_is_one_line(tmp_path, monkeypatch, flag) -> None:
    monkeypatch.setattr("sys.argv", ["fluid", "--demos", str(tmp_path), "--out", str(tmp_path / "run"), flag])
    with pytest.raises(UserError, match=r"is not a (whole number from [01] on|number above 0)"):
        main()
    assert not (tmp_path / "run").exists()


def test_best_weights_that_are_gone_are_one_line(tmp_path, demo_dir) -> None:
    run, known = trainer_of(tmp_path / "run", demo_dir, PROMPTS, SMALL, RECIPE)
    run.train()
    (tmp_path / "run" / BEST).write_bytes(b"no")
    with pytest.raises(UserError, match=r"best\.safetensors is gone or damaged .*move run\.pt away and train again"):
        finish(run, known)


def test_a_run_is_shipped_with_its_card_and_its_offline_figures(tmp_path, demo_dir, monkeypatch, capsys) -> None:
    run, known = trainer_of(tmp_path / "tiny", demo_dir, PROMPTS, SMALL, dataclasses.replace(RECIPE, steps=2))
    run.train()
    finish(run, known)
    places = {"--run": tmp_path / "tiny", "--to": tmp_path / "to" / "fluid_tiny", "--measured": tmp_path / "measured"}
    words = [str(part) for pair in places.items() for part in pair]
    monkeypatch.setattr("sys.argv", ["card", *words])
    assert card.main() == 0
    text = (tmp_path / "to/fluid_tiny/README.md").read_text()
    assert "2 steps of 6 frames" in text and "a chunk of 12" in text and "2 held-out episodes" in text
    assert measurements.read(tmp_path / "measured/offline_fluid_tiny.json").figure("sensitivity")
    assert card.digest(tmp_path / "to/fluid_tiny") == card.digest(tmp_path / "tiny/artifact")
    measurements.write(tmp_path / "tiny/offline.json", "t", "of another", figures(run.held_out()))
    with pytest.raises(UserError, match=r"offline\.json is of another artifact: train the run to its end again"):
        card.main()


def diffusing(start: float) -> Recipe:
    return dataclasses.replace(RECIPE, diffusion=start)


def test_diffusion_begins_where_it_is_told_to(tmp_path, demo_dir) -> None:
    run, _ = trainer_of(tmp_path / "a", demo_dir, PROMPTS, SMALL, diffusing(0.744))
    spread = torch.nn.functional.softplus(run.learner.policy.layers[0].spread)
    torch.testing.assert_close(spread, torch.full_like(spread, 0.744))
    with pytest.raises(UserError, match="--diffusion: the core cnn has none; leave it out"):
        trainer_of(tmp_path / "b", demo_dir, PROMPTS, SMALL | {"core": "cnn"}, diffusing(0.744))
    with pytest.raises(UserError, match="--diffusion: 1000 is above 100"):
        trainer_of(tmp_path / "c", demo_dir, PROMPTS, SMALL, diffusing(1000))
    run.train(until_s=0.0)
    with pytest.raises(UserError, match="was trained with another diffusion: move it away"):
        trainer_of(tmp_path / "a", demo_dir, PROMPTS, SMALL, RECIPE)


@pytest.mark.parametrize("name", ["core", "blind"])
def test_what_has_a_flag_of_its_own_is_no_size(tmp_path, demo_dir, monkeypatch, name) -> None:
    flags = ["--demos", str(demo_dir), "--out", str(tmp_path / "run"), "--dims", json.dumps({name: "cnn"})]
    monkeypatch.setattr("sys.argv", ["fluid", *flags])
    with pytest.raises(UserError, match=f"--dims: {name} has a flag of its own: give --{name}"):
        main()
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_statistics_and_an_attempt_that_failed_leaves_none(tmp_path, demo_dir) -> None:
    with pytest.raises(UserError, match="dims of a state: the demonstrations have 8, this policy 5"):
        trainer_of(tmp_path, demo_dir, PROMPTS, SMALL | {"state_dim": 5}, RECIPE)
    with pytest.raises(UserError, match="--diffusion"):
        trainer_of(tmp_path, demo_dir, PROMPTS, SMALL, diffusing(1000), raw=True)
    run = trainer(tmp_path, demo_dir)
    assert (run.stats.action_std != 1).any()  # not those of the attempt with --raw
    run.save()
    with pytest.raises(UserError, match=r"run\.pt was trained without --raw: move it away, or train as before"):
        trainer_of(tmp_path, demo_dir, PROMPTS, SMALL, RECIPE, raw=True)


def test_each_cause_is_put_back_alone(tmp_path, demo_dir, monkeypatch) -> None:
    """Every ablation differs from the shipped policy by what its name says, and has its own figures."""
    chosen = {"pool": "pool", "absolute": "absolute", "single": "action_horizon", "one_view": "views"}
    chosen |= {"small_head": "head_width", "evolved_only": "skip", "low_pass": "skip"}
    assert {name: set(one.sizes) for name, one in ablations.ABLATIONS.items() if one.sizes} == {
        name: {size} for name, size in chosen.items()
    }
    few = {name: ablations.ABLATIONS[name] for name in ("none", "pool", "raw", "low_pass")}
    monkeypatch.setattr(ablations, "ABLATIONS", few)
    monkeypatch.setattr("flashtrail.training.tokenizer.task_languages", lambda _suite: list(PROMPTS.values()))
    monkeypatch.setattr("sys.argv", ["a", "--demos", str(demo_dir), "--out", str(tmp_path), "--steps=1", "--batch=2"])
    assert ablations.main() == 0
    found = measurements.read(tmp_path / "ablations.json")
    assert [figure.name for figure in found.figures] == [
        f"{name}_{kind}" for name in few for kind in ("motion", "error", "sensitivity")
    ]
    assert "1 updates" in found.method and found.figure("pool_sensitivity").n == 2
