"""``flashtrail serve``: load an artifact's policy, of whichever family, and serve it until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.policies import registry
from flashtrail.policies.protocol import Family, Policy
from flashtrail.serving import TOKEN_VARIABLE
from flashtrail.serving.binding import tcp_port


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the server's flags, and one for each setting of the family whose artifact the command line names."""
    add = parser.add_argument
    add("--artifact", type=Path, required=True, metavar="DIR", help="the base artifact")
    add("--draft", type=Path, metavar="DIR", help="the draft artifact; without it every round is full")
    add("--action-stats", type=Path, metavar="FILE", help="a drill: unnormalise with these, not the artifact's own")
    add("--host", default="127.0.0.1", help="address to bind; beyond loopback it needs a token")
    add("--port", type=tcp_port, default=8000, help="TCP port, 0 for any (default: 8000)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add(
        "--backend",
        default="auto",
        choices=("auto", "torch", "triton"),
        help="what computes (default: auto; docs/flash.md)",
    )
    add("--threads", type=_positive, metavar="N", help="CPU threads of one pass")
    add("--workers", type=_positive, metavar="N", help="passes at once, on a CPU (default: docs/serving.md)")
    add("--token-file", type=Path, metavar="FILE", help=f"file with the token (or set {TOKEN_VARIABLE})")
    add(
        "--allow-host",
        type=_host,
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine",
    )
    add("--ready-file", type=Path, metavar="FILE", help="written with 'host port' once clients can connect")
    add("--max-sessions", type=_positive, default=64, metavar="N", help="open sessions at most (default: 64)")
    add(
        "--idle-timeout",
        type=_seconds,
        default=900.0,
        metavar="S",
        help="drop a session idle for longer (default: 900)",
    )
    add("--max-batch", type=_positive, metavar="N", help="rounds in one pass (1: alone; default: docs/serving.md)")
    add("--exit-with-parent", action="store_true", help="leave when stdin closes or the parent is gone")
    name = _family_named(parser.get_default("argv") or [])
    parser.set_defaults(family=name)
    _add_settings(parser.add_argument_group(f"settings of {name}"), registry.load(name))


def _family_named(argv: Sequence[str]) -> str:
    """Return the family of the artifact on the command line; the flags depend on it."""
    first = commands.Parser(add_help=False)
    first.add_argument("--artifact", type=Path)
    try:
        artifact = first.parse_known_args(argv)[0].artifact
    except UserError:  # reported when the whole command line is parsed
        artifact = None
    return registry.PI0 if artifact is None else registry.family_of(artifact)


def run(arguments: argparse.Namespace) -> int:
    """Bind first, then load, then serve: a taken port is reported before a model is loaded."""
    from flashtrail.serving.launch import INSTANCE_VARIABLE, leave_with_parent
    from flashtrail.serving.server import Limits, PolicyServer, check_bind, reserve_port, serve

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments.exit_with_parent:
        leave_with_parent()
    token = _token(arguments.token_file)
    check_bind(arguments.host, token)
    if (arguments.workers or 1) > 1 and (arguments.device != "cpu" or arguments.backend == "triton"):
        raise UserError(f"--workers {arguments.workers}: only PyTorch on a CPU runs parallel passes; omit it")
    limits = Limits(arguments.max_sessions, arguments.idle_timeout)
    sock = reserve_port(arguments.host, arguments.port)
    policy = _load_policy(arguments)
    together = arguments.max_batch or getattr(policy, "max_batch", 1)
    workers = _share_cores(arguments, getattr(policy, "workers", 1))
    server = PolicyServer(
        policy,
        arguments.host,
        arguments.port,
        token,
        sock=sock,
        instance=os.environ.get(INSTANCE_VARIABLE),
        limits=dataclasses.replace(limits, max_batch=together, workers=workers),
        names=arguments.allow_host,
    )
    if not asyncio.run(serve(server, arguments.ready_file)):
        logging.shutdown()
        os._exit(1)  # a round that does not end must not keep the process alive
    return 0


def _load_policy(arguments: argparse.Namespace) -> Policy:
    family = registry.load(arguments.family)
    if arguments.threads:
        family.set_threads(arguments.threads)
    try:
        settings = _settings(arguments)
        return family.load(
            arguments.artifact,
            arguments.draft,
            device=arguments.device,
            dtype=arguments.dtype,
            backend=arguments.backend,
            settings=settings,
            action_stats=arguments.action_stats,
            together=arguments.max_batch,
            sessions=arguments.max_sessions,
        )
    except family.Error as error:  # a family cannot import UserError; its own errors are one actionable line as well
        raise UserError(str(error)) from error


def _share_cores(arguments: argparse.Namespace, worth_while: int) -> int:
    """Return how many passes run at once, `worth_while` of them where cores allow, and give each its threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = arguments.workers or max(1, min(worth_while, arguments.max_sessions, cores // (arguments.threads or 1)))
    if arguments.threads is None and max(workers, worth_while) > 1:
        registry.load(arguments.family).set_threads(1 if worth_while > 1 else max(1, cores // workers))
    return int(workers)


def _add_settings(group: argparse._ArgumentGroup, family: Family) -> None:
    for field in dataclasses.fields(family.Settings):
        default: Any = field.default
        names = ["--" + field.name.replace("_", "-"), *filter(None, [family.SHORT_FLAGS.get(field.name)])]
        if isinstance(default, bool):
            group.add_argument(*names, dest=field.name, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            group.add_argument(*names, dest=field.name, type=float, nargs="+", default=default, metavar="X")
        else:
            kind = type(default)
            group.add_argument(*names, dest=field.name, type=kind, default=default, metavar=kind.__name__[0].upper())


def _settings(arguments: argparse.Namespace) -> Any:
    family = registry.load(arguments.family)
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(family.Settings)}
    return family.Settings(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _token(path: Path | None) -> str | None:
    source = f"--token-file {path}" if path is not None else TOKEN_VARIABLE
    try:
        token = (os.environ.get(TOKEN_VARIABLE, "") if path is None else path.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    if not token and path is not None:
        raise UserError(f"{source} is empty: write the token into it, on one line")
    if not (token.isascii() and token.isprintable()):
        raise UserError(f"{source} does not fit an HTTP header: a token is one line of ASCII")
    return token or None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _host(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty: give a host name of this machine")
    return text


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number
