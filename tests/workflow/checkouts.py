"""Drive the real Snakefile in a copy of the checkout, with the work inside each script replaced by a stand-in.

The stand-in runs before the script's own lines and writes each output, so the DAG, the parameters, the input
digests and `.snakemake/metadata` are the real ones, while the scripts keep their imports (and so their digests).
"""

from __future__ import annotations

import functools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = "tests/workflow/configs/small.yaml"
PARTS = (
    "Snakefile",
    "config.yaml",
    "rules",
    "scripts",
    "envs",
    "profiles",
    "src",
    "resources/published",
    "resources/checkpoints",
    "resources/drills",
)
CHAPTERS = ("baseline", "profiling", "robustness", "guard", "clock", "claims", "final", "drills", "checkup")
NOTEBOOK = '{"cells": [{"cell_type": "code", "source": "from flashtrail.report import figures"}]}'
STAND_IN = """
if "snakemake" in globals():
    import pathlib as _pathlib
    for _file in snakemake.output:
        _pathlib.Path(_file).write_text(f"{snakemake.rule} {dict(snakemake.wildcards)} {snakemake.params}")
    raise SystemExit(0)
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository in which snakemake can be run."""

    path: Path

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run snakemake with the local profile and the small experiment; output is one text."""
        return self.run("snakemake", "--configfile", SMALL, "--profile", "profiles/local", *arguments, check=check)

    def run(
        self, *command: str, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout, niced; `environment` adds to that of the tests."""
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
        variables |= environment or {}
        variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
        if command[0] == "snakemake":
            result = start_snakemake(self.path, command, variables)
        else:
            result = subprocess.run(
                ["nice", "-n", "10", *command],
                cwd=self.path,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=600,
            )
        if check and result.returncode:
            pytest.fail(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-4000:]}")
        return result

    def plan(self, target: str = "reports/final.html") -> set[str]:
        """Return the messages of the jobs that a dry run would run; empty if there is nothing to be done."""
        output = self.snakemake("-n", "--", target).stdout
        jobs = planned(output)
        assert jobs or "Nothing to be done" in output, output[-2000:]
        return jobs

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text that must be there in one file."""
        path = self.path / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new))


@functools.cache
def starter() -> subprocess.Popen[str]:
    """The process whose forks are the starts of Snakemake (starts.py); it ends with this one."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("starts.py")],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start_snakemake(
    place: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float = 600,
    launcher: Path | None = None,
    modules: Sequence[Path] = (),
    apart: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Start Snakemake in `place` by a fork of `starter` and wait until it ends.

    Output and errors are one text unless they are to be `apart`; `modules` are looked into before those of the tests,
    whose `launcher` is the one that is taken without another.
    """
    forks, launcher = starter(), launcher or Path(sys.executable).with_name("snakemake")
    assert forks.stdin is not None and forks.stdout is not None
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output, tempfile.NamedTemporaryFile("r") as errors:
        start = {"launcher": str(launcher), "arguments": command[1:], "cwd": str(place), "env": dict(environment)}
        start |= {"output": output.name, "errors": (errors if apart else output).name}
        print(json.dumps(start | {"modules": list(map(str, modules))}), file=forks.stdin, flush=True)
        if not select.select([forks.stdout], [], [], timeout_s)[0]:
            forks.kill()  # or its late answer would be taken for that of the next start
            starter.cache_clear()
            raise subprocess.TimeoutExpired(list(command), timeout_s)
        code = int(forks.stdout.readline())
        return subprocess.CompletedProcess(list(command), code, output.read(), errors.read())


def planned(output: str) -> set[str]:
    """Return the messages of the jobs that a dry run's output lists; each says what it does and to what."""
    found = re.findall(r"^Job \d+: (.*)$", output, re.M)
    assert len(found) == len(set(found)), "two jobs with one message"
    return set(found)


def counts(output: str) -> dict[str, int]:
    """Return the table `Job stats` of a dry run: how many jobs of each rule, the target rule apart."""
    table = output.split("Job stats:")[1].split("total")[0]
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, re.M) if rule != "all"}


def copy_checkout(target: Path) -> Checkout:
    """Copy what the workflow needs, symlink-preserving, without results.

    With compiled modules, which are valid beside a copy (times are preserved): they are half of a first start.
    """
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignore = shutil.ignore_patterns("*.egg-info", "*.pyc.*")  # the latter are just being written
            shutil.copytree(source, target / part, symlinks=True, ignore=ignore)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / part)
    (target / "runpod-l40s").symlink_to("profiles/runpod-l40s")
    (target / SMALL).parent.mkdir(parents=True)
    shutil.copy2(ROOT / SMALL, target / SMALL)
    (target / "notebooks").mkdir()
    for chapter in CHAPTERS:
        (target / "notebooks" / f"{chapter}.ipynb").write_text(NOTEBOOK)
    shutil.copyfile(ROOT / "claims.yaml", target / "claims.yaml")
    for policy in ("pi0_nano", "pi0_nano_dropout"):
        (target / "resources" / policy / "params").mkdir(parents=True)
        for name in ("params/_METADATA", "draft.pt", "tokenizer.model"):
            (target / "resources" / policy / name).write_text(f"{policy} {name}")
    return Checkout(target)


def with_stand_in(text: str, stand_in: str = STAND_IN) -> str:
    """Return a script that does what the stand-in does and stops, before its own lines."""
    return stand_in + text.replace("from __future__ import annotations\n", "")
