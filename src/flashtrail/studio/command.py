"""``flashtrail studio``: the studio's page on 127.0.0.1, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from flashtrail.base.errors import UserError
from flashtrail.serving import binding

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-studio/bin/python"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--port", type=binding.tcp_port, default=0, help="where it listens on 127.0.0.1 (default: a free one)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Take the port, then become the page's process, in the environment that has gradio."""
    if not PYTHON.exists():
        raise UserError("the studio's environment, .venv-studio, is missing: run make studio, which makes it")
    sock = binding.reserve_port("127.0.0.1", arguments.port)
    sock.set_inheritable(True)
    words = [str(PYTHON), "-P", "-m", "flashtrail.studio.page", str(sock.fileno()), sys.executable, str(ROOT)]
    source = str(ROOT / "src")
    sys.stdout.flush()
    os.execve(PYTHON, words, {**os.environ, "PYTHONPATH": source})
