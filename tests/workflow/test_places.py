"""Where a clone lies and how a run ends: jobs run from any path, and an interrupted run says how to go on.

The interpreter lies in the clone, as `make setup` puts it, since its path is what breaks; its packages are those of the
tests.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from workflow.checkouts import ROOT, SMALL, Checkout, copy_checkout, with_stand_in

TARGET = "results/environments/handle.json"
PLACES = {
    "space and umlaut": "Über Labor",
    "quote": "it's here",
    "deep": "/".join(["deep-" + "x" * 36] * 3),
    "dollar and bracket": "a $HOME [c]",
}
SLEEP = """
if "snakemake" in globals() and snakemake.rule == "check_libero_env":
    import pathlib as _pathlib, time as _time
    _pathlib.Path("under_way").touch()
    for _ in range(600):
        if _pathlib.Path("go").exists():
            break
        _time.sleep(0.1)
"""


def clone_with_interpreter(place: Path) -> Checkout:
    checkout = copy_checkout(place)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True)
    packages = place / ".venv/lib/python3.11/site-packages/those_of_the_tests.pth"
    packages.write_text(sysconfig.get_path("purelib") + "\n")
    return checkout


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES.values(), ids=PLACES)
def test_a_script_job_runs_from_any_path_and_its_handle_survives_a_move(tmp_path, name):
    place = tmp_path / name / "flashtrail"
    checkout = clone_with_interpreter(place)
    command = ["-m", "snakemake", "--configfile", SMALL, "--profile", "profiles/local", TARGET]
    checkout.run(str(place / ".venv/bin/python"), *command)
    assert '"python": ".venv/bin/python' in (place / TARGET).read_text()


@pytest.mark.slow
def test_snakemake_runs_without_a_home_that_can_be_written(tmp_path):
    place = tmp_path / "clone"
    checkout = clone_with_interpreter(place)
    start = place / ".venv/lib/python3.11/site-packages/flashtrail.pth"
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts/setup_env.py")
    assert spec is not None and spec.loader is not None
    setup_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup_env)
    start.write_text(setup_env.PATHS)
    words = ["-m", "snakemake", "--configfile", SMALL, "--profile", "profiles/local", TARGET]
    checkout.run(str(place / ".venv/bin/python"), *words, environment={"HOME": "/nowhere/at/all"})
    assert (place / ".snakemake/caches/cache/snakemake").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_an_interrupted_run_says_what_is_kept_and_goes_on(checkout, how):
    for script in (checkout.path / "scripts").glob("*.py"):
        script.write_text(with_stand_in(script.read_text()))
    slow = checkout.path / "scripts/check_libero_env.py"
    done = slow.read_text()
    slow.write_text(done.replace("\nif ", SLEEP + "\nif ", 1))
    words = [
        "snakemake",
        "--configfile",
        SMALL,
        "--profile",
        "profiles/local",
        "--",
        "results/environments/libero.json",
    ]
    words += [TARGET]
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    with subprocess.Popen(
        words,
        cwd=checkout.path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            deadline = time.monotonic() + 300
            while not (checkout.path / "under_way").exists() and time.monotonic() < deadline and run.poll() is None:
                time.sleep(0.2)
            os.killpg(run.pid, how) if how is signal.SIGINT else run.send_signal(how)
            (checkout.path / "go").touch()  # a job that was started is waited for
            said, _ = run.communicate(timeout=120)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode != 0, said
    assert said.count("Stopped. Kept: the results of") == 1, said
    assert "The same command goes on from there." in said
    slow.write_text(done)
    assert "Stopped" not in checkout.snakemake("--", TARGET, "results/environments/libero.json").stdout
