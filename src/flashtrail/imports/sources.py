"""What a source of ``import-run`` is, told by content: the format of a file, and which files of a directory count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError
from flashtrail.imports import delimited, json_lines, lerobot_eval, openvla_log, vla_eval, vla_eval_recording
from flashtrail.imports.columns import Columns
from flashtrail.imports.csv_run import CsvRun
from flashtrail.imports.delimited import Delimited
from flashtrail.imports.episode_list import EpisodeList, parsed
from flashtrail.imports.official import read_run
from flashtrail.imports.record import Imported

KNOWN = (
    "a run directory of the official client, vla-eval's result JSON or SQLite recording, lerobot's eval_info.json, "
    "episodes as JSON lines, an OpenVLA log, CSV"
)
_JSON: tuple[tuple[Callable[[Any], bool], Callable[[Path, Any], EpisodeList]], ...] = (
    (vla_eval.is_one, vla_eval.read),
    (lerobot_eval.is_one, lerobot_eval.read),
)
_TASKS = provenance.PACKAGE_ROOT.parents[1] / "resources" / "libero" / "tasks.yaml"
_MOST = 10_000  # files of a directory that are looked into
_READ = (".json", ".jsonl", ".sqlite", ".txt", ".log")  # a directory's files that are looked into
_LARGEST_JSON = 2**27  # characters; in memory it is some ten times that


def read(
    sources: Sequence[Path], policy: str, seed: int | None, arm: str | None, named: Columns, device: str
) -> Imported:
    """Read the sources of one run, whatever they are. Without `arm` CSV rows and a run directory name their own.

    Other files get the name of the first; of several suites each is an arm of its own, ``ARM-SUITE``.
    """
    if len(sources) == 1 and (sources[0] / "manifest.json").is_file():
        if named != Columns():
            raise UserError("--map, --constant and --warmup are for files of episodes: a run directory has fixed names")
        return read_run(sources[0], policy, arm)
    files = [
        file for source in sources for file in (_of_directory(source) if source.is_dir() else [opened(source, named)])
    ]
    lists = [file for file in files if isinstance(file, EpisodeList)]
    number(lists)
    if lists and not arm and "arm" not in {*named.names, *named.constants}:
        arm = sources[0].name if sources[0].is_dir() else sources[0].stem
    return CsvRun(files, policy, seed, arm, named, device).read()


def opened(path: Path, named: Columns) -> EpisodeList | Delimited:
    """Return a file as what its content says that it is; UserError, with the known formats, where it says nothing."""
    found = _list_in(path)
    if found:
        return found
    try:
        return Delimited(path, named.known)
    except UserError as error:
        if named != Columns():
            raise
        raise UserError(f"{error} (what import-run reads: {KNOWN})") from None


def _list_in(path: Path) -> EpisodeList | None:
    """Return the episodes of a file whose format its content tells; None for any other, which may be CSV."""
    try:
        with path.open("rb") as file:
            if file.read(len(vla_eval_recording.MAGIC)) == vla_eval_recording.MAGIC:
                return vla_eval_recording.read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    content = delimited.text_of(path)
    if openvla_log.is_one(content):
        return openvla_log.read(path, content)
    if not content.lstrip().startswith("{"):
        return None
    if len(content) > _LARGEST_JSON:
        raise UserError(f"{path} is larger than {_LARGEST_JSON:,} characters of JSON: give it in parts")
    if json_lines.is_one(content) and content.strip().count("\n"):
        return json_lines.read(path, content)
    value = parsed(content, str(path))
    reader = next((reader for is_one, reader in _JSON if is_one(value)), None)
    return reader(path, value) if reader else json_lines.read(path, content) if json_lines.is_one(content) else None


def _of_directory(root: Path) -> list[EpisodeList]:
    """Return the files of a directory whose format is told by content, but for CSV; others, and links out, are left.

    An aggregate whose evaluation is in a recording beside it was exported from it and is left, too.
    """
    looked_into = sorted(path for path in root.iterdir() if path.suffix in _READ)
    if len(looked_into) > _MOST:
        kinds = ", ".join(_READ)
        raise UserError(
            f"{root} holds {len(looked_into):,} files ({kinds}), more than {_MOST:,}: name those that count"
        )
    found = []
    for path in looked_into:
        inside = path.is_file() and path.resolve().parent == root.resolve()
        entry = _list_in(path) if inside else None
        if entry and (entry.kind != json_lines.KIND or path.suffix == ".jsonl"):
            found.append(entry)
    recorded = {name for file in found if file.kind == vla_eval_recording.KIND for name in file.made_of}
    kept = [file for file in found if file.kind == vla_eval_recording.KIND or not file.made_of & recorded]
    if not kept:
        raise UserError(f"{root} holds nothing that import-run reads from a directory: it reads {KNOWN} (each by name)")
    return kept


def number(files: Iterable[EpisodeList]) -> None:
    """Number the tasks whose number their record does not say: LIBERO's own, else the place among the sorted texts."""
    rows = [row for file in files for row in file.episodes if isinstance(row, dict) and row.get("task_description")]
    texts: dict[str, set[str]] = {}
    for row in rows:
        texts.setdefault(str(row.get("task_suite_name")), set()).add(str(row["task_description"]))
    known = {suite: list(tasks) for suite, tasks in documents.mapping(_TASKS, "libero_goal:").items()}
    for row in rows:
        if row.get("task_id") is None:
            suite, text = str(row.get("task_suite_name")), str(row["task_description"])
            order = known.get(suite) or sorted(texts[suite])
            row["task_id"] = order.index(text) if text in order else None
