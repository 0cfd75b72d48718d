"""`make setup`: pins that Debian's Python takes, launchers that survive any path, one line before the first download.

Uses venvs without packages; the installation itself is what .ci/run does.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from pip._vendor.distlib.scripts import ScriptMaker
from workflow.checkouts import start_snakemake

ROOT = Path(__file__).parents[1]
PLACES = ["plain", "Über Labor", "it's", "two  spaces and a 'quote'", "/".join(["deep-" + "x" * 40] * 4)]


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """scripts/setup_env.py as a module that works below tmp_path."""
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts/setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    at(module, tmp_path, monkeypatch)
    return module


def at(module, root, monkeypatch):
    root.mkdir(parents=True, exist_ok=True)
    for name, value in {
        "ROOT": root,
        "VENV": root / ".venv",
        "PACKAGES": root / ".venv/lib/python3.11/site-packages",
        "STAMP": root / ".venv/.flashtrail-setup",
    }.items():
        monkeypatch.setattr(module, name, value)


def bare(module) -> Path:
    """Make the .venv without packages, but for a folder that stands for pip's; return its bin."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", module.VENV], check=True)
    (module.PACKAGES / "pip").mkdir()
    return module.VENV / "bin"


def test_every_pin_holds_on_the_oldest_python_that_is_promised(setup_env):
    oldest = ".".join(map(str, setup_env.OLDEST))
    lines = [*setup_env.union(), *setup_env.CONSTRAINTS.read_text().splitlines()]
    names = {setup_env.normal(line.split("==")[0]) for line in lines if "==" in line}
    refused, seen = [], set()
    for found in importlib.metadata.distributions():
        name, wanted = setup_env.normal(found.metadata["Name"]), found.metadata.get("Requires-Python")
        seen.add(name)
        if name in names and wanted and oldest not in SpecifierSet(wanted):
            refused.append(f"{name} {found.version} requires Python {wanted}")
    assert not refused
    assert len(names & seen) > 200  # it was the pinned environment that was looked at
    promised = f">={oldest},<3.12"
    assert f'requires-python = "{promised}"' in (ROOT / "pyproject.toml").read_text()
    assert f"Python {oldest}" in (ROOT / "README.md").read_text()


def test_the_evidence_extra_is_the_list_of_its_env_file(setup_env):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["evidence"] == setup_env.pins(ROOT / "envs/report.yaml")


@pytest.mark.parametrize("place", PLACES)
def test_scripts_of_the_environment_run_from_any_path_and_after_a_move(setup_env, tmp_path, monkeypatch, place):
    at(setup_env, tmp_path / place / "clone", monkeypatch)
    binaries = bare(setup_env)
    (setup_env.PACKAGES / "told.py").write_text("import sys\ndef main(): print(sys.argv[1:], sys.prefix)\n")
    maker = ScriptMaker(None, str(binaries))  # pip's own way of writing them
    maker.executable, maker.variants = str(binaries / "python"), {""}
    maker.make("tell = told:main")
    setup_env.install_launchers()
    assert run(binaries / "tell", "a b") == f"['a b'] {setup_env.VENV}\n"
    moved = tmp_path / "elsewhere's place"
    setup_env.ROOT.rename(moved)
    assert run(moved / ".venv/bin/tell") == f"[] {moved / '.venv'}\n"


def test_a_process_that_the_command_spawns_does_not_run_it_again(setup_env, tmp_path, monkeypatch):
    """As export-dataset's simulators are: such a process imports the script that started the first one."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    binaries = bare(setup_env)
    (setup_env.PACKAGES / "flashtrail").mkdir()
    (setup_env.PACKAGES / "flashtrail/cli.py").write_text(
        "from multiprocessing import get_context\n"
        "def main():\n"
        "    one = get_context('spawn').Process(target=print, args=('spawned',))\n"
        "    one.start(), one.join()\n"
        "    return one.exitcode\n"
    )
    setup_env.install_launchers()
    assert run(binaries / "flashtrail") == "spawned\n"


def test_the_package_is_found_from_where_the_clone_lies(setup_env, tmp_path, monkeypatch):
    binaries = bare(setup_env)
    (setup_env.PACKAGES / "__editable__.flashtrail-0.1.0.pth").write_text("/the/old/place/src\n")
    (setup_env.ROOT / "src").symlink_to(ROOT / "src")
    setup_env.install_launchers()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    told = run(binaries / "python", "-c", "import flashtrail, sys; print(flashtrail.__file__, sys.path)")
    assert "clone" not in told and str(setup_env.ROOT / "src/flashtrail/__init__.py") in told
    assert "/the/old/place" not in told


def test_a_link_to_another_clones_environment_is_refused(setup_env, tmp_path, monkeypatch):
    binaries, before = bare(setup_env), tmp_path
    setup_env.STAMP.write_text(setup_env.digest())
    files = sorted(binaries.parent.rglob("*"))
    at(setup_env, tmp_path / "clone", monkeypatch)
    setup_env.VENV.symlink_to(before / ".venv")
    monkeypatch.setattr(setup_env, "system_libraries", lambda: None)
    with pytest.raises(SystemExit, match=f".venv is a link to the environment of {before}; remove the link"):
        setup_env.setup()
    assert sorted(binaries.parent.rglob("*")) == files


@pytest.fixture
def snakemake(setup_env, tmp_path, monkeypatch):
    """Run .venv/bin/snakemake in a folder with a Snakefile that prints the seed; the package lies beside the .venv.

    `forked`: its launcher in the interpreter of the tests, where only what it says is asked for.
    """
    binaries = bare(setup_env)
    (setup_env.PACKAGES / "pinned.pth").write_text(str(Path(yaml.__file__).parents[1]) + "\n")
    maker = ScriptMaker(None, str(binaries))
    maker.executable, maker.variants = str(binaries / "python"), {""}
    maker.make("snakemake = snakemake.cli:main")
    (setup_env.ROOT / "src").symlink_to(ROOT / "src")
    setup_env.install_launchers()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    work = tmp_path / "work"
    (work / "profiles/own").mkdir(parents=True)
    (work / "Snakefile").write_text("import flashtrail\nprint(config['seed'], flashtrail.__file__)\nrule all:\n")

    def started(*words, forked=False):
        launcher, command = binaries / "snakemake", ["snakemake", "-n", *words]
        if forked:
            modules = [setup_env.ROOT / "src"]
            return start_snakemake(work, command, os.environ, launcher=launcher, modules=modules, apart=True)
        return subprocess.run([launcher, *command[1:]], cwd=work, capture_output=True, text=True)

    started.folder = work
    return started


@pytest.mark.slow
@pytest.mark.parametrize(("content", "code"), [(b"seed: 41\n", 0), (b"# \xe9t\xe9\n", 1)], ids=["plan", "refusal"])
def test_a_fork_says_what_a_start_says(snakemake, content, code):
    (snakemake.folder / "given.yaml").write_bytes(content)
    words = ("--quiet", "host", "--configfile", "given.yaml")
    one, other = (snakemake(*words, forked=forked) for forked in (False, True))
    assert one.returncode == other.returncode == code and one.stderr == other.stderr
    undated = [re.sub(r"^\[.*\d\d:\d\d.*\]$", "", done.stdout, flags=re.M) for done in (one, other)]
    assert undated[0] == undated[1] and (one.stdout or one.stderr)


@pytest.mark.slow
def test_a_config_file_that_snakemake_cannot_read_is_one_line(snakemake):
    given = {
        "latin.yaml": ("# été\n".encode("latin-1"), "latin.yaml:1: byte 0xe9 is not UTF-8: save it as UTF-8"),
        "top.yaml": (b"- a\n", "top.yaml holds a list at its top, not keys such as `seed: 7`"),
        "twice.yaml": (b"seed: 7\nseed: 8\n", "twice.yaml is not valid YAML (line 2): duplicate key 'seed'"),
        "empty.yaml": (b"# none\n", "empty.yaml holds no keys"),
        "profiles": (None, "profiles cannot be read: Is a directory"),
        "nowhere.yaml": (None, "nowhere.yaml does not exist"),
    }
    (snakemake.folder / "good.yaml").write_text("seed: 41\n")
    forked = functools.partial(snakemake, forked=True)
    for name, (content, words) in given.items():
        if content is not None:
            (snakemake.folder / name).write_bytes(content)
        done = forked("--configfile", "good.yaml", name)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith(f"error: {words}") and not done.stdout
    (snakemake.folder / "profiles/own/profile.yaml").write_text("cores: 1\nconfigfile: latin.yaml\n")
    for option in ("--profile", "--workflow-profile"):
        done = forked(option, "profiles/own")
        assert done.returncode == 1 and done.stderr.splitlines()[1:] == [f"error: {given['latin.yaml'][1]}"]
    for setting, words in (("seed", "have to be defined as name=value pairs"), ("1a=3", "a valid identifier")):
        (line,) = forked("--config", setting).stderr.splitlines()
        assert line.startswith(f"error: --config {setting}: ") and words in line
    os.mkfifo(snakemake.folder / "pipe")
    assert "pipe is a pipe" in forked("--configfiles", "pipe").stderr


@pytest.mark.slow
def test_snakemake_goes_on_with_a_good_config_file_and_the_package_beside_the_snakefile(snakemake):
    (snakemake.folder / "good.yaml").write_bytes(b"\xef\xbb\xbfseed: 41\r\n")
    done = snakemake("--configfile", "good.yaml")
    assert done.returncode == 0 and f"41 {ROOT / 'src'}" in done.stdout.replace(str(snakemake.folder.parent), str(ROOT))
    shutil.copytree(ROOT / "src", snakemake.folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    assert f"41 {snakemake.folder / 'src'}" in snakemake("--configfile", "good.yaml").stdout
    failed = snakemake("--configfile", "good.yaml", "--", "nowhere.txt", forked=True)
    assert failed.returncode == 1 and "MissingRuleException" in failed.stderr + failed.stdout
    told = snakemake("--version", forked=True)
    assert told.returncode == 0 and told.stdout.startswith("9.")


def test_an_interpreter_that_has_gone_is_renewed_and_the_packages_stay(setup_env):
    binaries = bare(setup_env)
    (setup_env.PACKAGES / "kept.py").write_text("here = 1\n")
    for link in binaries.glob("python*"):
        link.unlink()
        link.symlink_to("/gone/python3.11")
    assert setup_env.renew_interpreter()
    assert run(binaries / "python", "-c", "import kept; print(kept.here)") == "1\n"


def test_an_unfinished_environment_is_made_anew(setup_env):
    setup_env.VENV.mkdir()
    assert not setup_env.renew_interpreter()


def test_no_room_is_said_before_anything_is_fetched(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda place: SimpleNamespace(free=1e12))  # not this disk's
    setup_env.preflight()
    monkeypatch.setattr(setup_env, "INSTALLED_GB", 1e6)
    with pytest.raises(SystemExit, match=r"GB free, 1000000\.0 GB are needed"):
        setup_env.preflight()


def test_a_path_that_snakemake_cannot_have_is_refused(setup_env, tmp_path, monkeypatch):
    at(setup_env, tmp_path / "a {b}", monkeypatch)
    with pytest.raises(SystemExit, match=r"holds \{ \}, which Snakemake cannot have"):
        setup_env.setup()


def test_a_file_system_without_locks_is_said(setup_env, monkeypatch):
    def refuse(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(setup_env.fcntl, "flock", refuse)
    with pytest.raises(SystemExit, match=r"cannot be locked \(No locks available\)"):
        setup_env.preflight()


@pytest.mark.slow
def test_an_index_that_does_not_answer_is_said_and_pips_settings_are_passed_on(setup_env, tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", setup_env.VENV], check=True)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    own = tmp_path / "pip.conf"
    own.write_text("[global]\nindex-url = http://127.0.0.1:9/simple\nextra-index-url =\n  file:///a\n  file:///b\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(own))
    monkeypatch.setenv("PIP_CERT", "/etc/own.pem")
    settings = setup_env.pip_settings()
    assert settings["index-url"] == ["http://127.0.0.1:9/simple"]
    words, variables = setup_env.uv_words(settings)
    assert words[words.index("--default-index") + 1] == "http://127.0.0.1:9/simple"
    assert variables["SSL_CERT_FILE"] == "/etc/own.pem"
    assert words.count("--extra-index-url") == len(settings["extra-index-url"]) == 2
    with pytest.raises(SystemExit, match=r"pip does not get uv==.*PIP_INDEX_URL"):
        setup_env.fetch_installer()


def test_a_setting_of_pip_that_uv_lacks_leaves_the_work_to_pip(setup_env):
    assert setup_env.uv_words({"require-hashes": ["true"]}) is None
    assert setup_env.uv_words({"timeout": ["5"]}) == (["--index-strategy", "unsafe-best-match"], {})


def run(*command) -> str:
    """Return what a command prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_studios_pins_are_no_part_of_the_main_environment(setup_env):
    own = setup_env.pins(setup_env.STUDIO)
    assert any(pin.startswith("gradio==") for pin in own)
    main = "\n".join([*setup_env.union(), setup_env.CONSTRAINTS.read_text()])
    assert not re.search(r"^gradio", main, re.MULTILINE)
    lines = setup_env.STUDIO.with_name("studio-constraints.txt").read_text().splitlines()
    assert set(own) <= set(lines)


def test_the_studios_environment_needs_no_home_and_no_shared_directory(setup_env, monkeypatch):
    """uv looks for its cache in the home, and locks by files in TMPDIR, unless it is told otherwise."""
    ran = []

    def run(command, env=None, **_):
        ran.append(([str(word) for word in command], env))
        (setup_env.VENV.with_name(".venv-studio")).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(setup_env, "pip_settings", dict)
    monkeypatch.setattr(setup_env.subprocess, "run", run)
    setup_env.studio()
    (made, _), (installed, variables) = ran
    place = str(setup_env.VENV.with_name(".venv-studio"))
    assert "--no-cache" in made
    assert installed[installed.index("--cache-dir") + 1].startswith(place) and variables["TMPDIR"].startswith(place)
