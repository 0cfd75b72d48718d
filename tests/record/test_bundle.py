"""Bundles: what is in one, and that no single change to it goes unnoticed, with and without new checksums."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import validation
from record import campaign, remembered

from flashtrail import cli
from flashtrail.base import parquet, provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import looks
from flashtrail.record import audit, bundle, checks, crate, manifest, replay, rows
from flashtrail.record.run import Run
from flashtrail.report import early
from flashtrail.tables import schemas

ARM = "wrist_zero_every4"
TABLES = f"results/tables/{ARM}"
SHARD = f"results/rollouts/{ARM}/task_1"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run that no test changes."""
    return campaign.copy(tmp_path_factory.mktemp("run") / "here")


@pytest.fixture(scope="module")
def original(written: Path) -> Path:
    """Return its bundle, which no test changes."""
    return campaign.build(written)


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from bytes that were audited before is not computed again: of a spoilt bundle, most of it."""
    remembered.remember(monkeypatch)


@pytest.fixture
def root(written: Path, tmp_path: Path, spoilt: None) -> Path:
    """Return a finished run to spoil, alone in its directory."""
    return Path(shutil.copytree(written, tmp_path / "here"))


@pytest.fixture
def copy(original: Path, tmp_path: Path, spoilt: None) -> Path:
    """Return a bundle to tamper with."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def failed(root: Path) -> dict[str, list[str]]:
    return {check.name: check.problems for check in audit.checks(Run(root)) if check.problems}


def change(path: Path, row: int, column: str, new: Callable[[Any], Any]) -> None:
    """Give one cell of a Parquet file another value; schema and metadata stay, its own checksum is renewed."""
    table = parquet.read(path)
    values = table[column].to_pylist()
    before, values[row] = values[row], new(values[row])
    assert before != values[row]
    field = table.schema.field(column)
    changed = table.set_column(table.column_names.index(column), field, pa.array(values, field.type))
    parquet.write(changed.replace_schema_metadata(table.schema.metadata), path)


def cover_up(root: Path) -> None:
    """Renew everything that only repeats the files' own content: row digests, crate, checksums."""
    files = [f for f in Run(root).files() if f.endswith(".parquet") and f != rows.DIGESTS]
    rows.write_digests(root, files)
    graph = provenance.json_load(root / crate.NAME)
    for entity in graph["@graph"]:
        if "sha256" in entity and (root / entity["@id"]).is_file():
            entity["sha256"] = provenance.sha256_file(root / entity["@id"])
    (root / crate.NAME).write_text(json.dumps(graph))
    manifest.write(root, Run(root).files())


# --- what is in it ---


def test_a_bundle_passes_its_audit_and_has_what_a_stranger_needs(original: Path) -> None:
    assert failed(original) == {}
    files = set(Run(original).files())
    for name in ("config.yaml", "claims.yaml", "results/claims/claims.json", "reports/final.html", "Snakefile"):
        assert name in files
    assert "envs/constraints.txt" in files and any(f.startswith(".snakemake/metadata/") for f in files)
    assert set(manifest.read(original)) == files - {manifest.NAME}


def test_the_crate_meets_the_workflow_run_profile(original: Path) -> None:
    assert validation.problems(original) == []


def test_the_validator_notices_a_run_without_its_workflow(copy: Path) -> None:
    graph = provenance.json_load(copy / crate.NAME)
    for entity in graph["@graph"]:
        if entity["@id"] == "#run":
            del entity["instrument"]
    (copy / crate.NAME).write_text(json.dumps(graph))
    assert any("instrument" in line for line in validation.problems(copy))


def test_the_same_run_gives_the_same_bundle(original: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    again = campaign.build(campaign.write(tmp_path / "here"))
    assert original.with_name("bundle.zip").read_bytes() == again.with_name("bundle.zip").read_bytes()


def test_the_zip_is_audited_as_the_directory_is(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = original.with_name("bundle.zip")
    assert zipfile.ZipFile(archive).testzip() is None
    digest = provenance.sha256_file(original / manifest.NAME)
    assert cli.main(["audit", str(archive), "--digest", digest]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert cli.main(["audit", str(archive), "--digest", "0" * 64]) == 1
    assert "FAIL  digest" in capsys.readouterr().out


def test_an_unfinished_run_is_refused_and_leaves_nothing(root: Path) -> None:
    (root / SHARD / "steps.parquet").unlink()
    with pytest.raises(UserError, match=rf"{SHARD}/steps.parquet missing"):
        campaign.build(root)
    assert sorted(p.name for p in root.parent.iterdir()) == ["here"]


def test_the_page_of_a_run_under_way_is_no_report(root: Path, copy: Path) -> None:
    page = root / "reports/final.html"
    page.unlink()
    early.write(page, early.text({}, {}))
    with pytest.raises(UserError, match=r"final\.html is the page of a run that has not ended: finish it"):
        campaign.build(root)
    shutil.copyfile(page, copy / "reports/final.html")
    assert failed(copy)["report"] == ["reports/final.html is the page of a run that had not ended"]


def test_a_run_that_contradicts_itself_is_refused_and_leaves_nothing(root: Path) -> None:
    change(root / TABLES / "rounds.parquet", 4, "accepted_prefix", lambda n: n + 1)
    with pytest.raises(UserError, match="does not pass its own audit"):
        campaign.build(root)
    assert sorted(p.name for p in root.parent.iterdir()) == ["here"]


def test_a_directory_that_is_no_bundle_is_never_replaced(root: Path) -> None:
    with pytest.raises(UserError, match="is not a bundle"):
        bundle.build(root, root, bundle.Settings(profile=None))
    assert (root / "config.yaml").is_file()


def test_an_audit_by_other_code_says_so(copy: Path) -> None:
    assert checks.other_code(Run(copy)) == ""
    shutil.copytree(provenance.PACKAGE_ROOT, copy / "src/flashtrail", ignore=shutil.ignore_patterns("__pycache__"))
    assert checks.other_code(Run(copy)) == ""
    with (copy / "src/flashtrail/base/errors.py").open("a") as stream:
        stream.write("# another")
    assert "different code" in checks.other_code(Run(copy))


def test_what_earlier_code_did_not_record_is_not_held_against_it(copy: Path) -> None:
    """Its verdicts, numbers and rows are; the same gap in a bundle of this code is a fault."""
    run = Run(copy)
    path = run.path(run.evaluation["output"]["claims"])
    recorded = json.loads(path.read_text())
    for claim in recorded["claims"]:
        del claim["anytime"]
        claim["sentence"] = "As it was said then."
    path.write_text(json.dumps(recorded))
    summary = run.summary(run.summarised[0])
    without = json.loads(summary.read_text())
    del without["condition"]["rounds_told"]
    summary.write_text(json.dumps(without))
    verdicts, _ = checks.verdicts(run)
    assert "anytime is only in the second" in verdicts.problems[0]
    assert "rounds_told is only in the second" in next(checks.summarised(run)).problems[0]
    shutil.copytree(provenance.PACKAGE_ROOT, copy / "src/flashtrail", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "src/flashtrail/base/errors.py").open("a") as stream:
        stream.write("# another")
    verdicts, looked = checks.verdicts(run)
    assert (verdicts.problems, looked.problems) == ([], []) and "by other code than theirs" in verdicts.detail
    summaries = next(checks.summarised(run))
    assert summaries.problems == [] and "by other code than theirs" in summaries.detail
    del recorded["claims"][0]["numbers"]
    recorded["claims"][1]["verdict"] = "refuted"
    path.write_text(json.dumps(recorded))
    verdicts, _ = checks.verdicts(run)
    assert [problem.split(":")[0] for problem in verdicts.problems] == [one["id"] for one in recorded["claims"][:2]]


# --- tampering ---

CELLS = [
    (f"{TABLES}/episodes.parquet", "steps", lambda n: n + 1),
    (f"{TABLES}/episodes.parquet", "wall_s", lambda s: s + 1),
    (f"{TABLES}/rounds.parquet", "policy_ms", lambda ms: ms * 0.9),
    (f"{TABLES}/rounds.parquet", "noise_seed", lambda words: words + "1"),
    (f"{TABLES}/steps.parquet", "action", lambda a: [a[0] + 1, *a[1:]]),
    (f"{SHARD}/episodes.parquet", "seed", lambda n: n + 1),
    (f"{SHARD}/rounds.parquet", "executed", lambda n: n + 1),
    (f"{SHARD}/steps.parquet", "img_mean", lambda x: x + 1),
    (f"{SHARD}/sheets.parquet", "outcome", lambda o: "horizon" if o == "success" else "success"),
]


@pytest.mark.parametrize(("file", "column", "new"), CELLS, ids=[f"{f.split('/')[1]}-{c}" for f, c, _ in CELLS])
def test_one_changed_cell_is_found_with_and_without_new_checksums(
    copy: Path, file: str, column: str, new: Callable[[Any], Any]
) -> None:
    change(copy / file, 0, column, new)
    row = rows.name_of(rows.read(copy / file), 0)
    found = failed(copy)
    assert f"{file} is changed" in found["checksums"]
    assert f"{file}: {row}" in found["row digests"]
    cover_up(copy)
    found = failed(copy)
    assert not {"checksums", "row digests", "RO-Crate"} & set(found)
    assert found, "new checksums hid the change"
    if column not in ("outcome", "seed"):
        (named,) = found[f"tables of {ARM}"]
        assert row in named and column in named
    else:
        what = "init" if column == "outcome" else "seed 8"  # a seed is the whole shard's
        assert any(what in line for lines in found.values() for line in lines), found


@pytest.mark.parametrize("column", ["policy_ms", "encoder_ms"])
def test_a_changed_row_of_the_profile_is_named_by_its_digest(copy: Path, column: str) -> None:
    file = "results/profile/pi0_nano/rounds.parquet"
    change(copy / file, 30, column, lambda ms: ms * 1.5)
    assert failed(copy)["row digests"] == [f"{file}: {rows.name_of(rows.read(copy / file), 30)}"]


def test_a_changed_time_of_the_profile_contradicts_the_verdict_even_with_new_checksums(copy: Path) -> None:
    change(copy / "results/profile/pi0_nano/rounds.parquet", 30, "policy_ms", lambda ms: ms * 1.5)
    cover_up(copy)
    assert any(line.startswith("C6") for line in failed(copy)["verdicts"])


def flip(root: Path, everywhere: bool) -> str:
    """Turn the first failure of a shard into a success, with new checksums; return the episode's name."""
    name = ""
    for directory in (TABLES, SHARD) if everywhere else (TABLES,):
        table = rows.read(root / directory / "episodes.parquet").to_pylist()
        row = next(i for i, e in enumerate(table) if not e["success"] and e["task_id"] == 1)
        name = f"{ARM}/libero_goal/1/{table[row]['init_state']}/0"
        change(root / directory / "episodes.parquet", row, "success", lambda _: True)
        change(root / directory / "episodes.parquet", row, "outcome", lambda _: "success")
    if everywhere:
        ledger = provenance.json_load(root / SHARD / "ledger.json")
        ledger["outcomes"][f"init_{int(name.split('/')[3]):03d}_repeat_0"] = "success"
        provenance.json_dump(ledger, root / SHARD / "ledger.json")
    cover_up(root)
    return name


def test_a_flipped_success_is_found_against_its_shard(copy: Path) -> None:
    name = flip(copy, everywhere=False)
    found = failed(copy)
    assert any(name in line and "success True against False" in line for line in found[f"tables of {ARM}"])
    assert "summaries" in found and "verdicts" in found


def test_a_success_flipped_in_table_shard_and_ledger_is_found_by_its_last_step(copy: Path) -> None:
    name = flip(copy, everywhere=True)
    found = failed(copy)
    assert f"tables of {ARM}" not in found
    assert any(name in line and "last step says False" in line for line in found["integrality"])
    assert any(ARM in line for line in found["summaries"])
    assert any("engine" in check for check in found)


@pytest.mark.parametrize("key", ["verdict", "sentence", "short", "p"])
def test_a_changed_claim_is_named(copy: Path, key: str) -> None:
    path = copy / "results/claims/claims.json"
    judged = provenance.json_load(path)
    claim = next(c for c in judged["claims"] if c["p"] is not None)
    claim[key] = 0.5 if key == "p" else "supported, beyond doubt"
    provenance.json_dump(judged, path)
    cover_up(copy)
    assert any(line.startswith(claim["id"]) and key in line for line in failed(copy)["verdicts"])


def test_looks_travel_and_a_changed_or_removed_one_is_found(copy: Path) -> None:
    """A look at another n makes the verdict another; a record without the verdict's own look does not go with it."""
    path = copy / looks.FILE
    kept = looks.read(path)
    assert kept and "looks" not in failed(copy)
    schemas.write_table(path, [{**kept[0], "n": 3}, *kept], schemas.LOOKS)
    cover_up(copy)
    assert any(line.startswith(kept[0]["claim"]) and "anytime.looks" in line for line in failed(copy)["verdicts"])
    schemas.write_table(path, kept[1:], schemas.LOOKS)
    cover_up(copy)
    assert any(line.startswith(kept[0]["claim"]) for line in failed(copy)["looks"])


def test_a_margin_changed_after_the_fact_is_found(copy: Path) -> None:
    path = copy / "claims.yaml"
    path.write_text(path.read_text().replace("margin: 0.1", "margin: 0.3", 1))
    cover_up(copy)
    assert "claims_digest" in failed(copy)["verdicts"][0]


def test_a_config_that_was_not_the_runs_is_found(copy: Path) -> None:
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("seed: 7", "seed: 8"))
    cover_up(copy)
    assert any("seed 7 against 8" in line for line in failed(copy)["config"])


@pytest.mark.parametrize("file", ["reports/final.html", f"{TABLES}/steps.parquet", f"{SHARD}/ledger.json", "Snakefile"])
def test_a_removed_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    assert f"{file} is missing" in failed(copy)["checksums"]
    manifest.write(copy, Run(copy).files())
    assert any(file in line for lines in failed(copy).values() for line in lines)


def test_an_added_file_is_named(copy: Path) -> None:
    (copy / "results/tables/extra.txt").write_text("x")
    assert failed(copy)["checksums"] == ["results/tables/extra.txt is not in the manifest"]


def test_a_file_of_noise_is_a_failed_check_and_not_a_crash(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / TABLES / "rounds.parquet").write_bytes(b"noise")
    (copy / crate.NAME).write_text("{")
    assert cli.main(["audit", str(copy)]) == 1
    said = capsys.readouterr().out
    assert "rounds.parquet" in said and "FAIL  RO-Crate" in said


@pytest.mark.parametrize("told", ["{}", "[]", '{"configs": "config.yaml"}'])
def test_a_bundle_that_says_nothing_of_itself_is_told_in_a_sentence(copy: Path, told: str) -> None:
    (copy / bundle.ABOUT).write_text(told)
    (problem,) = failed(copy)["config"]
    assert problem.startswith(f"{bundle.ABOUT} ") and "Error" not in problem


def test_missing_row_digests_are_missing(copy: Path) -> None:
    (copy / rows.DIGESTS).unlink()
    assert failed(copy)["row digests"] == [f"{copy / rows.DIGESTS} is missing"]


def test_what_is_no_bundle_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to("elsewhere")  # as a checkout has one
    for place, words in ((tmp_path, f"{tmp_path} is not a bundle: "), (tmp_path / "nosuch", "nosuch does not exist")):
        assert cli.main(["audit", str(place)]) == 2
        said = capsys.readouterr()
        assert not said.out and said.err.count("\n") == 1 and words in said.err


@pytest.mark.parametrize("rerun", [[], ["--rerun", "1"]])
def test_a_bundle_without_a_run_is_said_once(
    copy: Path, tmp_path: Path, rerun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that has a manifest and nothing else, and a bundle whose job files were lost on the way."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("x")
    manifest.write(tmp_path / "notes", ["a.txt"])
    shutil.rmtree(copy / "results/logs")
    for place, counted in ((tmp_path / "notes", "1 of 2"), (copy, "0 of 2")):
        assert cli.main(["audit", str(place), *rerun]) == 1
        said = capsys.readouterr()
        assert said.err == f"{counted} checks passed\n"
        *_, last = lines = [line for line in said.out.splitlines() if not line.startswith("note: ")]
        assert [line.split()[1] for line in lines] == ["checksums:", "run:"]
        assert last.startswith("FAIL  run: no finished part of a run") and "get the bundle again" in last


@pytest.mark.parametrize("share", ["x", "-3", "500%", "inf", "0"])
def test_a_share_that_is_none_is_told_before_the_checks(
    copy: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", str(copy), "--rerun", share]) == 2
    said = capsys.readouterr()
    assert not said.out and f"--rerun {share}: give a share such as 5%" in said.err


def test_an_audit_with_a_rerun_ends_with_its_summary(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(copy), "--rerun", "1", "--artifacts", str(copy / "nosuch")]) == 1
    said = capsys.readouterr()
    assert "FAIL  rerun" in said.out and re.search(r"\d+ of \d+ checks passed", said.out + said.err)


def test_a_manifest_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / manifest.NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"manifest-sha256\.txt is not UTF-8 text \(byte 0\)"):
        manifest.read(tmp_path)


def test_a_manifest_cannot_point_outside(copy: Path) -> None:
    path = copy / manifest.NAME
    path.write_text(path.read_text() + f"{'0' * 64}  ../../outside\n")
    assert "not '<sha256> <path>'" in failed(copy)["checksums"][0]


# --- drills and checkup ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a report, drills and a checkup that no test changes; the run lies beside it."""
    return campaign.build(campaign.copy(tmp_path_factory.mktemp("run") / "here", drilled=True))


@pytest.fixture
def tampered(whole: Path, tmp_path: Path, spoilt: None) -> Path:
    """Return a bundle with drills and a checkup to tamper with."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def test_drills_and_checkup_are_bundled_audited_and_drawn_for_a_rerun(whole: Path) -> None:
    found = {check.name: check for check in audit.checks(Run(whole))}
    assert not [check for check in found.values() if check.problems]
    assert "3 of the report, 4 of the drills, 1 of the checkup" in found["config"].detail
    assert {"tables of drill_reference", "tables of drill_long_chunk", "tables of checkup"} <= set(found)
    assert "2 drills" in found["drills"].detail and "3 episodes" in found["checkup"].detail
    drawn = {name.arm for name in replay.expected_names(Run(whole))}
    assert drawn == {*campaign.ARMS, *Run(whole).parts["drills"], "checkup"}
    graph = {entity["@id"]: entity for entity in provenance.json_load(whole / crate.NAME)["@graph"]}
    assert {"reports/drills.html", "results/checkup/checkup.json"} <= {e["@id"] for e in graph["#run"]["result"]}
    assert validation.problems(whole) == []


def test_a_bundle_without_them_has_no_such_checks(original: Path) -> None:
    assert {"drills", "checkup"}.isdisjoint(check.name for check in audit.checks(Run(original)))


@pytest.mark.parametrize(
    ("file", "key", "check"),
    [
        ("results/drills/diagnosis.json", "alpha", "drills"),
        ("results/drills/bounds.json", "version", "drills"),
        ("results/drills/bounds.json", "guarantee", "drills"),
        ("results/checkup/checkup.json", "sentence", "checkup"),
    ],
)
def test_a_changed_conclusion_is_named(tampered: Path, file: str, key: str, check: str) -> None:
    concluded = provenance.json_load(tampered / file)
    concluded[key] = "something else"
    provenance.json_dump(concluded, tampered / file)
    cover_up(tampered)
    assert any(key in problem for problem in failed(tampered)[check])


def test_a_changed_step_of_a_drill_is_found_against_its_shard_and_the_diagnosis(tampered: Path) -> None:
    change(tampered / "results/tables/drill_no_flip/steps.parquet", 0, "action", lambda a: [a[0] + 9, *a[1:]])
    cover_up(tampered)
    found = failed(tampered)
    assert "tables of drill_no_flip" in found and "drills" in found


@pytest.fixture
def finished(whole: Path, tmp_path: Path, spoilt: None) -> Path:
    """Return the run itself to change."""
    return Path(shutil.copytree(whole.with_name("here"), tmp_path / "here"))


def test_drills_that_are_not_whole_say_what_to_do(finished: Path) -> None:
    (finished / "results/rollouts/drill_no_flip/task_1/steps.parquet").unlink()
    with pytest.raises(UserError, match="make drills again, or remove results/drills to leave that part out"):
        campaign.build(finished)


def test_drills_of_another_config_say_what_to_do(finished: Path) -> None:
    path = finished / "config.yaml"
    path.write_text(path.read_text().replace("- long_chunk", "- stale_frame"))
    with pytest.raises(
        UserError, match=r"the run had .*drill_long_chunk.*; make drills again, or remove results/drills"
    ):
        campaign.build(finished)


def test_parts_whose_results_were_removed_are_left_out_and_named(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(finished / "results/drills")
    monkeypatch.setattr(bundle.snakemake_record, "describe", lambda *_: None)
    monkeypatch.setattr(bundle, "_same_workflow", lambda *_: None)  # no workflow lies in this run, and none is asked
    words = ["bundle", "--root", str(finished), "--out", str(finished.parent / "b")]
    (finished / "profiles/local").mkdir(parents=True)
    (finished / "profiles/local/profile.yaml").write_text("{}")
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "arms: 3 of the report, 1 of the checkup" in said
    assert (
        "note: drill_clean, drill_long_chunk, drill_no_flip, drill_reference: not part of a finished experiment" in said
    )


def test_drills_alone_can_be_explained(finished: Path) -> None:
    """Without a report there is nothing to bundle, but every episode can be named."""
    (finished / "results/logs/evaluate_claims.json").unlink()
    run = Run(finished)
    name = replay.parse(run, "drill_long_chunk/1/2")
    assert replay.explain(run, name)["arm"]["execution"] == {"replan_steps": 50}
    with pytest.raises(UserError, match="make report, then try again"):
        campaign.build(finished)
