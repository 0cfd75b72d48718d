"""``python -m flashtrail.studio`` (`make studio`): the studio's page on 127.0.0.1, until Ctrl-C.

No subcommand of `flashtrail`: its table is in the code digest of every shard.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.serving import binding

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-studio/bin/python"


def main(argv: Sequence[str] | None = None) -> int:
    """Take the port, then become the page's process, in the environment that has gradio."""
    parser = commands.Parser(
        prog="python -m flashtrail.studio", description="The studio, in a browser on this machine."
    )
    parser.add_argument(
        "--port", type=binding.tcp_port, default=0, help="where it listens on 127.0.0.1 (default: a free one)"
    )
    parser.add_argument(
        "--data", type=Path, action="append", default=[], metavar="DIR",
        help="a set of demonstrations, or a directory with such sets, outside the checkout; may be given again",
    )  # fmt: skip
    given = parser.parse_args(argv)
    for place in given.data:
        if not place.is_dir():
            raise UserError(f"--data {place} is not a directory: give one with sets of demonstrations")
    if not PYTHON.exists():
        raise UserError("the studio's environment, .venv-studio, is missing: run make studio, which makes it")
    sock = binding.reserve_port("127.0.0.1", given.port)
    sock.set_inheritable(True)
    words = [str(PYTHON), "-P", "-m", "flashtrail.studio.begin", str(sock.fileno()), sys.executable, str(ROOT)]
    words += [str(place.resolve()) for place in given.data]
    sys.stdout.flush()
    os.execve(PYTHON, words, {**os.environ, "PYTHONPATH": str(ROOT / "src")})


if __name__ == "__main__":
    sys.exit(commands.run(main, "studio"))
