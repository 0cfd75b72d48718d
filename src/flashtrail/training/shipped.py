"""A trained policy as it is shipped: artifact, curve, and a card whose section on success comes from its arms' tables.

Success comes later than training: without a run the card gets that section alone.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base import parquet
from flashtrail.base.errors import UserError
from flashtrail.statistics.wilson import wilson
from flashtrail.tables import schemas
from flashtrail.training import curves

CARD = "README.md"
Digest = Callable[[Path], str]  # of the artifact in a directory; UserError where there is none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the step `card`."""
    parser.add_argument(
        "--run", type=Path, dest="of", metavar="DIR", help="a finished run (train --out); without it the policy stays"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the policy goes: resources/NAME")
    parser.add_argument(
        "--tables", type=Path, nargs="*", default=[], metavar="DIR", help="results/tables/ARM of its arms: its success"
    )


def write(arguments: argparse.Namespace, digest: Digest, card: Callable[[Path, str], str]) -> int:
    """Copy a run's artifact and curve and write its card, or renew the success of a policy that is there.

    `card(run, name)` is a card's text without a section on success.
    """
    of, target = arguments.of, arguments.to
    if of is None:
        return _renew(target, arguments.tables, digest)
    text, played = card(of, target.name), success(arguments.tables, digest(of / "artifact"))
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((of / "artifact").iterdir()):
        shutil.copyfile(path, target / path.name)
    shutil.copyfile(of / curves.CSV, target / curves.CSV)
    (target / CARD).write_text(with_success(text, played), encoding="utf-8")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 2**20:.1f} MiB, digest {digest(target)[:16]}")
    return 0


def curve(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's curve."""
    with (run / curves.CSV).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _renew(target: Path, tables: Sequence[Path], digest: Digest) -> int:
    """Count success anew in the card of a policy that is there."""
    place = target / CARD
    if not tables or not place.is_file():
        raise UserError(f"{target}: give --run, or --tables for a policy that has a card ({CARD})")
    place.write_text(with_success(place.read_text(encoding="utf-8"), success(tables, digest(target))), encoding="utf-8")
    print(f"{place}: success of {len(tables)} arms")
    return 0


def with_success(text: str, section: str) -> str:
    """Return a card's text with this section on success (may be empty) in place of the one that it has."""
    without = re.sub(r"^## Success\n.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)
    head, training, rest = without.partition("## Training\n")
    return f"{head}{section}\n{training}{rest}" if section else without


def success(arms: Sequence[Path], digest: str) -> str:
    """Return the section on success from merged tables of arms; UserError for those of another artifact."""
    lines = []
    for path in (arm / "episodes.parquet" for arm in arms):
        if (played := schemas.read_metadata(path).get("artifact_digest")) != digest:
            raise UserError(f"{path} is of another artifact ({str(played)[:16]}): run its arm again with this one")
        rows = parquet.read(path).to_pylist()
        for task in sorted({row["task_id"] for row in rows}):
            own = [row for row in rows if row["task_id"] == task]
            if unjudged := sum(row.get("verified_success") is None for row in own):
                raise UserError(f"{path}: {unjudged} of {len(own)} episodes have no verdict: run the arm again")
            k, n = sum(row["verified_success"] for row in own), len(own)
            between = wilson(k, n)
            lines.append([own[0]["arm"], str(task), f"{k}/{n} [{between.low:.3f}, {between.high:.3f}]", _naive(own)])
    if not lines:
        return ""
    columns = 4 if any(line[3] for line in lines) else 3  # only where the suite has that metric
    rows_of_text = "".join(f"| {' | '.join(line[:columns])} |\n" for line in lines)
    heads = ("arm", "task", "verified", "naive")[:columns]
    naive = " Naive: the report's own criterion." * (columns == 4)
    return (
        "## Success\nVerified success (docs/rollouts.md) through the ordinary server and shards, k/n with the 95 % "
        f"Wilson interval; starts that no demonstration used.{naive}\n\n"
        f"| {' | '.join(heads)} |\n{'|---' * columns}|\n{rows_of_text}"
    )


def _naive(rows: Sequence[dict[str, Any]]) -> str:
    """k/n by the naive metric; nothing where the suite has none."""
    told = [row["naive_success"] for row in rows if row.get("naive_success") is not None]
    return f"{sum(told)}/{len(told)}" if len(told) == len(rows) else ""
