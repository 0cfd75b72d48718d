"""How a command of ours ends, whatever happens in it: with one line and an exit code, never with a traceback.

Serves `flashtrail` and each ``python -m flashtrail.STAGE``.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from flashtrail.base.errors import UserError, cause

_REMEDIES = {
    errno.ENOTDIR: "a file is in its way: move it, or name another place",
    errno.EEXIST: "a file is in its way: move it, or name another place",
    errno.EISDIR: "this is a directory where a file is needed: name another place",
    errno.EACCES: "no permission: name another place, or change its owner or mode",
    errno.EPERM: "no permission: name another place, or change its owner or mode",
    errno.EROFS: "it is read-only: name another place",
    errno.ENOSPC: "the disk is full: free some space and run again",
    errno.EDQUOT: "your quota is used up: free some space and run again",
    errno.ENAMETOOLONG: "the name is too long: name another place",
}

_KIN = {"\u00a0": " ", "\u2013": "-", "\u2212": "-"}


class Parser(argparse.ArgumentParser):
    """A command line of ours (and its subcommands): a word that does not fit it is one line, as other mistakes are."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing all flags around the message."""
        raise UserError(f"{message}; see {self.prog} --help")


def run(main: Callable[[], int | None], name: str) -> int:
    """Run a command and return its exit code; `name` is how its kept traceback is called.

    2 after a UserError or a place that cannot be written, 1 after anything unforeseen (its traceback is kept in a file
    that the line names), 130 after Ctrl-C, 141 where the reader of a pipe has left, which is not an error.
    """
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")
    try:
        code = _code(main)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except UserError as error:
        return _said(f"error: {error}", 2)
    except KeyboardInterrupt:
        return _said("error: interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:  # the reader, such as `head`, has closed: not an error, and nothing left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            _flush_or_close()  # a write that failed, of a file or of standard output, tells no name
            return _said(f"error: the output cannot be written: {error.strerror}", 2)
        if error.errno in _REMEDIES and isinstance(error.filename, str | bytes | os.PathLike):
            line = UserError(f"{os.fsdecode(error.filename)}: {_REMEDIES[error.errno]}")
            return _said(f"error: {line}", 2)
        return _unforeseen(error, name)
    except Exception as error:
        return _unforeseen(error, name)


def _code(main: Callable[[], int | None]) -> int:
    """Return the exit code, that of argparse's own end (--help, --version) among them."""
    try:
        return int(main() or 0)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        raise


def _flush_or_close() -> None:
    """Print what is left, or let it go nowhere: the interpreter would try, and fail, once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Spell what a terminal lacks: a space and a hyphen for their typographic kin, an umlaut as ``\\xfc``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    error.end = error.start + 1
    kin = _KIN.get(error.object[error.start])
    return (kin, error.end) if kin else codecs.backslashreplace_errors(error)


def _said(line: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nothing reads standard error
        print(line, file=sys.stderr)
    return code


def _unforeseen(error: Exception, name: str) -> int:
    what = cause(f"{type(error).__name__}: {error}")
    where = _kept("".join(traceback.format_exception(error)), name)
    return _said(f"error: {UserError(f'{what} (a fault of flashtrail: please report it, with {where})')}", 1)


def _kept(text: str, name: str) -> str:
    """Write a traceback where only its owner reads it (it may hold names and paths), and return the place."""
    for directory in ("results/logs", None):  # None: the system's place for temporary files
        with contextlib.suppress(OSError):
            if directory and Path("results").is_dir():
                Path(directory).mkdir(exist_ok=True)
            descriptor, path = tempfile.mkstemp(".traceback", f"flashtrail-{name}-", directory)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text.encode("utf-8", "backslashreplace"))
            return path
    _said(text, 1)
    return "the traceback above"
