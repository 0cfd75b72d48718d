"""The `flashtrail` command: each subcommand is a call into a stage, imported only when it is asked for.

Knows names, flags and exit codes; knows no stage's inside. A stage joins by one line in `COMMANDS`: the target is
``module`` or ``module:object``, and has ``add_arguments(parser)`` and ``run(arguments) -> int | None``. Targets are
text, so that the code digest of one command does not reach the modules of another.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashtrail import __version__
from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.serving import TOKEN_VARIABLE

COMMANDS: dict[str, tuple[str, str]] = {
    "audit": ("check a bundle: checksums, tables, verdicts, a rerun of some episodes", "flashtrail.record.audit"),
    "bundle": ("put a finished run into one directory that a stranger can check", "flashtrail.record.bundle"),
    "doctor": ("name the likely cause of a run that fails in silence", "flashtrail.drills.doctor"),
    "explain": ("what one episode depended on, and its replay against the record", "flashtrail.record.explain"),
    "export-pickle": (
        "write an artifact as the official runtime's base_weights.pkl and draft_triton.pkl",
        "flashtrail.checkpoints.pickle_command:Export",
    ),
    "import-pickle": (
        "make artifacts of the official runtime's pickles",
        "flashtrail.checkpoints.pickle_command:Import",
    ),
    "import-run": (
        "read an official client's run, or CSVs, into our tables",
        "flashtrail.imports.command:Import",
    ),
    "report-run": ("report on imported runs", "flashtrail.imports.report_command:Report"),
    "ledger": ("which of the experiment's episodes are there, by arm and task", "flashtrail.experiment.ledger"),
    "serve": ("serve a policy on the official websocket protocol", "flashtrail.cli:ServeCommand"),
}

_SHORT_FLAGS = {"tau_radius": ("--tau",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; return its exit code: 2 for a user's mistake, which is printed as one line (`commands`)."""
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        arguments = _parser(words).parse_args(words)
        return int(arguments.run(arguments) or 0)

    return commands.run(command, _named(words) or "flashtrail")


def _named(words: Sequence[str]) -> str | None:
    """Return the subcommand that the words name, if any."""
    return next((word for word in words if word in COMMANDS), None)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; only the subcommand that is named has its module imported and its flags added."""
    parser = commands.Parser(prog="flashtrail", description="Evidence for real-time robot policies.")
    parser.add_argument("--version", action="version", version=f"flashtrail {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    named = _named(words)
    for name, (summary, target) in sorted(COMMANDS.items()):
        sub = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == named:
            command = _load(target)
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    return parser


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


class ServeCommand:
    """``flashtrail serve``: load an artifact into the FLASH engine and serve it until SIGTERM."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the server's flags, and one flag for each field of FlashSettings."""
        add = parser.add_argument
        add("--artifact", type=Path, required=True, metavar="DIR", help="the base artifact")
        add("--draft", type=Path, metavar="DIR", help="the draft artifact; without it every round is full")
        add("--action-stats", type=Path, metavar="FILE", help="a drill: unnormalise by these, not the artifact's own")
        add("--host", default="127.0.0.1", help="address to bind; beyond loopback it needs a token")
        add("--port", type=_port, default=8000, help="TCP port, 0 for any (default: 8000)")
        add("--device", default="cpu", help="cpu or cuda (default: cpu)")
        add("--dtype", default="float32", choices=("float32", "bfloat16"))
        add(
            "--backend",
            default="auto",
            choices=("auto", "torch", "triton"),
            help="what computes (default: auto; docs/flash.md)",
        )
        add("--threads", type=_positive, metavar="N", help="CPU threads of one pass")
        add("--lanes", type=_positive, metavar="N", help="passes at once, on a CPU (default: docs/serving.md)")
        add("--token-file", type=Path, metavar="FILE", help=f"file with the token (or set {TOKEN_VARIABLE})")
        add(
            "--allow-host", action="append", default=[], metavar="NAME", help="a name that clients call this machine by"
        )
        add("--ready-file", type=Path, metavar="FILE", help="written with 'host port' once clients can connect")
        add("--max-sessions", type=_positive, default=64, metavar="N", help="open sessions at a time (default: 64)")
        add(
            "--idle-timeout", type=float, default=900.0, metavar="S", help="drop a session after so long (default: 900)"
        )
        add("--max-batch", type=_positive, metavar="N", help="rounds in one pass (1: alone; default: docs/serving.md)")
        add("--exit-with-parent", action="store_true", help="leave when stdin closes or the parent is gone")
        _add_settings(parser.add_argument_group("FLASH settings"))

    @staticmethod
    def run(arguments: argparse.Namespace) -> int:
        """Bind first, then load, then serve: a taken port is told before the time is spent on a model."""
        from flashtrail.serving.launch import INSTANCE_VARIABLE, leave_with_parent
        from flashtrail.serving.server import Limits, check_bind, reserve_port, serve

        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        if arguments.exit_with_parent:
            leave_with_parent()
        token = _token(arguments.token_file)
        check_bind(arguments.host, token)
        if (arguments.lanes or 1) > 1 and (arguments.device != "cpu" or arguments.backend == "triton"):
            raise UserError(f"--lanes {arguments.lanes}: only PyTorch on a CPU runs passes at once; leave --lanes out")
        limits = Limits(arguments.max_sessions, arguments.idle_timeout)
        sock = reserve_port(arguments.host, arguments.port)
        policy = _load_policy(arguments)
        together, lanes = arguments.max_batch or policy.max_batch, _share_cores(arguments, policy.lanes)
        drained = serve(
            policy,
            arguments.host,
            arguments.port,
            token=token,
            sock=sock,
            ready_file=arguments.ready_file,
            instance=os.environ.get(INSTANCE_VARIABLE),
            limits=dataclasses.replace(limits, max_batch=together, lanes=lanes),
            names=arguments.allow_host,
        )
        if not drained:
            logging.shutdown()
            os._exit(1)  # a round that does not end must not hold the process
        return 0


def _load_policy(arguments: argparse.Namespace) -> Any:
    import torch

    from flashtrail.policies.pi0.batch import MAX_BATCH
    from flashtrail.policies.pi0.errors import FlashError
    from flashtrail.policies.pi0.policy import FlashPolicy

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        return FlashPolicy.load(
            arguments.artifact,
            arguments.draft,
            arguments.device,
            arguments.dtype,
            _settings(arguments),
            backend=arguments.backend,
            action_stats=arguments.action_stats,
            # Passes are of open sessions: programs for more of them would never run.
            together=min(arguments.max_batch or MAX_BATCH, arguments.max_sessions),
        )
    except FlashError as error:  # flash knows no UserError; its own are one actionable line as well
        raise UserError(str(error)) from error


def _share_cores(arguments: argparse.Namespace, worth_while: int) -> int:
    """Return how many passes run at once, `worth_while` of them where cores allow, and give each its threads."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lanes = arguments.lanes or max(1, min(worth_while, arguments.max_sessions, cores // (arguments.threads or 1)))
    if arguments.threads is None and max(lanes, worth_while) > 1:
        torch.set_num_threads(1 if worth_while > 1 else max(1, cores // lanes))
    return int(lanes)


def _settings_class() -> Any:
    from flashtrail.policies.pi0.settings import FlashSettings

    return FlashSettings


def _add_settings(group: argparse._ArgumentGroup) -> None:
    for field in dataclasses.fields(_settings_class()):
        flag, default = "--" + field.name.replace("_", "-"), field.default
        names = (flag, *_SHORT_FLAGS.get(field.name, ()))
        if isinstance(default, bool):
            group.add_argument(*names, dest=field.name, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            group.add_argument(*names, dest=field.name, type=float, nargs="+", default=default, metavar="X")
        else:
            kind = type(default)
            group.add_argument(*names, dest=field.name, type=kind, default=default, metavar=kind.__name__[0].upper())


def _settings(arguments: argparse.Namespace) -> Any:
    values = {}
    for field in dataclasses.fields(_settings_class()):
        value = getattr(arguments, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return _settings_class()(**values)


def _token(path: Path | None) -> str | None:
    source = f"--token-file {path}" if path is not None else TOKEN_VARIABLE
    try:
        token = (os.environ.get(TOKEN_VARIABLE, "") if path is None else path.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: {getattr(error, 'strerror', None) or 'is no text'}") from None
    if not token and path is not None:
        raise UserError(f"{source} is empty: put one line with the token into it")
    if not (token.isascii() and token.isprintable()):
        raise UserError(f"{source} holds what no HTTP header can: a token is one line of ASCII")
    return token or None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _port(text: str) -> int:
    port = _whole(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a TCP port (0 to 65535)")
    return port


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number
