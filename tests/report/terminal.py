"""A terminal as a screen: what its user sees of the bytes that programs write; scroll region, cursor, wrapping."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator

_TOKENS = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|\x1b(\d|[A-Z])|([\r\n\b])|([^\x1b\r\n\b]+)")


class Screen:
    """Lines of text; raises AssertionError for a sequence that it does not know."""

    def __init__(self, columns: int, height: int) -> None:
        self.columns, self.height = columns, height
        self.lines = [""] * height
        self.gone: list[str] = []  # scrolled off above
        self.row = self.column = 0
        self.region, self.saved, self.wraps = (0, height - 1), (0, 0), True

    def resize(self, columns: int, height: int) -> None:
        """As xterm: the cursor's line stays visible, lines are cut, the region is the whole screen again."""
        above = max(0, self.row - height + 1)
        self.gone += self.lines[:above]
        self.lines = [line[:columns] for line in self.lines[above:]][:height]
        self.lines += [""] * (height - len(self.lines))
        self.row, self.column = self.row - above, min(self.column, columns - 1)
        self.columns, self.height, self.region = columns, height, (0, height - 1)

    def feed(self, text: str) -> None:
        place = 0
        while place < len(text):
            token = _TOKENS.match(text, place)
            assert token, f"unknown sequence {text[place : place + 12]!r}"
            place = token.end()
            values, final, short, control, plain = token.groups()
            if plain:
                for character in plain:
                    self._put(character)
            elif control:
                self._control(control)
            elif short:
                {"7": self._save, "8": self._restore, "D": self._down}[short]()
            else:
                self._sequence(values, final)

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            if self.wraps:
                self.column = 0
                self._down()
            else:
                self.column -= 1
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _control(self, control: str) -> None:
        if control == "\n":
            self._down()
        else:
            self.column = 0 if control == "\r" else max(0, self.column - 1)

    def _down(self) -> None:
        top, bottom = self.region
        if self.row == bottom:
            line = self.lines.pop(top)
            self.gone += [line] if top == 0 else []
            self.lines.insert(bottom, "")
        else:
            self.row = min(self.row + 1, self.height - 1)

    def _save(self) -> None:
        self.saved = (self.row, self.column)

    def _restore(self) -> None:
        self.row, self.column = min(self.saved[0], self.height - 1), min(self.saved[1], self.columns - 1)

    def _sequence(self, values: str, final: str) -> None:
        numbers = [int(value or 0) for value in values.lstrip("?").split(";")]
        if final == "m":
            return
        if values == "?7":
            self.wraps = final == "h"
        elif final == "r":
            self.region = (numbers[0] - 1, numbers[1] - 1) if values else (0, self.height - 1)
            self.row = self.column = 0
        elif final == "H":
            self.row, self.column = max(0, numbers[0] - 1), max(0, (numbers[1:] or [1])[0] - 1)
        elif final == "A":
            self.row = max(0, self.row - max(1, numbers[0]))
        elif final == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            self.lines[self.row + 1 :] = [""] * (self.height - self.row - 1)
        else:
            assert (values, final) == ("2", "K"), f"unknown sequence {values}{final}"
            self.lines[self.row] = ""

    def text(self) -> str:
        """All that was printed, as far as it was not overwritten."""
        return "\n".join(line.rstrip() for line in [*self.gone, *self.lines])


class Terminal:
    """A pseudo-terminal and its screen."""

    def __init__(self, columns: int, height: int) -> None:
        self.master, self.slave = pty.openpty()
        self.screen, self._rest = Screen(columns, height), b""
        self._tell(columns, height)

    def _tell(self, columns: int, height: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))

    def resize(self, columns: int, height: int) -> None:
        self.read()
        self.screen.resize(columns, height)
        self._tell(columns, height)

    def read(self, wait_s: float = 0.0) -> Screen:
        """Take in what was written."""
        while select.select([self.master], [], [], wait_s)[0]:
            try:
                data = os.read(self.master, 2**16)
            except OSError:  # nobody has it open any more
                break
            self._rest += data
            with contextlib.suppress(UnicodeDecodeError):  # a character that comes in two pieces
                self.screen.feed(self._rest.decode())
                self._rest = b""
        return self.screen

    def wait(self, true: Callable[[Screen], bool], seconds: float = 300) -> Screen:
        """Read until something is true of the screen."""
        deadline = time.monotonic() + seconds
        while not true(self.read()):
            assert time.monotonic() < deadline, self.screen.text()
            time.sleep(0.05)
        return self.screen


@contextlib.contextmanager
def opened(columns: int = 80, height: int = 24) -> Iterator[Terminal]:
    terminal = Terminal(columns, height)
    try:
        yield terminal
    finally:
        for descriptor in (terminal.master, terminal.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)
