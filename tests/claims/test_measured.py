"""Claims about figures that no episode has, and about the steps that policies took."""

import os

import pytest
from claims.simulated import METADATA, shard
from claims.test_claims import episodes, verdict, write_claims

from flashtrail.base.errors import UserError
from flashtrail.claims import claims
from flashtrail.tables import measurements, schemas
from flashtrail.tables.measurements import Figure


def measured(root, **figures):
    """A measurement `eyes` whose figures have these ends."""
    made = [
        Figure(name=name, title=name, value=1.0, low=ends and ends[0], high=ends and ends[1], n=9, of="episodes")
        for name, ends in figures.items()
    ]
    measurements.write(root / "eyes.json", "Eyes", "Swapped.", made)
    return {"measured": [str(root / "eyes.json")], "arms": []}


@pytest.mark.parametrize(
    ("ends", "side", "expected"),
    [
        ((0.01, 0.04), {"below": 0.05}, "supported"),
        ((0.01, 0.06), {"below": 0.05}, "inconclusive"),
        ((0.05, 0.09), {"below": 0.05}, "refuted"),
        ((0.11, 0.2), {"above": 0.1}, "supported"),
        ((0.09, 0.2), {"above": 0.1}, "inconclusive"),
        ((0.01, 0.1), {"above": 0.1}, "refuted"),
        (None, {"above": 0.1}, "not_tested"),
    ],
)
def test_the_whole_interval_decides(tmp_path, ends, side, expected) -> None:
    bounds = [{"measurement": "eyes", "figure": "pictures", **side}]
    found = verdict(tmp_path, measured(tmp_path, pictures=ends), test="measured", bounds=bounds)
    assert found["verdict"] == expected
    assert ends is None or f"[{ends[0]:g}, {ends[1]:g}] (9 episodes)" in found["sentence"]


def test_enough_digits_show_on_which_side_of_a_bound_an_end_lies(tmp_path) -> None:
    bounds = [{"measurement": "eyes", "figure": "pictures", "above": -0.02}]
    found = verdict(tmp_path, measured(tmp_path, pictures=(-0.020015, 0.1)), test="measured", bounds=bounds)
    assert found["verdict"] == "inconclusive" and found["short"] == "1 [\u22120.02002, 0.1]"
    assert found["sentence"].startswith("pictures: 1 [\u22120.02002, 0.1] (9 episodes), above \u22120.02: open.")
    for value, beside in ((999.96, 1000.0), (12345.4, 12345.0), (0.3, 0.1 + 0.2), (0.05, 0.05), (1.0, 0.9999)):
        shown = float(measurements.written(value, beside).replace(",", ""))
        assert (shown < beside, shown > beside) == (value < beside, value > beside)


def test_a_figure_that_a_finished_measurement_lacks_is_refused_with_the_nearest(tmp_path) -> None:
    bounds = [
        {"measurement": "eyes", "figure": "picture", "above": 0},
        {"measurement": "ears", "figure": "x", "above": 0},
    ]
    file = claims.load(write_claims(tmp_path, test="measured", bounds=bounds))
    with pytest.raises(UserError, match="claim C7: eyes has no figure 'picture'; did you mean 'pictures'"):
        claims.check_figures("claims.yaml", file, {"eyes": ["pictures", "wrist"]})
    claims.check_figures("claims.yaml", file, {"eyes": ["picture"]})  # ears: known once it is measured


def test_every_bound_has_to_hold_and_one_refutes(tmp_path) -> None:
    inputs = measured(tmp_path, pictures=(0.2, 0.3), amplitude=(0.5, 0.6), open=(0.0, 1.0))
    sides = {"pictures": {"above": 0.1}, "amplitude": {"above": 0.3}, "open": {"above": 0.5}}

    def judged(*names, **more):
        bounds = [{"measurement": "eyes", "figure": name, **(sides | more)[name]} for name in names]
        return verdict(tmp_path, inputs, test="measured", bounds=bounds)["verdict"]

    assert judged("pictures", "amplitude") == "supported"
    assert judged("pictures", "amplitude", "open") == "inconclusive"
    assert judged("pictures", "open", "amplitude", amplitude={"above": 0.9}) == "refuted"


def test_what_was_not_measured_is_not_tested_and_says_what_is_there(tmp_path) -> None:
    inputs = measured(tmp_path, pictures=(0.2, 0.3))
    for bound, said in (
        ({"measurement": "ears", "figure": "pictures", "above": 0}, "ears was not measured"),
        ({"measurement": "eyes", "figure": "wrist", "above": 0}, "eyes has no figure wrist; it has pictures"),
    ):
        found = verdict(tmp_path, inputs, test="measured", bounds=[bound])
        assert found["verdict"] == "not_tested" and said in found["sentence"]


def test_a_bound_has_one_side() -> None:
    with pytest.raises(ValueError, match="give exactly one of below, above"):
        claims.Bound(measurement="eyes", figure="pictures", below=1, above=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, "format"),
        ({"figures": []}, "figures"),
        ({"figures": [{"name": "a"}]}, "figures.0.title"),
        ({"title": None}, "title"),
        ({"title": "a line\nand another"}, "title"),
        ({"title": "\ud800"}, "title"),  # no UTF-8 can hold it, so no page
    ],
)
def test_a_file_that_is_no_measurement_is_one_line(tmp_path, change, said) -> None:
    from flashtrail.base.provenance import json_dump, json_load

    measured(tmp_path, pictures=(0.2, 0.3))
    path = tmp_path / "eyes.json"
    json_dump(json_load(path) | change, path)
    with pytest.raises(UserError, match=f"eyes.json is no measurement: {said}"):
        measurements.read(path)


def test_what_a_config_names_may_be_anything(tmp_path) -> None:
    (tmp_path / "place.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "digits.json").write_text("1" * 5000)
    (tmp_path / "large.json").write_text(" " * (1 << 21))
    (tmp_path / "list.json").write_text("[]")
    for name, said in (
        ("place", "not a file"),
        ("pipe", "not a file"),
        ("digits", "is not valid JSON"),
        ("large", "larger than 1 MiB"),
        ("list", "measurement: expected a mapping, not a list"),
        ("nothing", "does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            measurements.read(tmp_path / f"{name}.json")


def test_figures_are_finite_ordered_and_each_once() -> None:
    good = {"name": "a", "title": "a", "value": 1, "low": 0, "high": 2, "n": 3, "of": "episodes"}
    for wrong in ({"value": float("nan")}, {"low": 3}, {"low": None}, {"n": 0}, {"name": "../a"}):
        with pytest.raises(ValueError):
            Figure.model_validate(good | wrong)
    with pytest.raises(ValueError, match="figure a is there twice"):
        measurements.Measurement(title="t", method="m", figures=[Figure.model_validate(good)] * 2)
    assert [measurements.written(x) for x in (0.01234, 41.23, 12345.6)] == ["0.0123", "41.2", "12,346"]


def write_steps(root, arms):
    """Tables of arms: name -> (outcomes, steps of each episode's rounds)."""
    files = {"episodes": [], "rounds": []}
    for arm, (outcomes, steps) in arms.items():
        rows = [{**row, "verified_success": row["success"]} for row in episodes(arm, "fluid_nano", outcomes)]
        like = shard("clean", 0, 1)["rounds"][0]
        rounds = [
            {**like, **{k: row[k] for k in like if k in row}, "round": number, "steps_used": used}
            for row, taken in zip(rows, steps, strict=True)
            for number, used in enumerate(taken)
        ]
        for table, content, schema in (("episodes", rows, schemas.EPISODES), ("rounds", rounds, schemas.ROUNDS)):
            path = root / arm / f"{table}.parquet"
            schemas.write_table(path, content, schema, METADATA)
            files[table].append(str(path))
    return files | {"arms": list(arms)}


def saved(root, steps, outcomes=(True,) * 40, **claim):
    inputs = write_steps(root, {"dial": (list(outcomes), steps), "full": ([True] * 40, [[12, 12]] * 40)})
    return verdict(root, inputs, test="steps_saved", arm="dial", control="full", margin=0.15, **claim)


def test_steps_saved_needs_fewer_steps_and_no_loss(tmp_path) -> None:
    few = [[6, 7], [6, 6]] * 20
    found = saved(tmp_path, few)
    assert found["verdict"] == "supported" and "ratio 0.521" in found["sentence"]
    assert saved(tmp_path, [[12, 12]] * 40)["verdict"] == "refuted"  # no step is saved
    assert saved(tmp_path, few, [True] * 10 + [False] * 30)["verdict"] == "refuted"  # at this cost
    assert saved(tmp_path, few, [True] * 34 + [False] * 6)["verdict"] == "inconclusive"
    assert saved(tmp_path, few, below=0.5)["verdict"] == "refuted"


def test_steps_differ_looks_within_an_episode(tmp_path) -> None:
    outcomes = [True] * 8
    # apart: each episode has its own number of steps, and always the same one
    arms = {
        "within": (outcomes, [[6, 9, 7]] * 7 + [[6, 6, 6]]),
        "apart": (outcomes, [[n, n, n] for n in range(6, 14)]),
        "none": (outcomes, [[None, None]] * 8),
    }
    inputs = write_steps(tmp_path, arms)
    assert [verdict(tmp_path, inputs, test="steps_differ", arm=arm)["verdict"] for arm in arms] == [
        "supported",
        "refuted",
        "not_tested",
    ]
