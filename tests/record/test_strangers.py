"""A stranger's record is data: it names no program, no module and no file outside its own folder."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from policies.pi0.conftest import tokenizer_model, write_policy  # noqa: F401  (a fixture)
from record import campaign
from record.test_bundle import cover_up
from rollouts.shards import WORKER

from flashtrail import cli
from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.checkpoints.artifact import verify_artifact
from flashtrail.experiment import config
from flashtrail.experiment.arms import DRILL_CLEAN
from flashtrail.record import bundle, manifest, replay, rows
from flashtrail.record.run import Run
from flashtrail.rollouts.shard import roll_out_shard
from flashtrail.rollouts.spec import shard_spec

ROOT = Path(__file__).resolve().parents[2]
ARM, STATE = DRILL_CLEAN, 5
EPISODE, SHARD = f"{ARM}/0/{STATE}", f"results/logs/roll_out_shard/{ARM}/task_0.json"
HANDLE = "results/environments/handle.json"
SIMULATED = functools.partial(roll_out_shard, worker_command=[*WORKER, "long", "-"])


@pytest.fixture(scope="module")
def rolled_out(tmp_path_factory: pytest.TempPathFactory, tokenizer_model: bytes) -> Path:  # noqa: F811
    """A run of one episode, with the weights it ran on, and checksums."""
    root = tmp_path_factory.mktemp("run")
    base, _ = write_policy(root / "results/artifacts/pi0_nano", tokenizer_model)
    handles = {"base": str(base / "manifest.json"), "model": str(root / HANDLE)}
    provenance.json_dump({"python": sys.executable}, root / HANDLE)
    arm = config.load(ROOT / "config.yaml").arm(ARM) | {"init_states": [STATE], "video": "none"}
    place = f"results/rollouts/{ARM}/task_0"
    spec = shard_spec(arm, 0, handles, "c0de", root / "server.log")
    SIMULATED(spec, root / place, log=io.StringIO()).check()
    (root / "server.log").unlink()
    shutil.rmtree(root / place / "parts", ignore_errors=True)
    relative = {kind: str(Path(path).relative_to(root)) for kind, path in handles.items()}
    expected = {key: arm[key] for key in ("arm", "policy", "suite", "seed", "init_states", "repeats")} | {"tasks": [0]}
    jobs = {
        f"roll_out_shard/{ARM}/task_0": {"input": relative, "params": {"arm": arm}},
        f"merge_shards/{ARM}": {"params": {"expected": expected}},
        "derive_bounds": {"input": {"steps": []}},
        "diagnose_drills": {"params": {"arms": [ARM]}},
    }
    for name, told in jobs.items():
        whole = {"rule": name.split("/")[0], "output": {"ledger": f"{place}/ledger.json"}, **told}
        provenance.json_dump(whole, root / "results/logs" / f"{name}.json")
    provenance.json_dump({}, root / "results/drills/diagnosis.json")
    manifest.write(root, Run(root).files())
    return root


@pytest.fixture
def stranger(rolled_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy to tamper with; episodes are played by a simulator of arithmetic, servers are real."""
    monkeypatch.setattr(replay, "roll_out_shard", SIMULATED)
    return Path(shutil.copytree(rolled_out, tmp_path / "bundle"))


def plant(root: Path, mark: Path) -> Path:
    """Put a program into the folder that leaves a mark if it is run, and have the handle name it."""
    program = root / "results/environments/python"
    program.write_text(f'#!/bin/sh\ntouch "{mark}"\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    provenance.json_dump({"python": str(program)}, root / HANDLE)
    return program


def renew(root: Path) -> None:
    manifest.write(root, Run(root).files())


def change(root: Path, file: str, new: Callable[[Any], Any]) -> None:
    told = provenance.json_load(root / file)
    new(told)
    provenance.json_dump(told, root / file)
    renew(root)


# --- programs ---


@pytest.mark.slow
def test_the_interpreter_that_a_bundle_names_is_not_run(
    stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "mark"
    plant(stranger, mark)
    renew(stranger)
    assert cli.main(["audit", str(stranger), "--rerun", "1"]) == 1  # one episode is no report
    assert f"ok    rerun 1/1, {ARM}/libero_goal/0/{STATE}/0" in capsys.readouterr().out
    assert cli.main(["explain", EPISODE, "--from", str(stranger), "--replay"]) == 0
    assert not mark.exists()


@pytest.mark.slow
def test_modules_where_one_stands_are_not_run(stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has gone into the unpacked bundle: Python's -m would look there first."""
    mark = tmp_path / "mark"
    for name in ("flashtrail/__init__.py", "flashtrail/__main__.py", "numpy.py", "torch.py", "sitecustomize.py"):
        (stranger / name).parent.mkdir(exist_ok=True)
        (stranger / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.chdir(stranger)
    assert cli.main(["explain", EPISODE, "--replay"]) == 0
    assert not mark.exists()


def test_of_a_bundle_whose_checksums_fail_nothing_is_run(
    stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "roll_out_shard", lambda *_, **__: pytest.fail("an episode was run"))
    plant(stranger, tmp_path / "mark")
    assert cli.main(["audit", str(stranger), "--rerun", "1"]) == 1
    assert "FAIL  rerun: nothing of this bundle was run, since its checksums failed" in capsys.readouterr().out
    renew(stranger)
    assert cli.main(["audit", str(stranger), "--rerun", "1", "--digest", "0" * 64]) == 1
    assert "nothing of this bundle was run, since its digest failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("flash", "ready_file", "{mark}"),
        ("flash", "host", "0.0.0.0"),
        ("flash", "tau_radius", "--ready-file={mark}"),
        ("engine", "device", "--ready-file={mark}"),
        ("engine", "threads", "1 --ready-file={mark}"),
        ("engine", "lanes", 4),
        ("rollout", "server_ready_timeout_s", "for ever"),
    ],
)
def test_a_setting_that_no_config_has_is_no_flag_of_the_server(
    stranger: Path, tmp_path: Path, section: str, key: str, value: Any
) -> None:
    mark = tmp_path / "mark"
    value = value.format(mark=mark) if isinstance(value, str) else value
    change(stranger, SHARD, lambda told: told["params"]["arm"][section].update({key: value}))
    with pytest.raises(UserError, match=f"the record's setting .*{key}"):
        replay.replay(explained(stranger), replay.Here(stranger))
    assert not mark.exists()


def test_a_run_s_own_workflow_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, mark = tmp_path / "here", tmp_path / "mark"
    campaign.copy(root)
    (root / "profiles/local").mkdir(parents=True)
    (root / "profiles/local/profile.yaml").write_text("cores: 1\n")
    (root / "Snakefile").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(UserError, match="differs from this checkout's and would be executed"):
        bundle.build(root, tmp_path / "bundle", bundle.Settings())
    assert not mark.exists()


# --- files ---


def explained(root: Path) -> dict[str, Any]:
    return replay.explain(Run(root), replay.parse(Run(root), EPISODE))


@pytest.mark.parametrize("path", ["{outside}", "../outside/manifest.json", "results/../../outside/manifest.json"])
@pytest.mark.parametrize("kind", ["base", "draft", "kernels", "action_stats", "latencies"])
def test_a_handle_outside_of_the_folder_is_refused(stranger: Path, tmp_path: Path, kind: str, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "manifest.json").write_text("{}")
    path = path.format(outside=outside / "manifest.json")
    change(stranger, SHARD, lambda told: told["input"].update({kind: path}))
    with pytest.raises(UserError, match="is not below"):
        replay.replay(explained(stranger), replay.Here(stranger))


@pytest.mark.parametrize("path", ["/etc/hostname", "../outside.parquet"])
def test_a_clock_replays_no_table_from_elsewhere(stranger: Path, path: str) -> None:
    clock = {"kind": "running", "source": {"replay": path}}
    change(stranger, SHARD, lambda told: told["params"]["arm"].update(clock=clock))
    with pytest.raises(UserError, match="is not below"):
        replay.replay(explained(stranger), replay.Here(stranger))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "norm_stats.json", "."])
def test_a_link_to_weights_elsewhere_is_refused(stranger: Path, tmp_path: Path, name: str) -> None:
    place = stranger / "results/artifacts/pi0_nano/base" / name
    shutil.move(place, tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match="is a link that leads out of"):
        replay.replay(explained(stranger), replay.Here(stranger))


def test_an_artifact_names_only_files_beside_its_manifest(stranger: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    place = stranger / "results/artifacts/pi0_nano/base/manifest.json"
    told = provenance.json_load(place)
    told["files"]["../../../../../secret"] = {"bytes": 1, "sha256": provenance.sha256_file(tmp_path / "secret")}
    provenance.json_dump(told, place)
    with pytest.raises(UserError, match="a file outside its directory"):
        verify_artifact(place.parent)


def test_a_record_that_is_none_is_one_line(stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for told in ([], {"params": {}}, {"params": {"arm": 3}, "output": {"ledger": 5}, "input": {}}):
        provenance.json_dump(told, stranger / SHARD)
        assert cli.main(["explain", EPISODE, "--from", str(stranger), "--replay"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


# --- an audit, watched ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return campaign.build(campaign.copy(tmp_path_factory.mktemp("whole") / "here"))


def candidates(root: Path, outside: Path) -> None:
    told = yaml.safe_load((root / "config.yaml").read_text())
    for policy in told["policies"].values():
        policy |= {"candidates": [str(outside), "gs://nowhere/pi0"], "tokenizer": str(outside / "secret")}
        policy |= {"draft": "hf://nobody/nothing/draft.pt"}
    (root / "config.yaml").write_text(yaml.safe_dump(told, sort_keys=False))


def crate(root: Path, outside: Path) -> None:
    graph = json.loads((root / "ro-crate-metadata.json").read_text())
    for name in ("../outside/secret", str(outside / "secret")):
        graph["@graph"].append({"@id": name, "@type": "File", "sha256": "0" * 64})
    (root / "ro-crate-metadata.json").write_text(json.dumps(graph))


def digests(root: Path, outside: Path) -> None:
    table = pq.ParquetFile(root / rows.DIGESTS).read().to_pylist()
    table += [{**table[0], "file": f} for f in ("../outside/secret.parquet", str(outside / "secret.parquet"))]
    pq.write_table(pa.Table.from_pylist(table), root / rows.DIGESTS)


def jobs(root: Path, outside: Path) -> None:
    job = provenance.json_load(root / "results/logs/evaluate_claims.json")
    job["input"] |= {"claims": str(outside / "secret"), "published": "../outside/secret"}
    job["params"]["arms"] += ["../../../outside/secret"]
    provenance.json_dump(job, root / "results/logs/evaluate_claims.json")


def about(root: Path, outside: Path) -> None:
    told = provenance.json_load(root / bundle.ABOUT)
    told["configs"] += ["../outside/secret", str(outside / "secret")]
    provenance.json_dump(told, root / bundle.ABOUT)


def checksums(root: Path, outside: Path) -> None:
    with (root / manifest.NAME).open("a") as stream:
        stream.write(f"{'0' * 64}  ../outside/secret\n{'0' * 64}  {outside / 'secret'}\n")


AUDIT = [sys.executable, str(Path(__file__).with_name("hooked_audit.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture(scope="module")
def forked() -> Iterator[Callable[[list[str]], int]]:
    """Return what audits in a fork of one process that has imported what an audit needs; its exit status."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(AUDIT, env=ENVIRONMENT, **pipes) as forks:
        assert forks.stdin is not None and forks.stdout is not None
        asked, said = forks.stdin, forks.stdout

        def audited(words: list[str]) -> int:
            print(json.dumps(words), file=asked, flush=True)
            return int(said.readline())

        yield audited


@pytest.mark.parametrize("tamper", [candidates, crate, digests, jobs, about, checksums])
def test_an_audit_opens_nothing_outside_asks_nobody_and_starts_nothing(
    whole: Path, tmp_path: Path, tamper: Callable[[Path, Path], None], forked: Callable[[list[str]], int]
) -> None:
    """The first in a process of its own, from the first import on."""
    root, outside = tmp_path / "bundle", tmp_path / "outside"
    shutil.copytree(whole, root)
    outside.mkdir()
    for name in ("secret", "secret.parquet"):
        (outside / name).write_text("{}")
    tamper(root, outside)
    if tamper is candidates:
        cover_up(root)
    answer = tmp_path / "answer.json"
    words = [str(answer), str(root)]
    own = tamper is candidates
    ended = subprocess.run([*AUDIT, *words], env=ENVIRONMENT).returncode if own else forked(words)
    assert ended == 0 and answer.is_file()
    noted = provenance.json_load(answer)
    assert noted["code"] == (0 if own else 1)
    assert any(path.startswith(str(root)) for path in noted["open"]), "the hook sees nothing"
    assert not [path for path in noted["open"] if path.startswith(str(outside))]
    # A library asks lscpu how many cores there are; nothing of ours starts anything.
    assert not noted["net"] and not [words for words in noted["run"] if not words.startswith("('lscpu'")]
