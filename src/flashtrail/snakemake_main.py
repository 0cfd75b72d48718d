"""What `.venv/bin/snakemake` runs: Snakemake's own main, with the config files that it is given read by us before.

Snakemake reads them before the Snakefile, and tells of a file that is no plain YAML by a traceback of its own; here it
is the line that `flashtrail ledger` prints. The command line and the profiles are parsed by Snakemake. Jobs start as
``python -m snakemake`` and do not pass here. Run by file: it imports no package before it knows whose Snakefile it is,
since a checkout's Snakefile and jobs use that checkout's package.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from snakemake import cli
from snakemake.exceptions import print_exception


def main() -> None:
    """Exit as Snakemake does, after its own output: 0, or 1; 1 with one line for a config that cannot be read."""
    gc.freeze()  # what the imports left is never freed: walking it again and again was a seventh of a plan's time
    try:
        parser, arguments = cli.parse_args(sys.argv[1:])
        _parse(arguments.config)
        _read(arguments.configfile, cli.resolve_snakefile(arguments.snakefile, allow_missing=True))
        done = cli.args_to_api(arguments, parser)
    except Exception as error:
        print_exception(error)
        sys.exit(1)
    sys.exit(0 if done else 1)


def _parse(settings: Sequence[str] | None) -> None:
    """End with Snakemake's own words for a setting of --config that is no ``name=value``, without its traceback."""
    try:
        cli.parse_config(settings)
    except ValueError as error:
        words = str(error).removeprefix("Invalid config definition: ")
        sys.exit(f"error: --config {' '.join(map(str, settings or ()))}: {words}")


def _read(files: Sequence[Path], snakefile: Path | str | None) -> None:
    if not files:
        return
    if isinstance(snakefile, Path) and (own := snakefile.absolute().parent / "src").is_dir():
        sys.path.insert(0, str(own))
    from flashtrail.base import documents
    from flashtrail.base.errors import UserError

    try:
        for file in files:
            if file.is_fifo():  # it would be empty the second time
                raise UserError(f"{file} is a pipe, and a config is read more than once: write it to a file")
            documents.overlay(file)
    except UserError as error:
        sys.exit(f"error: {error}")
