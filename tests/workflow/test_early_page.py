"""The page of a run under way through the real Snakefile: never taken for the report, whatever stops the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workflow.checkouts import Checkout, copy_checkout, planned, with_stand_in

from flashtrail.report import early

OVERLAY = """
tasks: "0"
arms: {__only__: true, clean: {policy: pi0_nano, episodes: 2}}
sweeps: {__only__: true}
"""
TARGET = ["--", "reports/final.html"]
OPTIONS = ["--profile", "profiles/local", "--configfile", "one.yaml"]
COMMAND = ["snakemake", *OPTIONS, *TARGET]
# A shard of two successes, which says so as a shard does; the verdicts wait for the page, then for a sign.
SHARD = """
if "snakemake" in globals():
    import json as _json, pathlib as _pathlib, sys as _sys
    _out = _pathlib.Path(snakemake.output["ledger"]).parent
    _said = {"outcomes": {f"init_00{n}_repeat_0": "success" for n in range(2)}}
    _said |= {"wall_s": dict.fromkeys(_said["outcomes"], 9.0)}
    for _file in snakemake.output:
        _pathlib.Path(_file).write_text(_json.dumps(_said))
    (_out / "progress.json").write_text(_json.dumps(_said))
    raise SystemExit(0)
"""
VERDICTS = """
if "snakemake" in globals():
    import pathlib as _pathlib, time as _time
    while not _pathlib.Path("go").exists():
        _time.sleep(0.1)
    if _pathlib.Path("go").read_text() == "fail":
        raise SystemExit(1)
    for _file in snakemake.output:
        _pathlib.Path(_file).write_text("{}")
    raise SystemExit(0)
"""


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    """One arm and task by stand-ins, with verdicts that wait for the file `go`."""
    made = copy_checkout(tmp_path / "checkout")
    own = {"roll_out_shard": SHARD, "evaluate_claims": VERDICTS}
    for script in (made.path / "scripts").glob("*.py"):
        script.write_text(with_stand_in(script.read_text(), *filter(None, [own.get(script.stem)])))
    (made.path / "one.yaml").write_text(OVERLAY)
    return made


def plan(checkout: Checkout) -> set[str]:
    output = checkout.run("snakemake", *OPTIONS, "-n", *TARGET).stdout
    assert "progress: " not in output, "a dry run has none"
    return planned(output)


def started(checkout: Checkout) -> subprocess.Popen[str]:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
    command = [str(Path(sys.executable).parent / "snakemake"), *COMMAND[1:]]
    return subprocess.Popen(
        command, cwd=checkout.path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_two_episodes(checkout: Checkout, run: subprocess.Popen[str]) -> str:
    page, deadline = checkout.path / "reports/final.html", time.monotonic() + 600
    while run.poll() is None and time.monotonic() < deadline:
        if early.is_early(page) and "<h1>2 of 2 episodes</h1>" in (text := page.read_text()):
            return text
        time.sleep(0.2)
    pytest.fail(f"no early page; {run.communicate()[0][-2000:] if run.poll() is not None else 'still running'}")


def test_a_run_that_is_killed_and_goes_on_renders_the_real_page(checkout):
    page = checkout.path / "reports/final.html"
    run = started(checkout)
    text = wait_for_two_episodes(checkout, run)
    assert ">[34" in text, "Wilson of 2/2 begins at 34 %"
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert early.is_early(page), "a kill leaves it"
    checkout.run("snakemake", "--unlock", *OPTIONS)
    assert "Rendering reports/final.html" in plan(checkout), "it is not taken for the report"

    (checkout.path / "go").write_text("fail")
    failed = checkout.run(*COMMAND, check=False)
    assert failed.returncode and "the run has stopped" in page.read_text()
    assert "Rendering reports/final.html" in plan(checkout)

    (checkout.path / "go").write_text("on")
    done = checkout.run(*COMMAND).stdout
    assert page.read_text().startswith("render_final") and "not present when the DAG was created" not in done
    assert "progress: " in done and "2 of 2 episodes" in done
    again = checkout.run(*COMMAND).stdout
    assert "Nothing to be done" in again and "progress: " not in again
