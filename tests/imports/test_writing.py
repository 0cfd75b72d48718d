"""An import on disk: names are data, an import is there whole or not at all, two are never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports import official, stages

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.imports import writing
from flashtrail.imports.columns import Columns
from flashtrail.imports.csv_run import CsvRun
from flashtrail.imports.official import read_run
from flashtrail.imports.record import Imported
from flashtrail.report.command import prepare, write_pages

SUITE = Columns.parse(constants=["suite=libero_goal"])
HOSTILE = ["../../evil", "/etc/evil", "a/b\\c:d", "..", "-rf", "<script>alert(1)</script>", "\u00fc", "x" * 300, "a\n"]


def stage(root: Path, name: str, arm: str | None = None) -> Imported:
    files = [stages.path(root, f"{name}_{kind}") for kind in ("infer", "episode")]
    return CsvRun(files, "pi0", 7, arm, SUITE if name != "stage4" else None).read()


def below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_from_a_record_never_leaves_the_directory(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home" / "deep" / "out"
    drawn = stages.write(tmp_path / "csv", trials=1)
    rows = [{**row, "run_name": name, "task_suite_name": name} for row in drawn["stage4_episode"]]
    stages.write_rows(tmp_path / "csv/e.csv", stages.HEADERS["stage4_episode"].split(","), rows)
    before = below(tmp_path / "csv")
    assert cli.main(["import-run", "--csv", str(tmp_path / "csv/e.csv"), "--seed", "7", "--out", str(home)]) == 0
    inputs = prepare([home], home)
    write_pages(inputs, home)
    assert inputs["arms"] == [name]
    assert below(tmp_path) == {f"csv/{path}" for path in before} | {f"home/deep/out/{p}" for p in below(home)}
    pages = sorted((home / "episodes").glob("*/*.html"))
    assert len(pages) == len(rows) + 1  # the episodes' and the list
    for page in pages:
        assert "<script>alert" not in page.read_text() and page.resolve().is_relative_to(home.resolve())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_run_id_of_a_manifest_is_data_too(tmp_path: Path, name: str) -> None:
    official.write_run(tmp_path / "run", trials=1)
    manifest = tmp_path / "run" / "manifest.json"
    provenance.json_dump({**provenance.json_load(manifest), "run_id": name}, manifest)
    writing.write(read_run(tmp_path / "run", "pi0"), tmp_path / "a" / "b" / "out")
    assert {path.split("/")[0] for path in below(tmp_path)} == {"run", "a"}
    assert len(list((tmp_path / "a/b/out/tables").iterdir())) == 1


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arm=st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()))
def test_any_arm_is_one_directory_below_tables(tmp_path: Path, arm: str) -> None:
    stages.write(tmp_path / "csv", trials=1)
    found = CsvRun([stages.path(tmp_path / "csv", "stage4_episode")], "pi0", 7, arm).read()
    places, _ = writing.write(found, tmp_path / "out", replace=True)
    assert len(places) == 1 and (tmp_path / "out" / places[0]).resolve().parent == (tmp_path / "out/tables").resolve()


def test_several_stages_lie_side_by_side_and_a_repeated_arm_is_refused(tmp_path: Path) -> None:
    stages.write(tmp_path)
    out = tmp_path / "out"
    for name, arm in (("stage4", "clean"), ("stage5", None), ("stage7", None)):
        writing.write(stage(tmp_path, name, arm), out)
    arms = ["clean", *stages.CONDITIONS["stage5"], *stages.CONDITIONS["stage7"]]
    assert sorted(path.name for path in (out / "tables").iterdir()) == sorted(arms)
    before = {path: (out / path).read_bytes() for path in below(out)}
    with pytest.raises(UserError, match="has tables/wrist_zero_all, tables/wrist_zero_every4 already: give --replace"):
        writing.write(stage(tmp_path, "stage5"), out)
    assert {path: (out / path).read_bytes() for path in below(out)} == before


def test_replace_takes_the_whole_earlier_import_and_nothing_else(tmp_path: Path) -> None:
    drawn = stages.write(tmp_path)
    out = tmp_path / "out"
    writing.write(stage(tmp_path, "stage4", "clean"), out)
    writing.write(stage(tmp_path, "stage5"), out)
    for kind in ("infer", "episode"):  # the second time, one of the two conditions is not there any more
        rows = [row for row in drawn[f"stage5_{kind}"] if row["condition"] == "wrist_zero_all"]
        stages.write_rows(stages.path(tmp_path, f"stage5_{kind}"), stages.HEADERS[f"stage5_{kind}"].split(","), rows)
    new, gone = writing.write(stage(tmp_path, "stage5"), out, replace=True)
    assert (new, gone) == (["tables/wrist_zero_all"], ["tables/wrist_zero_every4"])
    assert sorted(path.name for path in (out / "tables").iterdir()) == ["clean", "wrist_zero_all"]


def test_what_a_record_names_as_its_places_is_removed_only_below_tables(tmp_path: Path) -> None:
    stages.write(tmp_path)
    out, kept = tmp_path / "out", tmp_path / "kept"
    kept.mkdir()
    writing.write(stage(tmp_path, "stage4", "clean"), out)
    record = out / "tables/clean/import.json"
    odd = ["../kept", "tables/../../kept", "/etc", "tables/.", 7]
    provenance.json_dump({**provenance.json_load(record), "places": ["tables/clean", *odd]}, record)
    _, gone = writing.write(stage(tmp_path, "stage4", "clean"), out, replace=True)
    assert gone == [] and kept.is_dir()


def test_an_import_that_was_killed_is_noticed_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.write(tmp_path)
    out = tmp_path / "out"

    def killed(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_swap", killed)
        with pytest.raises(KeyboardInterrupt):
            writing.write(stage(tmp_path, "stage5"), out)
    with pytest.raises(UserError, match="an import was interrupted here"):
        prepare([out], out)
    writing.write(stage(tmp_path, "stage5"), out, replace=True)
    assert len(prepare([out], out)["arms"]) == 2


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_out_that_is_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    stages.write(tmp_path)
    (tmp_path / "file").write_text("mine")
    words = ["import-run", "--csv", str(stages.path(tmp_path, "stage4_episode")), "--seed", "7"]
    assert cli.main([*words, "--out", str(tmp_path / place)]) == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and ("cannot be a directory" in said or "is a file" in said)
        and (tmp_path / "file").read_text() == "mine"
    )
