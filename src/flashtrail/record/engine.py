"""What Snakemake itself says of a run: its report, its graph of rules as text and picture, its own record of each file.

Runs `snakemake` in the run's directory; the picture is drawn here, so that graphviz need not be installed. Knows the
engine's command line and metadata; knows no table.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

METADATA = ".snakemake/metadata"
REPORT, GRAPH, PICTURE = "record/snakemake-report.html", "record/rulegraph.dot", "record/rulegraph.svg"
_NODE = re.compile(r'^\s*(\d+)\[label = "([^"\\]+)')
_EDGE = re.compile(r"^\s*(\d+) -> (\d+)")
_REMOTE = re.compile(r"""(?:<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)\s*=|url\()\s*["']?https?://""", re.I)
_BOX, _GAP, _ROW, _CHAR = 26, 18, 64, 7.6  # px


def describe(root: Path, out: Path, profile: str, target: str) -> bool:
    """Write REPORT, GRAPH and PICTURE below `out`; return whether the engine finds nothing left to do for `target`.

    UserError if Snakemake fails, or if its report would load anything from elsewhere.
    """
    (out / REPORT).parent.mkdir(parents=True, exist_ok=True)
    _snakemake(root, profile, "--report", str((out / REPORT).resolve()), target)
    if remote := _REMOTE.search((out / REPORT).read_text(encoding="utf-8")):
        raise UserError(f"Snakemake's report loads {remote[0][:80]}...: it cannot be read without a network")
    dot = _snakemake(root, profile, "--rulegraph", "dot", target)
    dot = dot[dot.index("digraph") :]
    with provenance.write_atomic(out / GRAPH) as temporary:
        temporary.write_text(dot, encoding="utf-8")
    with provenance.write_atomic(out / PICTURE) as temporary:
        temporary.write_text(picture(dot), encoding="utf-8")
    return "Nothing to be done" in _snakemake(root, profile, "--dry-run", target)


def _snakemake(root: Path, profile: str, *words: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--profile", profile, *words]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UserError(f"snakemake {' '.join(words[:1])} failed: {said[-1] if said else 'no message'}")
    return done.stdout + done.stderr if words[0] == "--dry-run" else done.stdout


# --- the picture ---


def picture(dot: str) -> str:
    """Return the graph of rules as SVG: a box a rule, a row for each distance from the start, arrows downwards."""
    names: dict[str, str] = dict((m[1], m[2]) for m in map(_NODE.match, dot.splitlines()) if m)
    edges = [(m[1], m[2]) for m in map(_EDGE.match, dot.splitlines()) if m and m[1] != m[2]]
    rows = _rows(names, edges)
    sizes = {node: len(name) * _CHAR + 16 for node, name in names.items()}
    width = max(sum(sizes[n] + _GAP for n in row) for row in rows) + _GAP
    place: dict[str, tuple[float, float]] = {}
    for depth, row in enumerate(rows):
        x = (width - sum(sizes[n] + _GAP for n in row) + _GAP) / 2
        for node in row:
            place[node] = (x + sizes[node] / 2, 20 + depth * _ROW)
            x += sizes[node] + _GAP
    height = 20 + len(rows) * _ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}"'
            f' height="{height}" font-family="sans-serif" font-size="13" role="img">',
            "<title>Rules of the workflow and what they need of each other</title>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
            f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>',
            *(_arrow(place[a], place[b]) for a, b in sorted(edges)),
            *(_box(escape(names[n]), *place[n], sizes[n]) for n in sorted(names, key=int)),
            "</svg>\n",
        ]
    )


def _rows(names: Mapping[str, str], edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the nodes by their longest way from a start, each row near the nodes above that it needs."""
    needs: dict[str, set[str]] = {node: set() for node in names}
    for a, b in edges:
        needs[b].add(a)
    depth: dict[str, int] = {}
    for node in graphlib.TopologicalSorter(needs).static_order():
        depth[node] = max((depth[above] + 1 for above in needs[node]), default=0)
    rows: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    order: dict[str, float] = {}
    for level, row in enumerate(rows):
        row += [n for n in names if depth[n] == level]
        row.sort(key=lambda n: (sum(order[a] for a in needs[n]) / max(len(needs[n]), 1), names[n]))
        order |= {n: (i + 0.5) / len(row) for i, n in enumerate(row)}
    return rows


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = (start[0], start[1] + _BOX / 2), (end[0], end[1] - _BOX / 2)
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"'
        ' fill="none" stroke="#555" marker-end="url(#arrow)"/>'
    )


def _box(name: str, x: float, y: float, size: float) -> str:
    return (
        f'<rect x="{x - size / 2:.1f}" y="{y - _BOX / 2:.1f}" width="{size:.1f}" height="{_BOX}" rx="4" fill="#eef3f8"'
        f' stroke="#1f4e79"/><text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle" fill="#111">{name}</text>'
    )


# --- the engine's record of each output file ---


def records(root: Path) -> dict[str, dict[str, Any]]:
    """Return Snakemake's record of each output by its path; UserError for one that is damaged."""
    found = {}
    for file in sorted((root / METADATA).rglob("*")):
        if file.is_file():
            try:
                name = base64.b64decode("".join(file.relative_to(root / METADATA).parts), validate=True).decode()
                found[name] = json.loads(file.read_text(encoding="utf-8"))
            except (binascii.Error, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{file} is no record of Snakemake's: {error}") from None
    return found


def input_checksums(known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, set[str]]]:
    """Return, for each file that jobs read, the SHA-256 that Snakemake noted then, with the outputs it went into."""
    noted: dict[str, dict[str, set[str]]] = {}
    for output, record in known.items():
        for file, checksum in (record.get("input_checksums") or {}).items():
            kind, _, digest = str(checksum).partition(":")
            if kind == "sha256":
                noted.setdefault(file, {}).setdefault(digest, set()).add(output)
    return noted


def span(known: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return when the first job began and the last one ended (ISO 8601, UTC), or None where nothing is noted."""
    begun = [float(r["starttime"]) for r in known.values() if r.get("starttime")]
    ended = [float(r["endtime"]) for r in known.values() if r.get("endtime")]
    if not begun or not ended:
        return None
    first, last = (datetime.datetime.fromtimestamp(t, datetime.UTC) for t in (min(begun), max(ended)))
    return first.isoformat(timespec="seconds"), last.isoformat(timespec="seconds")
