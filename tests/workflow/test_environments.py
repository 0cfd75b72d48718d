"""The env files: every line means something to conda or pip, they agree, and `--sdm conda` keeps them apart.

"Env wiring with a test channel": conda-forge is out of reach of these tests, so the solver and the installer are real
(py-rattler) and the packages are not (conda_shim.py).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
import rattler
import yaml
from packaging.requirements import Requirement
from rattler.exceptions import InvalidMatchSpecError
from workflow import conda_shim
from workflow.checkouts import ROOT, Checkout, copy_checkout, with_stand_in

ENVS = sorted((ROOT / "envs").glob("*.yaml"))
OF_RULE = {
    "locate_model_env": "model",
    "probe_checkpoints": "model",
    "convert_base": "model",
    "roll_out_shard": "libero",
    "merge_shards": "report",
}
WITNESS = """
if "snakemake" in globals():
    import json as _json, pathlib as _pathlib, subprocess as _subprocess, sys as _sys
    _record = {"rule": snakemake.rule, "python": _sys.executable, "prefix": _sys.prefix}
    if "model" in snakemake.input.keys():
        _python = _json.loads(_pathlib.Path(snakemake.input["model"]).read_text())["python"]
        _show = [_python, "-c", "import sys; print(sys.prefix)"]
        _record["server_prefix"] = _subprocess.run(_show, capture_output=True, text=True, check=True).stdout.strip()
    for _file in snakemake.output:
        _pathlib.Path(_file).write_text(_json.dumps(_record))
    raise SystemExit(0)
"""


def lines_of(path: Path) -> tuple[list[str], list[str]]:
    dependencies = yaml.safe_load(path.read_text())["dependencies"]
    (pip,) = [line["pip"] for line in dependencies if isinstance(line, dict)]
    return [line for line in dependencies if isinstance(line, str)], pip


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_every_line_is_a_match_spec_or_an_exact_pin_with_its_reason(path):
    conda, pip = lines_of(path)
    assert "python=3.11" in conda and "pip" in conda
    for line in conda:
        assert rattler.MatchSpec(line, strict=True).name is not None
    for line in pip:
        (pin,) = Requirement(line).specifier
        assert pin.operator == "==" and "*" not in pin.version
    listed = re.findall(r"^      - \S+==\S+(.*)$", path.read_text(), re.M)
    assert len(listed) == len(pip) and all(re.search(r"# \w", comment) for comment in listed)


def test_a_bad_line_would_be_noticed():
    with pytest.raises(InvalidMatchSpecError):
        rattler.MatchSpec("python==3.11=*=x[", strict=True)


def test_the_union_has_one_version_of_each_package_and_pip_has_seen_them_together():
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts/setup_env.py")
    setup_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup_env)
    union = setup_env.union()  # ends the process if two files disagree
    assert {p for path in ENVS if path != setup_env.STUDIO for p in lines_of(path)[1]} == set(union)
    tested = set(setup_env.CONSTRAINTS.read_text().splitlines())
    tested = {setup_env.normal(line.split("==")[0]) + "==" + line.split("==")[1] for line in tested if "==" in line}
    wanted = {setup_env.normal(p.split("==")[0]) + "==" + p.split("==")[1] for p in union}
    assert wanted <= tested


@pytest.fixture(scope="module")
def conda_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """PATH with the shim, and the test channel with every conda package that an env file names."""
    place = tmp_path_factory.mktemp("conda")
    specs = [rattler.MatchSpec(line) for path in ENVS for line in lines_of(path)[0]]
    named = {str(s.name.normalized): re.sub(r"[^0-9.]", "", str(s.version or "1")).rstrip(".") for s in specs}
    channel = conda_shim.make_channel(place / "channel", {n: v + ".0" for n, v in named.items() if n != "python"})
    shim = conda_shim.install_shim(place / "shim")
    return {
        "PATH": os.pathsep.join([str(shim), os.environ["PATH"]]),
        "CONDA_SHIM_PREFIX": str(shim.parent),
        conda_shim.CHANNEL: channel,
    }


def witnessed(path: Path) -> Checkout:
    """A checkout whose scripts only tell where they ran, and whose environments need no pip."""
    checkout = copy_checkout(path)
    for script in (checkout.path / "scripts").glob("*.py"):
        script.write_text(with_stand_in(script.read_text(), WITNESS))
    for file in (checkout.path / "envs").glob("*.yaml"):
        file.write_text(file.read_text().split("  - pip:\n")[0])  # pip's part would take minutes and the network
    return checkout


@pytest.fixture(scope="module")
def deployed(conda_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `--profile runpod-l40s` has run one arm to its table, each job in its own environment."""
    checkout = witnessed(tmp_path_factory.mktemp("deployed") / "checkout")
    checkout.run("snakemake", "--profile", "runpod-l40s", TARGET, environment=conda_environment)
    return checkout


TARGET = "results/tables/clean/episodes.parquet"
WITNESSES = {
    "locate_model_env": "results/environments/handle.json",
    "probe_checkpoints": "results/checkpoints/pi0_libero/record.json",
    "convert_base": "results/artifacts/pi0_libero/base/manifest.json",
    "roll_out_shard": "results/rollouts/clean/task_2/ledger.json",
    "merge_shards": TARGET,
}


def test_each_rule_runs_in_the_environment_of_its_stage(deployed):
    records = {rule: json.loads((deployed.path / path).read_text()) for rule, path in WITNESSES.items()}
    prefixes: dict[str, set[str]] = {}
    for rule, record in records.items():
        prefixes.setdefault(OF_RULE[rule], set()).add(record["prefix"])
    assert all(len(found) == 1 for found in prefixes.values()), prefixes
    (model,), (libero,), (report,) = (prefixes[name] for name in ("model", "libero", "report"))
    assert len({model, libero, report}) == 3
    assert all(Path(prefix).parent.name == "conda" for prefix in (model, libero, report))
    assert (Path(libero) / "share/mesalib").is_file() and not (Path(model) / "share/mesalib").exists()


def test_a_simulator_side_job_starts_the_server_in_the_model_environment(deployed):
    """The handle of DESIGN.md 4: the shard runs under libero.yaml, its server under model.yaml."""
    model = json.loads((deployed.path / WITNESSES["locate_model_env"]).read_text())
    record = json.loads((deployed.path / WITNESSES["roll_out_shard"]).read_text())
    assert record["server_prefix"] == model["prefix"] != record["prefix"]


def test_an_edited_env_file_reruns_the_rules_of_that_environment_only(deployed, conda_environment, tmp_path):
    def plan() -> str:
        command = ("snakemake", "--profile", "runpod-l40s", "-n", TARGET)
        return deployed.run(*command, environment=conda_environment).stdout

    assert "Nothing to be done" in plan()
    path = deployed.path / "envs/report.yaml"
    before = path.read_text()
    path.write_text(before.replace("- python=3.11", "- python=3.11\n  - libgl"))
    output = plan()
    path.write_text(before)
    assert re.findall(r"^Job \d+: (.*)$", output, re.M) == ["Merging the shards of clean"]


def test_a_site_s_conda_prefix_is_filled_once_and_used_by_all_checkouts(conda_environment, tmp_path):
    """The overlay of docs/workflow.md (A cluster) over profiles/slurm, on this machine instead of SLURM."""
    site, shared, target = tmp_path / "site", tmp_path / "shared envs", WITNESSES["locate_model_env"]
    site.mkdir()
    (site / "profile.yaml").write_text(f"conda-prefix: {shared}\nexecutor: local\ncores: 2\n")
    command = ("snakemake", "--profile", "profiles/slurm", "--workflow-profile", str(site), target)
    first, second = (witnessed(tmp_path / name / "checkout") for name in ("first", "second"))
    made = first.run(*command, environment=conda_environment).stdout
    found = second.run(*command, environment=conda_environment).stdout
    assert "Creating conda environment" in made and "Creating conda environment" not in found
    prefixes = {json.loads((checkout.path / target).read_text())["prefix"] for checkout in (first, second)}
    (prefix,) = prefixes
    assert Path(prefix).parent == shared and not (second.path / ".snakemake/conda").is_dir()


def test_without_conda_a_real_run_stops_before_any_job(deployed):
    result = deployed.run("snakemake", "--profile", "runpod-l40s", "--forceall", TARGET, check=False)
    assert result.returncode != 0 and "conda" in result.stdout
    assert "Execute" not in result.stdout
