"""Figures without episodes and steps of a dial on the page: each number is that of its rows."""

import json

import pytest
from bs4 import BeautifulSoup
from claims.test_claims import write_claims
from claims.test_measured import measured, write_steps

from flashtrail.base import provenance
from flashtrail.claims import summaries, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import cards, figures, measured_chapter, steps_chapter, sweep_figures
from flashtrail.statistics.intervals import Interval
from flashtrail.tables import measurements, schemas
from flashtrail.tables.measurements import Figure

STEPS = {
    "dial": ([True] * 6 + [False] * 2, [[6, 9]] * 7 + [[8, 8]]),
    "full": ([True] * 8, [[12, 12]] * 8),
    "other": ([True] * 8, [[None, None]] * 8),
}


def formats(folder) -> None:
    """Write a measurement of number formats: seven variants and their control."""
    names = ("bfloat16", "float16", "int8_dynamic", "int8_weight", "compile", "onnx", "onnx_int8")
    found = [figure("control_relative", "control, other noise", 0.3)]
    for place, name in enumerate(names):
        title = f"{name.replace('_', ' ')} of a longer name: times as fast"
        found += [figure(f"{name}_speedup", title, 0.2 * 2**place), figure(f"{name}_relative", name, 0.1**place)]
    measurements.write(folder / "precision_lift_nano.json", "Formats", "drawn", found)


def figure(name: str, title: str, value: float) -> Figure:
    return measurements.figure(name, title, value, Interval(0.9 * value, 1.2 * value), 9, "repetitions")


def words(part) -> str:
    return BeautifulSoup(str(part), "html.parser").get_text(" ").replace("\u00a0", " ")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Campaign:
    return made(tmp_path_factory.mktemp("dial"), STEPS)


def made(root, arms) -> Campaign:
    files = write_steps(root, arms) | {"summaries": []}
    for arm in arms:
        places = {name: root / arm / f"{name}.parquet" for name in schemas.SCHEMAS}
        schemas.write_table(places["steps"], [], schemas.STEPS, {})
        provenance.json_dump(summaries.summarize_arm(**places), root / f"{arm}.json")
        files["summaries"].append(str(root / f"{arm}.json"))
    return Campaign(files | measured(root, pictures=(0.25, 0.5), wrist=None) | {"arms": list(arms)})


def test_steps_stand_beside_success_of_the_arms_that_take_any(run) -> None:
    assert steps_chapter.arms(run) == ["dial", "full"]
    (table,) = steps_chapter.section(run).tables
    dial, full = ([words(row[key]) for key in ("steps", "least", "within")] for row in table.rows)
    assert dial[0].startswith("7.56 [") and dial[1:] == ["6 to 9", f"{7 * 1.5 / 8:.2f}"]
    assert full == ["12.00", "12 to 12", "0.00"]  # alike in every episode: no interval


def test_each_figure_stands_with_its_interval_and_what_it_is_over(run) -> None:
    text = words(measured_chapter.section(run))
    assert "Eyes" in text and "Swapped." in text
    assert "pictures 1 [0.25, 0.5] 9 episodes" in " ".join(text.split())
    assert "wrist 1, no interval 9 episodes" in " ".join(text.split())


def test_figures_of_claims_stand_first_with_their_bounds_and_the_rest_is_folded(tmp_path) -> None:
    many = {f"{core}_{number}": (0.0, 1.0) for core in ("ours", "theirs") for number in range(9)}
    inputs = measured(tmp_path, speed=(0.1, 0.2), **many)
    bounds = [{"measurement": "eyes", "figure": "speed", "below": 0.15}]
    claims = verdicts.evaluate(write_claims(tmp_path, test="measured", bounds=bounds), inputs)
    provenance.json_dump(claims, tmp_path / "claims.json")
    found = Campaign(inputs | {"claims": str(tmp_path / "claims.json")})
    first, *rest = measured_chapter.section(found).tables
    assert [row["figure"] for row in first.rows] == ["speed"] and "C7 : below 0.15, open" in words(
        first.rows[0]["eyes"]
    )
    assert [table.name for table in rest] == ["measured-eyes/ours", "measured-eyes/theirs"]
    assert "<summary>9\u00a0further figures: ours" in str(measured_chapter.section(found))
    card = words(cards.section(found, None))
    assert "speed: 1 [0.1, 0.2], below 0.15: open" in card


def test_both_bounds_of_a_band_are_on_card_and_chapter(tmp_path) -> None:
    inputs = measured(tmp_path, speed=(0.1, 0.2))
    bounds = [{"measurement": "eyes", "figure": "speed", **side} for side in ({"above": 0}, {"below": 0.15})]
    claims = verdicts.evaluate(write_claims(tmp_path, test="measured", bounds=bounds), inputs)
    provenance.json_dump(claims, tmp_path / "claims.json")
    found = Campaign(inputs | {"claims": str(tmp_path / "claims.json")})
    for part in (cards.section(found, None), measured_chapter.section(found)):
        told = " ".join(words(part).split())
        assert "above 0" in told and "met" in told and "below 0.15" in told and "open" in told


def test_measurements_of_the_same_figures_are_columns_of_one_table(tmp_path) -> None:
    for name, value in (("field", 0.25), ("vit", 0.5)):
        made = Figure(name="error", title="error", value=value, low=0.2, high=0.6, n=9, of="episodes")
        measurements.write(tmp_path / f"{name}.json", f"{name} on held-out episodes", "Asked.", [made])
    section = measured_chapter.section(Campaign({"measured": [str(tmp_path / f"{n}.json") for n in ("field", "vit")]}))
    assert "2 measurements of the same figures" in section
    (table,) = section.tables
    assert [head.split()[0] for head in table.columns.values()] == ["Figure", "field", "vit"]
    cells = [" ".join(words(table.rows[0][name]).split()) for name in ("field", "vit")]
    assert cells == ["0.25 [0.2, 0.6] 9 episodes", "0.5 [0.2, 0.6] 9 episodes"]


def test_a_run_without_either_has_no_such_section() -> None:
    bare = Campaign({})
    assert not str(measured_chapter.section(bare)) and not str(steps_chapter.section(bare))


def dial(root) -> Campaign:
    """Arms of one policy that differ by their steps, and some that differ by something else."""
    steps = {"full": [[12, 12]] * 8, "calm": [[6, 9]] * 8, "fixed": [[7, 7]] * 8}
    others: dict[str, dict] = {
        "black": {"condition": {"kind": "zero", "view": "both"}},
        "limited": {"limits": {"name": "table", "act": True}},
        "late": {"clock": {"kind": "running"}},
        "guarded": {"guard": {"kind": "oracle"}},
        "replanned": {"execution": {"replan_steps": 1}},
        "mixed": {"settings": {"temperature": 0.5}},
        "both": {"settings": {"epsilon": 0.1, "max_steps": 4}},
    }
    run = made(root, {arm: ([True] * 6 + [False] * 2, steps.get(arm, [[5, 5]] * 8)) for arm in (*steps, *others)})
    turned = {"calm": {"settings": {"epsilon": 0.1}}, "fixed": {"settings": {"max_steps": 4}}, **others}
    usual = {"condition": {"kind": "none"}, "guard": {"kind": "none"}, "limits": {"name": "measured", "act": False}}
    for arm, summary in run.summaries.items():
        summary["metadata"] = {name: json.dumps(value) for name, value in {**usual, **turned.get(arm, {})}.items()}
    return run


def test_the_dial_is_drawn_of_arms_that_differ_by_their_steps_alone(tmp_path) -> None:
    run = dial(tmp_path)
    lines = sweep_figures.dials(run)
    assert {label: [x for x, _ in points] for label, points in lines.items()} == {
        "stops when calm": [12.0, 7.5],
        "fixed number of steps": [12.0, 7.0],
    }
    assert {(rate["k"], rate["n"]) for points in lines.values() for _, rate in points} == {(6, 8)}
    assert figures.FIGURES["dial"].line in str(steps_chapter.section(run))
    del run.summaries["fixed"]
    assert not sweep_figures.dials(run)


def test_number_formats_are_drawn_each_at_its_speed_and_error(tmp_path) -> None:
    formats(tmp_path)
    run = Campaign({"measured": [str(tmp_path / "precision_lift_nano.json")]})
    assert figures.names(run) == ["precision/precision_lift_nano"]
    axes = figures.drawn(run, "precision/precision_lift_nano").axes[0]
    marks = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert len(marks) == 7 and len({(m.get_marker(), m.get_color()) for m in marks.values()}) == 7
    half = marks["float16 of a longer name"]
    assert (half.get_xdata()[0], half.get_ydata()[0]) == pytest.approx((0.4, 0.1))
    assert figures.FIGURES["precision"].line in str(measured_chapter.section(run))
    other = Campaign(measured(tmp_path, speed=(0.1, 0.2)))
    assert figures.FIGURES["precision"].line not in str(measured_chapter.section(other))
