"""A stand-in for `conda` with a real solver and installer (py-rattler), and a small test channel for it.

It answers the commands that Snakemake calls, from a file:// channel instead of conda-forge. The channel's `python`
is the interpreter of the tests, put into the environment the way a venv does; the other packages are empty. So the
wiring of the environments is real and their contents are not: whether conda-forge can solve the env files is not
tested here.

Snakemake 9.27 calls (read in its source): `conda info --json` (conda_prefix, platform), `conda --version` (>= 24.7.1),
`conda config --get channel_priority --json`, `conda env create --quiet --no-default-packages --file F --prefix P`,
`conda env export --prefix|--name`, `conda clean -y --tarballs` (after every create), and sources
`<conda_prefix>/bin/activate P`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import io
import json
import os
import sys
import tarfile
from pathlib import Path

SUBDIR = "linux-64"
CHANNEL = "CONDA_SHIM_CHANNEL"


def make_channel(directory: Path, packages: dict[str, str]) -> str:
    """Write empty packages {name: version} and a `python`, index them, and return the channel's file:// address."""
    import rattler.index

    (directory / SUBDIR).mkdir(parents=True)
    (directory / "noarch").mkdir()
    base = Path(sys.base_prefix) / "bin"
    interpreter = base / f"python{sys.version_info.major}.{sys.version_info.minor}"
    version = ".".join(map(str, sys.version_info[:3]))
    python = {
        "bin/python": interpreter,
        "pyvenv.cfg": f"home = {base}\nversion = {version}\n",
        f"lib/{interpreter.name}/site-packages/README": "of a test environment\n",
    }
    _package(directory / SUBDIR, "python", version, python)
    for name, number in packages.items():
        _package(directory / SUBDIR, name, number, {f"share/{name}": f"{name} {number}\n"})
    asyncio.run(rattler.index.index_fs(directory))
    return directory.as_uri()


def _package(directory: Path, name: str, version: str, files: dict[str, str | Path]) -> None:
    paths = []
    with tarfile.open(directory / f"{name}-{version}-0.tar.bz2", "w:bz2") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            if isinstance(content, Path):
                entry.type, entry.linkname, body = tarfile.SYMTYPE, str(content), b""
                kind, data = "softlink", content.read_bytes()
            else:
                kind, data = "hardlink", content.encode()
                entry.size, body = len(data), data
            archive.addfile(entry, io.BytesIO(body))
            digest = hashlib.sha256(data).hexdigest()
            paths.append({"_path": path, "path_type": kind, "sha256": digest, "size_in_bytes": len(data)})
        index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": [], "subdir": SUBDIR}
        for place, value in {"index": index, "paths": {"paths": paths, "paths_version": 1}}.items():
            text = json.dumps(value).encode()
            entry = tarfile.TarInfo(f"info/{place}.json")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))


def install_shim(directory: Path) -> Path:
    """Write `conda` and `activate` below `directory`/bin and return that bin directory, for PATH."""
    bin_directory = directory / "bin"
    bin_directory.mkdir(parents=True)
    conda = bin_directory / "conda"
    solver = Path(importlib.util.find_spec("rattler").origin).parents[1]
    conda.write_text(f'#!/bin/sh\nPYTHONPATH="{solver}" exec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    conda.chmod(0o755)
    (bin_directory / "activate").write_text('export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n')
    return bin_directory


def main(words: list[str]) -> None:
    """Answer one conda command line."""
    prefix = Path(os.environ.get("CONDA_SHIM_PREFIX", sys.prefix))
    match words:
        case ["--version"]:
            print("conda 25.1.0")
        case ["info", "--json"]:
            print(json.dumps({"conda_prefix": str(prefix), "platform": SUBDIR}))
        case ["config", "--get", "channel_priority", "--json"]:
            print(json.dumps({"get": {"channel_priority": "strict"}}))
        case ["env", "create", *rest]:
            asyncio.run(_create(rest))
        case ["clean", *_]:
            pass
        case _:
            sys.exit(f"conda shim: unexpected command {words}")


async def _create(words: list[str]) -> None:
    import rattler
    import yaml

    parser = argparse.ArgumentParser()
    parser.add_argument("--file", type=Path)
    parser.add_argument("--prefix", type=Path)
    arguments, _ = parser.parse_known_args(words)
    lines = yaml.safe_load(arguments.file.read_text())["dependencies"]
    specs = [rattler.MatchSpec(line) for line in lines if isinstance(line, str)]
    records = await rattler.solve([os.environ[CHANNEL]], specs, platforms=[SUBDIR, "noarch"])
    await rattler.install(records, target_prefix=arguments.prefix, show_progress=False)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # py-rattler's threads may still be ending: on a busy machine the interpreter's own end then aborts
