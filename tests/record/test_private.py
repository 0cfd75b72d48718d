"""Nothing of a bundle or a page says whose machine it was made on: every file is searched, packed ones unpacked."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from record import campaign
from record.test_bundle import failed

from flashtrail import environment
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.record import bundle, private
from flashtrail.record.run import Run

USER, HOST, TOKEN = "zaphodb", "heartofgold", "s3cr3t-of-the-user"
HUB_TOKEN = "hf_" + "AbCdEfGh" * 4


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of somebody's; returns the directory of a finished run in their home."""
    home = tmp_path / "hüme" / USER
    root = home / "work" / "here"
    root.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FLASHTRAIL_TOKEN", TOKEN)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    return campaign.copy(root)


def traces(root: Path) -> list[str]:
    """What a chatty library, a user's config and a page may say, in the spellings that files have."""
    home = Path.home()
    return [
        f"{home}/.cache/x.py:3: UserWarning: {root}/results, by {USER}@{HOST}, {TOKEN} https://me:pass@hub {HUB_TOKEN}",
        json.dumps(str(home / "weights")),
        f"<a href='file://{root}/results'>",
        "/data/private/pi0_mine/params",
    ]


def found(text: str, tmp_path: Path) -> list[str]:
    secrets = (USER, HOST, TOKEN, HUB_TOKEN, "me:pass", "/data/private", str(tmp_path), json.dumps(str(tmp_path))[1:-1])
    return [secret for secret in secrets if secret in text]


def leaks(root: Path, archive: Path, tmp_path: Path) -> list[str]:
    """Search every file of a bundle and of its zip; of tables, every string."""
    said = []
    contents = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    with zipfile.ZipFile(archive) as packed:
        contents |= {f"zip:{name}": packed.read(name) for name in packed.namelist()}
    for name, content in contents.items():
        texts = [name, content.decode("utf-8", "replace")]
        if name.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(content))
            texts += [str(table.schema.metadata)]
            texts += [str(c.unique().to_pylist()) for c in table.columns if pa.types.is_string(c.type)]
        said += [f"{name}: {secret}" for text in texts for secret in found(text, tmp_path)]
    return said


def plant(root: Path) -> None:
    lines = traces(root)
    (root / "results/logs/roll_out_shard/clean/task_0.log").write_text("\n".join(lines))
    (root / "reports/final.html").write_text(f"<!doctype html><title>Report</title>{'<br>'.join(lines)}")
    (root / "reports/final.ipynb").write_text(json.dumps({"cells": lines, "metadata": {}}))
    record = root / "results/checkpoints/pi0_mine/record.json"
    provenance.json_dump({"selected": "/data/private/pi0_mine/params", "notes": lines}, record)
    provenance.json_dump({"python": f"{Path.home()}/.venv/bin/python"}, root / "results/environments/handle.json")
    checked = root / "results/environments/model.json"
    provenance.json_dump({**provenance.json_load(checked), "host": HOST, "notes": lines}, checked)
    told = yaml.safe_load((root / "config.yaml").read_text())
    told["policies"]["pi0_nano"]["candidates"] = ["/data/private/pi0_mine/params"]
    (root / "config.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    noted = next((root / ".snakemake/metadata").iterdir())
    engine = provenance.json_load(noted)
    engine["input_checksums"]["results/environments/model.json"] = (
        f"sha256:{provenance.sha256_file(root / 'results/environments/model.json')}"
    )
    provenance.json_dump({**engine, "notes": lines}, noted)


def test_nothing_personal_leaves_in_a_bundle(machine: Path, tmp_path: Path) -> None:
    shutil.rmtree(machine)
    machine.mkdir()
    campaign.write(machine)  # where it lies, so that a path which a verdict keeps is one to be found
    plant(machine)
    assert len(found("\n".join(traces(machine)), tmp_path)) >= 7, "nothing was planted"
    made = campaign.build(machine)
    assert leaks(made, made.with_name("bundle.zip"), tmp_path) == []
    assert failed(made) == {}
    assert not (made / "results/environments/handle.json").exists()
    said = (made / "results/logs/roll_out_shard/clean/task_0.log").read_text()
    assert said.startswith("~/.cache/x.py:3: UserWarning: ./results, by USER@HOST, SECRET https://SECRET@hub SECRET")
    assert ".../params" in said
    # What a job read is still held to the checksum that was noted then.
    assert "results/environments/model.json" in provenance.json_load(made / bundle.ABOUT)["cleaned"]


def test_a_file_that_was_cleaned_is_changed_no_further(machine: Path) -> None:
    plant(machine)
    made = campaign.build(machine)
    with (made / "results/environments/model.json").open("a") as stream:
        stream.write(" ")
    assert "results/environments/model.json is changed" in failed(made)["checksums"]


@pytest.mark.parametrize("where", ["column", "metadata", "code"])
def test_what_cannot_be_cleaned_is_refused_by_name_and_leaves_nothing(machine: Path, where: str) -> None:
    file = "results/profile/pi0_nano/rounds.parquet"
    if where == "code":
        file = "resources/published/published.yaml"
        with (machine / file).open("a") as stream:
            stream.write(f"# seen in {Path.home()}/notes\n")
    else:
        table = pq.ParquetFile(machine / file).read()
        if where == "column":
            column = pa.array([f"{Path.home()}/x"] * len(table))
            table = table.set_column(table.column_names.index("device"), "device", column)
        else:
            own = {**table.schema.metadata, b"flashtrail.note": str(Path.home()).encode()}
            table = table.replace_schema_metadata(own)
        pq.write_table(table, machine / file)
    with pytest.raises(UserError, match=rf"{file} names a path or person"):
        campaign.build(machine)
    assert [p.name for p in machine.parent.iterdir()] == ["here"]


def test_a_word_that_the_code_uses_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "clean")
    own = private.Private(tmp_path, "arms: clean\n")
    assert own.cleaned("the clean arm") == "the clean arm"
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    assert private.Private(tmp_path, "").cleaned(f"by {USER}, {USER}s") == f"by USER, {USER}s"


def test_the_record_of_an_environment_names_no_place() -> None:
    said = json.dumps(environment.check_model_env())
    assert str(Path.home()) not in said and "/bin/python" not in said and socket.gethostname() not in said.split('"')


def test_a_run_is_bundled_though_its_results_lie_behind_a_link(machine: Path, tmp_path: Path) -> None:
    shutil.move(machine / "results", tmp_path / "scratch")
    (machine / "results").symlink_to(tmp_path / "scratch")
    made = campaign.build(machine)
    assert failed(made) == {} and not any(p.is_symlink() for p in made.rglob("*"))
    assert set(Run(made).files())


def test_this_checkouts_own_files_can_be_bundled(tmp_path: Path) -> None:
    """A run's bundle holds them as they are: a path of any machine in one of them would stop every bundle."""
    root = bundle.CHECKOUT
    places = [p for place in bundle._CODE for p in (root / place).rglob("*")] + [root / name for name in bundle._FILES]
    files = [p for p in places if p.is_file() and "__pycache__" not in p.parts]
    own = private.Private(tmp_path, "\n".join(p.read_text("utf-8", "replace") for p in files))
    assert len(files) > 300
    for path in files:
        private.check(path, str(path.relative_to(root)), own)
