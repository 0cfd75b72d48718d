"""The core apart from any robot: what it is tried on, the arithmetic of its figures, quick runs of all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashtrail.base import commands
from flashtrail.benchmark.substrate import __main__ as command
from flashtrail.benchmark.substrate import data, figures, moving, networks, pick2d, volumes
from flashtrail.policies.fluid.field import DOCUMENT_D, Layer, Stop, evolve
from flashtrail.tables import measurements

# --- what it is tried on ---


def test_every_row_is_held_out_once_and_never_trained_on_in_its_fold():
    made = data.folds(23, 5)
    assert sorted(np.concatenate([held for _, held in made])) == list(range(23))
    for train, held in made:
        assert not set(train) & set(held) and len(train) + len(held) == 23
        assert list(held) == list(range(held[0], held[-1] + 1))  # neighbours, who may be one writer's, together


@pytest.mark.parametrize("parts", [0, 1, 24])
def test_folds_that_would_be_empty_are_refused(parts):
    with pytest.raises(ValueError, match=f"23 rows cannot be held out in {parts} parts"):
        data.folds(23, parts)


def test_a_point_is_reflected_at_both_walls():
    path = data.bounced(np.array([1.0, 9.0]), np.array([-3.0, 4.0]), 5, room=10.0)
    assert path.tolist() == [[1, 9], [2, 7], [5, 3], [8, 1], [9, 5]]  # 1 - 3 = -2 -> 2; 9 + 4 = 13 -> 7


def test_digits_keep_their_light_and_stay_in_the_picture():
    rng = np.random.default_rng(0)
    sprites = np.ones((1, 3, 3), np.float32)
    still = np.array([True, False])
    made = data.moving(sprites, rng, still, frames=40, side=9)
    assert made.shape == (2, 40, 9, 9)
    light = made.sum((2, 3))
    assert light.min() >= 9 and light.max() <= 18  # two of nine pixels, at most one behind the other
    assert (made[0] == made[0, 0]).all() and not (made[1] == made[1, 0]).all()


def test_a_volumes_noise_hides_no_ellipsoid_on_average():
    pictures, truth = data.volumes(np.random.default_rng(0), 8, 16)
    assert set(np.unique(truth)) == {0, 1} and 0.01 < truth.mean() < 0.5
    inside, outside = pictures[truth > 0].mean(), pictures[truth == 0].mean()
    assert inside > outside + 0.5
    again = data.volumes(np.random.default_rng(0), 8, 16)
    np.testing.assert_array_equal(pictures, again[0])


# --- the stencil in volumes ---


def test_the_volume_stencil_is_the_second_difference_along_three_axes():
    layer = networks.VolumeLayer(2, "uncalibrated").requires_grad_(False)
    torch.manual_seed(0)
    u = torch.randn(1, 1, 5, 6, 7, 2)
    d = torch.nn.functional.softplus(torch.tensor(DOCUMENT_D)).item()
    expected = np.zeros(u.shape[2:])
    for s in (1, 2, 4):
        wide = np.pad(u[0, 0].numpy(), [(s, s)] * 3 + [(0, 0)])
        for axis, length in enumerate(u.shape[2:5]):
            for shift in (0, 2 * s):
                place = [slice(s, -s)] * 3
                place[axis] = slice(shift, shift + length)
                expected += d * wide[tuple(place)]
        expected -= 6 * d * u[0, 0].numpy()
    np.testing.assert_allclose(layer.diffusion(u, layer.coefficients())[0, 0].numpy(), expected, atol=1e-5)


def test_without_diffusion_a_layer_has_no_stencil_and_a_volume_cell_knows_no_neighbour_beyond_the_memory():
    off, on = (networks.VolumeLayer(4, kind).requires_grad_(False) for kind in ("off", "calibrated"))
    assert off.spread.numel() == 0 and on.spread.shape == (3, 4)
    u = torch.zeros(1, 1, 8, 8, 8, 4)
    u[0, 0, 4, 4, 4] = 1.0
    assert on.diffusion(u, on.coefficients())[0, 0, 5, 4, 4].abs().sum() > 0
    assert off.local_memory(u).shape == u.shape


def test_the_change_of_a_step_is_that_of_the_equation():
    torch.manual_seed(0)
    layer, u = Layer(4, (1,), (), document=False).requires_grad_(False), torch.randn(2, 1, 1, 9, 9, 4)
    seen = moving.changes(layer, u, 3)
    assert seen.shape == (3, 2)
    with torch.no_grad():
        layer.react_out.weight.zero_(), layer.react_out.bias.zero_(), layer.spread.fill_(-50.0)
        layer.of_global.fill_(-50.0), layer.of_local.fill_(-50.0)
    assert moving.changes(layer, u, 3).max() < 1e-6  # nothing is added, though a norm follows
    assert evolve(layer, u, 3, Stop(0.0)).turbulence[0].min() > 1e-3  # which turbulence takes for change


@pytest.mark.parametrize("document", [False, True])
def test_steps_stop_early_from_the_epsilon_that_is_said(document):
    torch.manual_seed(0)
    layer, u = Layer(4, (1,), (), document).requires_grad_(False), torch.randn(1, 1, 1, 9, 9, 4)
    (least,) = moving.acts_from(evolve(layer, u, 8, Stop(0.0)).turbulence)
    assert evolve(layer, u, 8, Stop(least * 0.999)).steps.item() == 8
    assert evolve(layer, u, 8, Stop(least * 1.001)).steps.item() < 8


# --- the arithmetic of the figures ---


def test_dice_counts_overlap_twice_and_two_empty_volumes_agree():
    truth, said = np.zeros((3, 2, 2), bool), np.zeros((3, 2, 2), bool)
    truth[0, 0] = said[0, 0, 0] = said[0, 1, 1] = True  # 2 true, 2 said, 1 of both
    said[1] = True
    assert volumes.dice(said, truth).tolist() == [0.5, 0.0, 1.0]


def test_a_paired_difference_is_of_the_same_images():
    a, b = np.array([1, 1, 1, 0, 1, 0] * 10, bool), np.array([1, 0, 0, 1, 1, 0] * 10, bool)
    made = figures.difference("ours_less_logistic", "accuracy", a, b, "images")
    assert made.value == pytest.approx((20 - 10) / 60) and made.n == 60
    assert "right alone: 20 and 10 images" in made.title and made.low < made.value < made.high


def test_how_often_steps_differ_has_an_interval_also_where_none_does():
    same, varied = (moving.differ("x", "x", np.array(steps)) for steps in ([12.0] * 100, [12.0] * 90 + [9.0] * 10))
    assert (same.value, same.low) == (0, 0) and 0.03 < same.high < 0.05
    assert varied.value == 0.1 and varied.low < 0.1 < varied.high


def test_a_spread_of_equal_steps_is_zero_without_an_interval():
    same = figures.spread("x", "x", np.full(20, 12.0), "sequences")
    assert (same.value, same.low, same.high) == (0.0, None, None)
    varied = figures.spread("x", "x", np.arange(20.0), "sequences")
    assert varied.low < varied.value == pytest.approx(np.arange(20).std()) and varied.value < varied.high * 1.1


def test_two_seeds_are_compared_on_four_volumes_at_a_time():
    scores = np.zeros((3, 22))  # of 22 volumes the last two make no group
    scores[1], scores[2, :4] = 0.01, 0.002
    scores[:, 20:] = 9.0
    root, beyond = volumes.noise("off", scores)
    # pairs: 0-1 differs by 0.01 in five groups; 0-2 by 0.002 in one; 1-2 by 0.008 in one, by 0.01 in four
    assert root.value == pytest.approx(np.sqrt((5 * 0.01**2 + 0.002**2 + 0.008**2 + 4 * 0.01**2) / 15))
    assert beyond.value == pytest.approx((5 + 5) / 15) and beyond.n == 5


def test_the_interval_over_seeds_and_volumes_is_wider_than_over_either():
    rng = np.random.default_rng(0)
    of_seed, of_volume = rng.normal(size=(6, 1)), rng.normal(size=(1, 20))
    alone = volumes.crossed_interval(of_volume + np.zeros((6, 1)))
    both = volumes.crossed_interval(of_seed + of_volume)
    assert both.high - both.low > alone.high - alone.low
    assert both.low < (of_seed + of_volume).mean() < both.high
    assert volumes.crossed_interval(np.zeros((4, 20))) is None


# --- quick runs ---

FIGURES = {
    "digits": {"accuracy_ours", "accuracy_document", "accuracy_logistic", "ours_less_logistic", "ours_less_vit"},
    "moving": {"ours_over_copy", "ours_over_none", "document_eps_010_differ", "document_layer_2_acts_from"},
    "volumes": {"dice_off", "dice_unet", "calibrated_less_off", "off_two_seeds", "off_two_seeds_beyond"},
    "pick2d": {"first_sensitivity", "first_blind", "early_own", "ours_success", "vit_spread", "ours_less_first"},
}


@pytest.mark.parametrize("task", FIGURES)
def test_a_quick_run_writes_a_measurement_and_again_the_same(task, tmp_path):
    for name in ("one", "two"):
        command.measure(task, tmp_path / f"{name}.json", quick=True)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    made = measurements.read(tmp_path / "one.json")
    assert {figure.name for figure in made.figures} >= FIGURES[task]
    command.measure(task, tmp_path / "other.json", quick=True, seed=1)
    assert made.figures != measurements.read(tmp_path / "other.json").figures


def test_a_held_out_sequence_has_no_digit_of_the_training():
    """By value: no held-out digit's picture is drawn while a network is trained."""
    drawn = []
    original = data.moving
    try:
        data.moving = lambda sprites, *rest: drawn.append(sprites) or original(sprites, *rest)
        moving.measure(**moving.QUICK, seed=0)
    finally:
        data.moving = original
    asked, trained = drawn[0], drawn[2]
    assert not {x.tobytes() for x in asked} & {x.tobytes() for x in trained}


@pytest.mark.parametrize(("words", "said"), [(["digit"], "invalid choice: 'digit'"), ([], "required: task")])
def test_a_mistake_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["substrate", *words, "--out", str(tmp_path / "x.json")])
    assert commands.run(command.main, "substrate") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not list(tmp_path.iterdir())


def test_a_directory_for_the_measurement_is_refused_before_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["substrate", "digits", "--out", str(tmp_path)])
    monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("it was trained"))
    assert commands.run(command.main, "substrate") == 2
    assert capsys.readouterr().err == f"error: --out {tmp_path} is a directory: name a file in it\n"


def test_an_artifact_that_is_none_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pick2d", "--artifact", str(tmp_path / "none")])
    assert commands.run(pick2d.main, "substrate") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: no artifact directory {tmp_path}/none")
