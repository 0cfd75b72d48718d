"""Snakemake, started often: forks of one process that has imported it, since half of a start is that.

Run by file. Each line of standard input is one start: its launcher and arguments, directory, environment, what goes
before its module path, and the files for its output and errors; each line of standard output is the exit status of one.
A fork has read no Snakefile and imported no module of the package before it is told its arguments. It is the
interpreter of the tests: which one a launcher finds, and what that imports by itself, needs a start of its own. Knows
nothing of checkouts.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import dpath  # noqa: F401
import nbformat.v4  # noqa: F401  (Snakemake imports it with the first rule that has a script)
import smart_open  # noqa: F401  (with all its transports; Snakemake imports it with the first source file)
import yte  # noqa: F401  (profiles are read with it)
from docutils import core, readers, writers  # noqa: F401
from docutils.parsers.rst import directives, roles, states  # noqa: F401
from docutils.parsers.rst.directives import images  # noqa: F401
from PIL import Image  # noqa: F401
from snakemake import assets, cli, profiles, storage  # noqa: F401


def prepare() -> None:
    """Find the plugins once, and parse the package for its digests: a checkout has edited a few of its modules.

    What is there before the forks is left out of their garbage collections.
    """
    cli.get_argument_parser()
    parse = ast.parse
    sources = [file.read_text(encoding="utf-8") for file in (Path(__file__).parents[2] / "src").rglob("*.py")]
    parsed = {source: parse(source) for source in sources}
    ast.parse = lambda source, *more, **named: parsed.get(source) or parse(source, *more, **named)
    gc.collect()
    gc.freeze()


def become(start: dict[str, Any]) -> None:
    os.nice(10)
    os.chdir(start["cwd"])
    os.environ.clear()
    os.environ.update(start["env"])
    sys.path[:0] = start["modules"]
    for theirs, (file, how) in enumerate(
        [(os.devnull, os.O_RDONLY), *((start[name], os.O_WRONLY | os.O_APPEND) for name in ("output", "errors"))]
    ):
        os.dup2(os.open(file, how), theirs)
    sys.argv = [start["launcher"], *start["arguments"]]
    runpy.run_path(start["launcher"], run_name="__main__")


def main() -> None:
    assert not [name for name in sys.modules if name.split(".")[0] == "flashtrail"]
    prepare()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return become(json.loads(line))  # it ends as any program does
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
