"""`flashtrail settle`: the real loop over the real workflow, with a policy that holds still before a mark."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml
from experiment.test_ledger import play, written  # noqa: F401
from workflow.checkouts import ROOT, Checkout, with_stand_in

from flashtrail import cli
from flashtrail.claims import looks, settling
from flashtrail.experiment import config
from flashtrail.experiment.episodes import EpisodeKey

OVERLAY = """
suite: reach
tasks: "0"
policies: {__only__: true, still: {artifact: resources/still}}
arms: {__only__: true, clean: {policy: still, episodes: 1}}
sweeps: {__only__: true}
drills: {policy: still}
checkup: {policy: still}
profile: {policy: still, episodes: 1, samples: 2, warmup: 1}
smoke: {episodes: 1}
claims: few.yaml
"""
WORDS = {"title": "t", "statement": "s", "scope": "x", "estimand": "e", "refuted_if": "r"}
CLAIM = {"id": "C5", **WORDS, "test": "rate_at_least", "arm": "clean", "bar": 0.5}
EMPTY = """
if "snakemake" in globals():
    from flashtrail.base import provenance as _provenance
    from flashtrail.tables import schemas as _schemas
    for _file in snakemake.output:
        if str(_file).endswith(".parquet"):
            _schemas.write_table(_file, [], _schemas.PROFILE)
        else:
            _provenance.json_dump({}, _file)
    raise SystemExit(0)
"""
RECORD = "results/settle/record.json"


@pytest.fixture
def holding(checkout: Checkout) -> Checkout:
    """A checkout that may name the suite of the smallest simulator; what no verdict on success needs is made up."""
    shutil.copytree(ROOT / "resources/still", checkout.path / "resources/still")
    checkout.edit("src/flashtrail/experiment/suites.py", 'simulator="reach", evidence=False', 'simulator="reach"')
    for name in ("check_libero_env", "check_model_env", "record_observations", "boot_server", "profile_routes"):
        script = checkout.path / "scripts" / f"{name}.py"
        script.write_text(with_stand_in(script.read_text(), EMPTY))
    (checkout.path / "still.yaml").write_text(OVERLAY)
    (checkout.path / "few.yaml").write_text(yaml.safe_dump({"version": 1, "claims": [CLAIM]}))
    local = (checkout.path / "profiles/local/profile.yaml").read_text()
    (checkout.path / "profiles/still").mkdir()
    (checkout.path / "profiles/still/profile.yaml").write_text(
        local.replace("profiles/local/overlay.yaml", "still.yaml")
    )
    return checkout


def command(checkout: Checkout, budget: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "flashtrail", "settle", budget, "--profile", "profiles/still"]
    environment = {**os.environ, "PYTHONPATH": str(checkout.path / "src")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=checkout.path, env=environment, start_new_session=True, **pipes)


def batches(checkout: Checkout) -> list[dict]:
    path = checkout.path / RECORD
    return json.loads(path.read_text())["batches"] if path.exists() else []


def episodes(checkout: Checkout) -> int:
    return sum(batch["episodes"] for batch in batches(checkout))


def test_it_stops_at_the_budget_is_killed_goes_on_and_ends_decided(holding):
    output, _ = command(holding, "4").communicate(timeout=600)
    assert "open" in output and "a larger BUDGET goes on" in output, output
    assert episodes(holding) == 4  # one of the config's own, three more

    killed = command(holding, "40")
    deadline = time.monotonic() + 300
    while not (batches(holding)[-1]["episodes"] > 3 and list((holding.path / ".snakemake/locks").glob("*"))):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not batches(holding)[-1]["done"]

    output, _ = command(holding, "40").communicate(timeout=600)
    assert "refuted" in output and "make report PROFILE=results/settle" in output, output
    assert 4 < episodes(holding) <= 40 and all(batch["done"] for batch in batches(holding))
    judged = json.loads((holding.path / "results/claims/claims.json").read_text())["claims"][0]
    assert judged["anytime"]["verdict"] == "refuted" and judged["numbers"]["rate"]["n"] == episodes(holding)
    taken = looks.read(holding.path / "results/claims/looks.parquet")
    assert [(look["asked"], look["n"]) for look in taken] == [("settle", n) for n in (1, 4, episodes(holding))]

    log = holding.path / "results/logs/settle.log"
    before = len(log.read_text())
    again, _ = command(holding, "40").communicate(timeout=600)
    assert again.splitlines()[:2] == output.splitlines()[-5:-3] and "Nothing to be done" in log.read_text()[before:]
    planned = holding.run("snakemake", "--profile", "results/settle", "-n", "--", "results/claims/claims.json")
    assert "Nothing to be done" in planned.stdout


@pytest.mark.parametrize("budget", ["0", "0m", "-5", "soon", "", "1.5", "1e3h", "60 minutes", "nan"])
def test_a_budget_that_is_none_is_one_line(budget, capsys):
    assert cli.main(["settle", "--", budget]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"BUDGET={budget}: give a time such as 60m" in said


def test_a_profile_that_is_none_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["settle", "60m", "--profile", "nowhere"]) == 2
    assert "nowhere has no profile.yaml" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_episodes_that_were_there_before_a_batch_are_not_charged(written):  # noqa: F811
    results, keys = written / "results", [EpisodeKey("libero_goal", 0, init_state, 0) for init_state in range(3)]
    play(results, 0, 0, "success")
    time.sleep(0.01)
    begun = time.time()
    for init_state, outcome in ((1, "success"), (2, "horizon")):
        recorder = play(results, 0, init_state, outcome)
    loop = settling.Loop.__new__(settling.Loop)
    loop.setting = SimpleNamespace(experiment=lambda: config.load("config.yaml"))
    assert loop._played(begun) == 0, "its shard has not ended"
    recorder.assemble(keys, results / "rollouts/clean/task_0")
    assert loop._played(begun) == 2 and loop._played(0) == 3
