"""The page's process from its first moment on: Ctrl-C ends it in one word, also while gradio is imported (seconds)."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Import the page, and give it out until Ctrl-C or SIGTERM."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it runs in the background of a script, where Ctrl-C is not for it
        signal.signal(signal.SIGINT, _end)
    from flashtrail.studio import page

    signal.signal(signal.SIGINT, before)
    page.main()


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    # An exception would pass through gradio's modules, which catch some.
    os.write(sys.stdout.fileno(), b"ended\n")
    os._exit(0)


if __name__ == "__main__":
    main()
