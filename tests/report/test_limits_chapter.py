"""Limits on the page: what each arm's column says is what its episodes say; the layers' distribution is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from claims.simulated import METADATA, shard

from flashtrail.base import provenance
from flashtrail.benchmark import safety_layer
from flashtrail.claims import summaries
from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, figures, limits_chapter, limits_figures, verdict
from flashtrail.tables import measurements, schemas

N = 20
ACTS = {"limits_hostile": True, "limits_hostile_none": False, "plain": None}


def layers(folder: Path) -> None:
    """Write the measurement of both layers, of drawn actions."""
    rng, printed = np.random.default_rng(0), safety_layer.PrintedLayer()
    rows = [(k % 10, action, printed(action), action) for k, action in enumerate(rng.uniform(-1, 1, (200, 7)))]
    found = [*safety_layer.figures("random", rows), *safety_layer.figures("expert", rows)]
    folder.mkdir(parents=True, exist_ok=True)
    measurements.write(folder / "safety_layer.json", "Layers", "drawn", found)


BOX = {"low": [-0.25, -0.25, 0.803], "high": [0.25, 0.25, 1.25]}
GIVEN = {"box": BOX, "max_step_m": None, "max_force_n": 40.0, "on_force": "retreat"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Campaign:
    return made(tmp_path_factory.mktemp("limits"))


def made(root: Path) -> Campaign:
    files: dict[str, list[str]] = {name: [] for name in (*schemas.SCHEMAS, "summaries")}
    for arm, act in ACTS.items():
        tables = {name: [row | {"arm": arm} for row in rows] for name, rows in shard("full_only", 0, N).items()}
        for number, row in enumerate(tables["episodes"]):
            row["verified_success"] = row["success"]
            if act is not None:
                row |= {"worst_excursion_mm": number - 5.0 if act else 200.0 + number, "peak_force_n": 6.0 + number}
                row |= {"limited_steps": 4, "stops": int(number < 3)} if act else {}
        about = METADATA | {"condition": json.dumps({"kind": "none"})}
        about |= {} if act is None else {"limits": json.dumps({"name": "table", "act": act, **GIVEN})}
        places = {name: root / arm / f"{name}.parquet" for name in schemas.SCHEMAS}
        for name, place in places.items():
            schemas.write_table(place, tables[name], schemas.SCHEMAS[name], about)
            files[name].append(str(place))
        provenance.json_dump(summaries.summarize_arm(**places), root / f"{arm}.json")
        files["summaries"].append(str(root / f"{arm}.json"))
    layers(root)
    return Campaign(files | {"arms": list(ACTS), "measured": [str(root / "safety_layer.json")]})


def test_each_arm_with_limits_has_its_measurements_beside_its_control(run):
    made = limits_chapter.section(run)
    rows = [" ".join(row.get_text(" ").split()) for row in BeautifulSoup(str(made), "html.parser").select("tbody tr")]
    acting, control = rows
    steps = int(run.judged("limits_hostile")["steps"].sum())
    assert f"{4 * N}/{steps}" in acting and "4.5 (14.0)" in acting and "15.5 (25.0)" in acting and f"3/{N}" in acting
    assert "only measured" in control and "209.5 (219.0)" in control
    assert "limits table" in arm_words.words(run.summaries["limits_hostile"], "")
    assert "measured, not limited" in arm_words.words(run.summaries["limits_hostile_none"], "")
    assert "clipping" in figures.names(run) and figures.FIGURES["clipping"].line in str(made)
    assert "bound method" not in str(made)
    box = "box x \u22120.25 to 0.25, y \u22120.25 to 0.25, z 0.803 to 1.25 m"
    words = f"Limits \u201ctable\u201d: {box}; above 40 N at the wrist: retreat."
    assert words in BeautifulSoup(str(made), "html.parser").get_text()
    assert limits_figures.boxed(run) == ["limits_hostile", "limits_hostile_none"]
    assert figures.FIGURES["excursions"].line in str(limits_chapter.drawing(run))


def test_a_run_without_limits_has_no_such_section():
    assert not limits_chapter.arms(Campaign({})) and str(limits_chapter.section(Campaign({}))) == ""


def test_the_printed_layer_does_what_the_document_prints():
    """Its own demonstration: the box cuts -0.8; the first action is not limited in speed, the second is."""
    layer = safety_layer.PrintedLayer()
    assert layer(np.array([0.3, -0.8, 0.1, 0, 0, 0, 0.5])).tolist() == [0.3, -0.5, 0.1, 0, 0, 0, 0.5]
    second = layer(np.array([0.3, -0.5, 0.1, 0, 0, 0, -0.5]))
    assert second[6] == pytest.approx(0.48), "told to close the other way, the gripper moves by 0.02"
    assert np.isnan(layer(np.full(7, np.nan))).all()


def test_the_shares_of_a_layer_are_counts_of_its_actions():
    turned = np.array([0.0] * 6 + [-1.0])
    rows = [(k, np.ones(7), np.ones(7), sent) for k in range(6) for sent in (turned, np.ones(7))]  # two an episode
    made = safety_layer.figures("random", rows)
    found = {figure.name: figure.value for figure in made}
    assert {(figure.n, figure.of) for figure in made} == {(12, "random actions of 6 episodes")}
    assert found["printed_random_changed"] == 0.0 and found["ours_random_changed"] == 0.5
    none = next(figure for figure in made if figure.name == "printed_random_changed")
    assert (none.low, round(none.high, 2)) == (0.0, 0.39), "of none in six episodes Wilson's interval"
    assert found["ours_random_gripper_turned"] == 0.5
    assert found["ours_random_changed_15"] == 0.5 and found["ours_random_changed_02"] == 0.5


def test_the_sentence_names_few_metrics_and_counts_the_rest():
    claims = [
        {"test": "metric_rate", "verdict": found, "title": f"Claim {number}", "arms": ["a"],
         "numbers": {"rate": {"k": number, "n": 9}}}
        for number, found in enumerate(["supported"] * 4 + ["refuted", "inconclusive", "not_tested"])
    ]  # fmt: skip
    said = [part.text for part in verdict._metrics(claims)]
    assert said == ["claim 0 (0/9)", "claim 1 (1/9)", "2 of 4 further claims of this kind are supported"]
    assert len(verdict._metrics(claims[:3])) == 3
