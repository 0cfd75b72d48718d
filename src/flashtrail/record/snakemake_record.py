"""What Snakemake itself says of a run: its report, its graph of rules, its record of each output file.

Runs `snakemake` in the run's directory.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError

METADATA = ".snakemake/metadata"
REPORT, GRAPH = "record/snakemake-report.html", "record/rulegraph.dot"
_REMOTE = re.compile(r"""(?:<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)\s*=|url\()\s*["']?https?://""", re.I)


def describe(root: Path, out: Path, profile: str, target: str) -> bool:
    """Write REPORT and GRAPH below `out`; return whether the engine finds nothing left to do for `target`.

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
    return "Nothing to be done" in _snakemake(root, profile, "--dry-run", target)


def _snakemake(root: Path, profile: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--profile", profile, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        messages = (done.stderr.strip() or done.stdout.strip()).splitlines()
        said = messages[-1] if messages else "no message"
        remedy = f"is --profile {profile} the one of this run, and has it ended?"
        raise UserError(f"snakemake {arguments[0]} failed: {said} ({remedy})")
    return done.stdout + done.stderr if arguments[0] == "--dry-run" else done.stdout


# --- the engine's record of each output file ---


def records(root: Path) -> dict[str, dict[str, Any]]:
    """Return Snakemake's record of each output by its path; UserError for a damaged one."""
    found = {}
    for file in sorted((root / METADATA).rglob("*")):
        if file.is_file():
            try:
                name = base64.b64decode("".join(file.relative_to(root / METADATA).parts), validate=True).decode()
                found[name] = json.loads(file.read_text(encoding="utf-8"))
            except (binascii.Error, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{file} is not a record of Snakemake's: {error}") from None
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
