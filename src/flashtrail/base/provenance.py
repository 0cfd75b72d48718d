"""Digests and whole-or-nothing writing: what makes a result traceable and never incomplete."""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import gc
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_DIGEST_CHARS = 16
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements lie: most nodes are expressions


def sha256_file(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in 1 MiB blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """Return a 16-character digest of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


def digest_tree(paths: Iterable[str | Path], base: str | Path) -> str:
    """Return a 16-character digest over relative names and contents of files, in sorted order."""
    root, digest = Path(base), hashlib.sha256()
    for path in sorted(Path(p) for p in paths):
        digest.update(str(path.relative_to(root)).encode() + b"\0")
        digest.update(sha256_file(path).encode() + b"\n")
    return digest.hexdigest()[:_DIGEST_CHARS]


def source_files(root: Path) -> list[Path]:
    """Return the files of a source tree, data (style sheets, templates) included, compiled ones left out; sorted."""
    return sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


@contextlib.contextmanager
def write_atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync and rename it there, on error remove it.

    Works for files and for directories (the caller makes which one it wants at the yielded path). An existing
    directory is replaced; a reader sees the old one or the new one, never a mixture (for directories there is
    an instant with neither).
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        if temporary.is_dir():
            _remove(target)
        else:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        _remove(temporary)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"disk full while writing {target}: free some space and run again") from error
        if error.errno == errno.ENOENT and error.filename in map(str, (temporary, *target.parents)):
            raise UserError(f"{target} cannot be made there: name another place") from error
        if str(error.filename).startswith(str(temporary)):  # whoever reads the error knows the target only
            error.filename = str(target)
        raise
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def json_dump(value: Any, path: str | Path) -> None:
    """Write JSON atomically: sorted keys, two-space indent, a final newline, NaN refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, default=_plain)
    with write_atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def json_load(path: str | Path) -> Any:
    """Read a JSON file; a missing or broken one is a UserError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid JSON: it is nested too deeply") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # numpy scalar
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serialisable")


# --- code digests: imported modules are invisible to the rerun triggers of Snakemake (docs/workflow.md) ---


def code_digest(*files: str | Path) -> str:
    """Return a digest over `files` (modules, scripts, notebooks), every module of this package that they import, and
    the data (style sheets, templates) beside those modules.

    The walk is transitive and static (import statements anywhere in a file, also inside functions), so a lazily
    imported module counts. Third-party code does not: its versions are in the environment records. Touching a file
    changes nothing; editing a module changes exactly the digests of the stages that reach it.
    """
    own = sorted({Path(f).resolve() for f in files})
    digest = hashlib.sha256()
    for path in own:
        digest.update(path.name.encode() + b"\0" + sha256_file(path).encode())
    modules = module_closure(own)
    for file in [*modules, *sorted({data for room in {m.parent for m in modules} for data in _data_of(room)})]:
        digest.update(str(file.relative_to(PACKAGE_ROOT)).encode() + b"\0" + sha256_file(file).encode())
    return digest.hexdigest()[:_DIGEST_CHARS]


def module_closure(files: Iterable[str | Path]) -> list[Path]:
    """Return the files of this package that `files` import, directly or not, sorted."""
    todo, seen = [Path(f).resolve() for f in files], set[Path]()
    while todo:
        for found in _package_imports(todo.pop()):
            if found not in seen:
                seen.add(found)
                todo.append(found)
    return sorted(seen)


def _data_of(room: Path) -> list[Path]:
    """Return the files in a package's folders that are not packages, such as static/ and templates/."""
    folders = (f for f in room.iterdir() if f.is_dir() and f.name != "__pycache__")
    return [file for folder in folders if not any(folder.rglob("*.py")) for file in folder.rglob("*") if file.is_file()]


@functools.cache
def _package_imports(path: Path) -> tuple[Path, ...]:
    names: set[str] = set()
    collects = gc.isenabled()
    gc.disable()  # its walks over a growing tree, in which nothing is to be freed, are most of the time
    try:
        todo: list[ast.AST] = [ast.parse(_python_of(path), filename=str(path))]
    finally:
        if collects:
            gc.enable()
    while todo:
        node = todo.pop()
        for block in _BLOCKS:
            todo += getattr(node, block, ())
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return tuple(sorted(f for name in names for f in _files_of(name)))


def _python_of(path: Path) -> str:
    """Return a file's Python: of a notebook, its code cells without the lines that only IPython understands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = (cell["source"] for cell in json.loads(text).get("cells", []) if cell["cell_type"] == "code")
    lines = "\n".join(cell if isinstance(cell, str) else "".join(cell) for cell in cells).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = ("flashtrail", *path.parent.relative_to(PACKAGE_ROOT).parts)
    parts = package[: len(package) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


@functools.cache
def _files_of(name: str) -> tuple[Path, ...]:
    """Return the module file for a dotted name and the ``__init__`` files that importing it runs."""
    parts = name.split(".")
    if parts[0] != "flashtrail":
        return ()
    path, files = PACKAGE_ROOT, list[Path]()
    for part in parts[1:]:
        if (path / "__init__.py").is_file() and path != PACKAGE_ROOT:
            files.append(path / "__init__.py")
        path = path / part
    if path.with_suffix(".py").is_file():
        files.append(path.with_suffix(".py"))
    elif (path / "__init__.py").is_file() and path != PACKAGE_ROOT:
        files.append(path / "__init__.py")
    return tuple(files)


def git_commit(root: str | Path) -> str | None:
    """Return the commit of a checkout with ``+dirty`` appended if tracked files differ; None outside git."""
    try:
        run = functools.partial(
            subprocess.run, cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=20
        )
        commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        dirty = run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+dirty" if dirty else "")
