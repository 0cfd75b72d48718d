"""Make .venv from the pinned pip sections of envs/*.yaml (`make setup`); standard library only.

Idempotent: a stamp in .venv holds a digest of the env files; with an unchanged stamp nothing is done. A .venv that
was made otherwise is adopted if it has every pin. `--list` prints the pins, `--check` asks pip to resolve each file.
"""

from __future__ import annotations

import argparse
import ctypes.util
import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / "envs"
CONSTRAINTS = ENVS / "constraints.txt"
VENV = ROOT / ".venv"
STAMP = VENV / ".flashtrail-setup"
# Without a GPU driver the CPU build of torch saves several GB; the index is used only if it answers.
TORCH_CPU_INDEX = os.environ.get("FLASHTRAIL_TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
SYSTEM = {"OSMesa": "libosmesa6", "GL": "libgl1", "glib-2.0": "libglib2.0-0"}


def pins(path: Path) -> list[str]:
    """Return the requirements below ``- pip:`` of one env file (it is read without YAML: nothing is installed yet)."""
    found, inside = [], None
    for line in path.read_text().splitlines():
        text = line.split(" #")[0].rstrip()
        indent = len(text) - len(text.lstrip())
        if re.fullmatch(r"\s*- pip:", text):
            inside = indent
        elif inside is not None and text:
            if indent <= inside:
                inside = None
            elif match := re.fullmatch(r"\s*- (\S+==\S+)", text):
                found.append(match[1])
            elif not text.lstrip().startswith("#"):
                sys.exit(f"error: {path.name}: {text.strip()!r} is not an exact pin such as - name==1.2.3")
    return found


def union() -> list[str]:
    """Return the pins of all env files; two files that disagree on a version are an error."""
    chosen: dict[str, str] = {}
    for path in sorted(ENVS.glob("*.yaml")):
        for pin in pins(path):
            name = normal(pin.split("==")[0])
            if chosen.setdefault(name, pin) != pin:
                sys.exit(f"error: {path.name} pins {pin} but another env file has {chosen[name]}; make them agree")
    return [chosen[name] for name in sorted(chosen)]


def normal(name: str) -> str:
    """Return a distribution name as pip compares it, without extras."""
    return re.sub(r"[-_.]+", "-", name.split("[")[0]).lower()


def digest() -> str:
    """Return what the stamp must say: the pins, the constraints, the package's own metadata, the place."""
    parts = [*union(), CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text(), str(ROOT), sys.version]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def missing_pins() -> list[str]:
    """Return the pins that .venv does not have at exactly that version (a local +cpu build counts)."""
    run = subprocess.run([VENV / "bin/python", "-m", "pip", "freeze", "--all"], capture_output=True, text=True)
    have = dict(line.split("==") for line in run.stdout.splitlines() if line.count("==") == 1)
    installed = {normal(name): version.split("+")[0] for name, version in have.items()}
    return [p for p in union() if installed.get(normal(p.split("==")[0])) != p.split("==")[1]]


def torch_index() -> list[str]:
    """Return pip options that offer torch's CPU build, where there is no GPU and no local wheel of it."""
    local = os.environ.get("PIP_FIND_LINKS", "") + os.environ.get("PIP_EXTRA_INDEX_URL", "")
    if shutil.which("nvidia-smi") or local or not TORCH_CPU_INDEX:
        return []
    try:
        with urllib.request.urlopen(f"{TORCH_CPU_INDEX}/torch/", timeout=5):
            return ["--extra-index-url", TORCH_CPU_INDEX]
    except OSError:
        print(f"note: {TORCH_CPU_INDEX} does not answer; torch comes from pip's own index", flush=True)
        return []


def system_libraries() -> None:
    """Install OSMesa's few system libraries when root; otherwise stop with the exact line to run."""
    lacking = [package for library, package in SYSTEM.items() if ctypes.util.find_library(library) is None]
    if not lacking:
        return
    if not apt_install(lacking):
        sys.exit(f"error: the simulator's renderer lacks {', '.join(lacking)}; run: sudo {apt_line(lacking)}")


def apt_line(packages: list[str]) -> str:
    """Return the command that installs Debian packages."""
    return f"apt-get install -y --no-install-recommends {' '.join(packages)}"


def apt_install(packages: list[str]) -> bool:
    """Install Debian packages if we may; return whether that went well."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    print(f"setup: {apt_line(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment)
    return subprocess.run(apt_line(packages).split(), env=environment).returncode == 0


def make_venv() -> None:
    """Make .venv, also where Debian's Python comes without the means to (python3.11-venv)."""
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0:
        return
    if apt_install(["python3.11-venv"]) and subprocess.run(command).returncode == 0:
        return
    into = [sys.executable, "-m", "pip", "--python", str(VENV / "bin/python"), "install", "--quiet", "pip"]
    if subprocess.run([*command, "--without-pip"]).returncode == 0 and subprocess.run(into).returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    sys.exit(f"error: .venv could not be made; run: sudo {apt_line(['python3.11-venv'])}")


def pip(*arguments: str) -> None:
    """Run .venv's pip; its own lines tell what went wrong."""
    if subprocess.run([VENV / "bin/python", "-m", "pip", *arguments], cwd=ROOT).returncode:
        sys.exit("error: pip failed; see its lines above, mend the cause and run make setup again")


def setup() -> None:
    """Bring .venv to the pins, or find it there already."""
    system_libraries()
    stamp = digest()
    if STAMP.is_file() and STAMP.read_text() == stamp:
        return
    if not (VENV / "bin/pip").exists():  # none, or one that was not finished
        print("setup: making .venv (3-5 minutes, 4 GB)", flush=True)
        make_venv()
    if wanted := missing_pins():
        print(f"setup: installing {len(wanted)} pinned packages and what they need", flush=True)
        pip("install", "--progress-bar", "off", "-c", str(CONSTRAINTS), *torch_index(), *union())
    pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    if lacking := missing_pins():
        sys.exit(f"error: .venv lacks {', '.join(lacking)} after the installation; remove .venv and run make setup")
    STAMP.write_text(stamp)
    print("setup: .venv is ready", flush=True)


def check() -> None:
    """Ask pip to resolve each env file by itself, as conda would, without installing (needs the network)."""
    for path in sorted(ENVS.glob("*.yaml")):
        run = [VENV / "bin/python", "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", *pins(path)]
        result = subprocess.run(run, capture_output=True, text=True)
        print(f"{path.name}: {'resolves' if result.returncode == 0 else result.stderr.strip().splitlines()[-1]}")
        if result.returncode:
            sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the pins and stop")
    parser.add_argument("--check", action="store_true", help="resolve each env file with pip, install nothing")
    arguments = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"error: Python 3.11 is needed, this is {sys.version.split()[0]}; say make PYTHON=/path/to/python3.11")
    if arguments.list:
        print("\n".join(union()))
    elif arguments.check:
        check()
    else:
        setup()
