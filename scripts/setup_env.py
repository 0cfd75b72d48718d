"""Make .venv from the pinned pip sections of envs/*.yaml (`make setup`); standard library only.

Idempotent: a stamp in .venv holds a digest of the env files; with an unchanged stamp nothing is done. A .venv that
was made otherwise is adopted if it has every pin, one that was moved is mended without fetching it again. `--list`
prints the pins, `--check` asks pip to resolve each file. Knows nothing of the workflow.
"""

from __future__ import annotations

import argparse
import ctypes.util
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / "envs"
CONSTRAINTS = ENVS / "constraints.txt"
VENV = ROOT / ".venv"
STAMP = VENV / ".flashtrail-setup"
STUDIO = ENVS / "studio.yaml"  # an environment of its own, VENV-studio (`--studio`): not in the union
OLDEST = (3, 11, 2)  # Debian 12's own: every pin admits it (tests/test_setup.py)
# Measured on the CPU: the wheels, and `du` of .venv; with CUDA torch brings its libraries.
FETCHED_GB, INSTALLED_GB = 1.6, 5.1
CUDA_GB = 3.5
STUDIO_FETCHED_GB = 0.1
# pip's settings: uv's options and variables of the same meaning, and those that only pip obeys.
UV_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
UV_VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY", "client-cert": "SSL_CLIENT_CERT"}
PIPS_OWN = {"keyring-provider", "no-binary", "only-binary", "require-hashes", "platform", "implementation", "abi"}
PACKAGES = VENV / "lib/python3.11/site-packages"
# The package, and its caches settled at each start: by file, so that a start imports no package, and a program that
# puts another checkout's src before this one (Snakemake there does) gets that one. `sitedir`: where the .pth lies.
PATHS = (
    "../../../../src\n"
    'import os, runpy; f = os.path.join(sitedir, "../../../../src/flashtrail/caches.py"); '
    'os.path.exists(f) and runpy.run_path(f)["settle"]()\n'
)
# The head of a script in .venv/bin as pip writes it, and ours: a line of sh that Python reads as a string.
PYTHON_HEAD = re.compile(rb"#!(?:[^\n]*python[^\n]*|/bin/sh\n'''exec' [^\n]*\n' ''')\n")
LAUNCHER = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
"""
COMMANDS = {
    # The guard: a process that is spawned imports the script again.
    "flashtrail": b"""import sys

from flashtrail.cli import main

if __name__ == "__main__":
    sys.exit(main())
""",
    # Instead of pip's; by file, as above.
    "snakemake": b"""import os
import runpy

ours = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../src/flashtrail/snakemake_main.py")
runpy.run_path(ours)["main"]()
""",
}
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
    """Return the pins of all env files of .venv; two files that disagree on a version are an error."""
    chosen: dict[str, str] = {}
    for path in sorted(set(ENVS.glob("*.yaml")) - {STUDIO}):
        for pin in pins(path):
            name = normal(pin.split("==")[0])
            if chosen.setdefault(name, pin) != pin:
                sys.exit(f"error: {path.name} pins {pin} but another env file has {chosen[name]}; make them agree")
    return [chosen[name] for name in sorted(chosen)]


def normal(name: str) -> str:
    """Return a distribution name as pip compares it, without extras."""
    return re.sub(r"[-_.]+", "-", name.split("[")[0]).lower()


def digest() -> str:
    """Return what the stamp must say: a digest of the pins, constraints and this file, then the place."""
    parts = [*union(), CONSTRAINTS.read_text(), Path(__file__).read_text()]
    return f"{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}\n{ROOT}\n"


def missing_pins() -> list[str]:
    """Return the pins that .venv lacks, and the constraints that it breaks (a local +cpu build is its version)."""
    run = subprocess.run([VENV / "bin/python", "-m", "pip", "freeze", "--all"], capture_output=True, text=True)
    have = dict(line.split("==") for line in run.stdout.splitlines() if line.count("==") == 1)
    installed = {normal(name): version.split("+")[0] for name, version in have.items()}
    constraints = [line for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    drawn_in = [pin for pin in constraints if normal(pin.split("==")[0]) in installed]
    wanted = {normal(pin.split("==")[0]): pin for pin in [*drawn_in, *union()]}
    return [pin for name, pin in sorted(wanted.items()) if installed.get(name) != pin.split("==")[1]]


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


def interpreter() -> str:
    """Return the Python that runs this, not the venv around it: .venv may be what is mended."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def make_venv() -> None:
    """Make .venv, also where Debian's Python comes without the means to (python3.11-venv)."""
    command = [interpreter(), "-m", "venv", "--clear", str(VENV)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
        return
    if apt_install(["python3.11-venv"]) and subprocess.run(command).returncode == 0:
        return
    into = [interpreter(), "-m", "pip", "--python", str(VENV / "bin/python"), "install", "--quiet", "pip"]
    if subprocess.run([*command, "--without-pip"]).returncode == 0 and subprocess.run(into).returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    sys.exit(f"error: .venv could not be made; run: sudo {apt_line(['python3.11-venv'])}")


def renew_interpreter() -> bool:
    """Give a .venv that is there this Python and this place, its packages as they are; False where it is not whole.

    After a move its scripts name the old place, and where its Python has gone its links lead nowhere.
    """
    if not (PACKAGES / "pip").is_dir():
        return False
    for link in (VENV / "bin").glob("python*"):
        link.unlink()
    return subprocess.run([interpreter(), "-m", "venv", "--without-pip", str(VENV)]).returncode == 0


def install_launchers() -> None:
    """Make .venv's scripts find their interpreter beside them, and the package without a path that is written out.

    A shebang line holds neither a space nor more than 127 bytes, and a clone may be moved. Paths in a .pth file start
    from where it lies.
    """
    for stale in [*PACKAGES.glob("__editable__*flashtrail*"), *PACKAGES.glob("flashtrail-*.dist-info")]:
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()  # an editable installation names the old place
    for script in (VENV / "bin").iterdir():
        content = b"" if script.is_symlink() or not script.is_file() else script.read_bytes()
        if head := PYTHON_HEAD.match(content):
            script.write_bytes(LAUNCHER + content[head.end() :])
    for name, lines in COMMANDS.items():
        command = VENV / "bin" / name
        command.write_bytes(LAUNCHER + lines)
        command.chmod(0o755)
    (PACKAGES / "flashtrail.pth").write_text(PATHS)


def pip(*arguments: str) -> None:
    """Run .venv's pip; its own lines tell what went wrong."""
    if subprocess.run([VENV / "bin/python", "-m", "pip", *arguments], cwd=ROOT).returncode:
        sys.exit("error: pip failed; see its lines above, mend the cause and run make setup again")


def preflight() -> None:
    """End with one line where the installation would fail later: the place, its locks, room."""
    try:
        with tempfile.TemporaryFile(dir=ROOT) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError:
        sys.exit(f"error: {ROOT} cannot be written by this user; clone it where you may write")
    except OSError as error:
        sys.exit(f"error: files in {ROOT} cannot be locked ({error.strerror}); clone it to another file system")
    for place, needed in ((ROOT, INSTALLED_GB + cuda_gb()), (Path(tempfile.gettempdir()), 0.5)):
        if (free := shutil.disk_usage(place).free / 1e9) < needed:
            sys.exit(f"error: {place} has {free:.1f} GB free, {needed:.1f} GB are needed; make room or clone elsewhere")


def cuda_gb() -> float:
    """Return what torch's CUDA build adds, GB; 0 without a GPU."""
    return CUDA_GB if shutil.which("nvidia-smi") else 0.0


def setup() -> None:
    """Bring .venv to the pins, or find it there already."""
    system_libraries()
    stamp = digest()
    if STAMP.is_file() and STAMP.read_text() == stamp:
        return
    if bad := sorted(set(str(ROOT)) & set("{}:")):  # Snakemake formats paths; PATH is parted by colons
        sys.exit(f"error: the path {ROOT} holds {' '.join(bad)}, which Snakemake cannot have; move the clone")
    print(f"setup: Python {sys.version.split()[0]} ({interpreter()})", flush=True)
    before = STAMP.read_text().splitlines()[1:] if STAMP.is_file() else []
    if before and before != [str(ROOT)]:
        if VENV.is_symlink() and Path(before[0], ".venv").exists():
            sys.exit(f"error: .venv is a link to the environment of {before[0]}; remove the link and run make setup")
        print(f"setup: .venv was made in {before[0]}; mending it for this place, its packages stay", flush=True)
    STAMP.unlink(missing_ok=True)  # from here to the end it is not ready
    if not renew_interpreter():
        preflight()
        make_venv()
    if wanted := missing_pins():
        install(wanted)
    install_launchers()
    if lacking := missing_pins():
        sys.exit(f"error: .venv lacks {', '.join(lacking)} after the installation; remove .venv and run make setup")
    STAMP.write_text(stamp)
    print("setup: .venv is ready", flush=True)


def fetch_installer() -> str:
    """Return the path of uv, fetched first: one line where pip, as it is configured here, reaches no index."""
    pin = next(pin for pin in union() if pin.startswith("uv=="))
    words = ["install", "--no-deps", "--quiet", "--retries", "1", pin]
    run = subprocess.run([VENV / "bin/python", "-m", "pip", *words], capture_output=True, text=True, cwd=ROOT)
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or [f"exit code {run.returncode}"]
        sys.exit(
            f"error: pip does not get {pin} ({said[0].removeprefix('ERROR: ')}); check the network, or name your "
            "index or proxy to pip (PIP_INDEX_URL, HTTPS_PROXY)"
        )
    return str(VENV / "bin/uv")


def pip_settings() -> dict[str, list[str]]:
    """Return what pip is configured to do on this machine, by files and by environment, words by name."""
    command = [VENV / "bin/python", "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    found: dict[str, list[str]] = {}
    for section in ("global", "install", ":env:"):  # a later one wins, as in pip; the list itself is alphabetical
        for line in lines:
            if match := re.fullmatch(rf"{section}\.([\w-]+)='(.*)'", line):
                found[match[1]] = match[2].replace("\\n", " ").split()
    return found


def uv_words(settings: dict[str, list[str]]) -> tuple[list[str], dict[str, str]] | None:
    """Return pip's settings as uv's options and variables; None where one has no counterpart."""
    words, variables = ["--index-strategy", "unsafe-best-match"], {}  # the best version of all indexes, as pip does
    for name, values in settings.items():
        if name in UV_OPTIONS:
            words += [word for value in values for word in (UV_OPTIONS[name], value)]
        elif name in UV_VARIABLES:
            variables[UV_VARIABLES[name]] = " ".join(values)
        elif name == "no-index":
            words += ["--no-index"] if values == ["true"] or values == ["1"] else []
        elif name in PIPS_OWN:
            return None
    return words, variables


def install(wanted: list[str]) -> None:
    """Install the pins that are missing and what they need, after saying how much that is."""
    if len(wanted) >= len(union()):
        fetched, installed = FETCHED_GB + cuda_gb(), INSTALLED_GB + cuda_gb()
        what = f"{len(wanted)} pinned packages and what they need, {fetched:.1f} GB; .venv will take {installed:.1f} GB"
    else:
        what = f"{len(wanted)} of the pinned packages: {', '.join(wanted)}"
    print(f"setup: fetching {what}", flush=True)
    uv, told = fetch_installer(), uv_words(pip_settings())
    common = ["-c", str(CONSTRAINTS), *torch_index(), *union()]
    if told is not None:
        if uv_install(uv, VENV, told, common):
            return
        print("note: uv did not manage; pip tries, which takes longer", flush=True)
    pip("install", "--no-compile", "--progress-bar", "off", *common)


def uv_install(uv: str, venv: Path, told: tuple[list[str], dict[str, str]], words: list[str]) -> bool:
    """Install with uv and return whether it managed; what it writes lies in `venv`: not every user has a home."""
    cache = venv / ".fetched"  # beside the packages, which are links to what lies there
    command = [uv, "pip", "install", "--quiet", "--cache-dir", cache, "--python", venv / "bin/python", *told[0]]
    cache.mkdir(exist_ok=True)
    variables = {**os.environ, "TMPDIR": str(cache), **told[1]}  # uv locks by files in TMPDIR, which others share
    done = subprocess.run([*command, *words], cwd=ROOT, env=variables)
    shutil.rmtree(cache, ignore_errors=True)
    return done.returncode == 0


def studio() -> None:
    """Bring .venv-studio, beside .venv and by its uv, to the pins of the studio; or find it there already."""
    place, constraints = VENV.with_name(".venv-studio"), STUDIO.with_name("studio-constraints.txt")
    stamp, wanted = place / STAMP.name, hashlib.sha256(STUDIO.read_bytes() + constraints.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"setup: fetching gradio and what it needs, {STUDIO_FETCHED_GB} GB, once, for {place.name}", flush=True)
    uv, told = str(VENV / "bin/uv"), uv_words(pip_settings()) or ([], {})
    words = ["-c", str(constraints), *pins(STUDIO)]
    # Without a cache: uv would look for one in the home.
    made = [uv, "venv", "--quiet", "--clear", "--no-cache", "--no-project", "--python", str(interpreter()), str(place)]
    if subprocess.run(made, cwd=ROOT).returncode or not uv_install(uv, place, told, words):
        sys.exit("error: the studio's environment could not be made; check the network and run make studio again")
    stamp.write_text(wanted)


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
    parser.add_argument("--studio", action="store_true", help="make .venv-studio, for the studio's page, and stop")
    parser.add_argument("--check", action="store_true", help="resolve each env file with pip, install nothing")
    arguments = parser.parse_args()
    if not OLDEST <= sys.version_info[:3] < (3, 12):
        sys.exit(
            f"error: Python 3.11, {'.'.join(map(str, OLDEST))} or later, is needed, this is {sys.version.split()[0]}; "
            "say make PYTHON=/path/to/python3.11"
        )
    if arguments.list:
        print("\n".join(union()))
    elif arguments.check:
        check()
    elif arguments.studio:
        studio()
    else:
        setup()
