"""The live panel of a run: the last lines of a terminal, while all that is printed scrolls above them.

Jobs write to the terminal themselves, past this process, so no library that guards its own output can keep a panel
whole; the terminal can: lines outside its scroll region stay (as apt's progress bar does). The cursor is neither hidden
nor moved for others, so that a kill leaves nothing worse than those lines (`reset` frees them).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from flashtrail.experiment import outlook
from flashtrail.experiment.outlook import Shard, Standing, State

_NARROW, _LEAST = 72, (20, 12)  # columns below which numbers take more lines; the smallest terminal, columns and lines
_SAVE, _RESTORE, _ALL, _BELOW, _UP = "\x1b7", "\x1b8", "\x1b[r", "\x1b[J", "\x1b[{}A"
_DOWN, _REGION, _LINE = "\x1bD", "\x1b[1;{}r", "\x1b[{};1H\x1b[2K{}"  # index, unlike a line feed, keeps the column
_UNWRAPPED, _WRAPPED = "\x1b[?7l", "\x1b[?7h"


def terminal(stream: TextIO, variables: Mapping[str, str] = os.environ) -> bool:
    """Return whether a panel may be drawn there: a terminal with a scroll region, no CI, no NO_COLOR."""
    if variables.get("NO_COLOR") or variables.get("CI") or variables.get("TERM", "dumb") == "dumb":
        return False
    try:
        import curses

        curses.setupterm(variables["TERM"], stream.fileno())
        return stream.isatty() and all(curses.tigetstr(name) for name in ("csr", "sc", "rc", "ind", "ed"))
    except Exception:  # not known here, or nothing to know it by
        return False


class Panel:
    """Draws lines below the scroll region of the terminal behind `stream`, from one thread; `close` from any."""

    def __init__(self, stream: TextIO) -> None:
        self._fd, self._encoding = stream.fileno(), stream.encoding or "ascii"
        self._held: tuple[int, int, int] | None = None  # columns and lines of the terminal, lines of ours
        self._lock = threading.Lock()

    def size(self) -> tuple[int, int] | None:
        """Return columns and lines; None where there is no room, or the terminal is another job's at the moment."""
        columns, height = os.get_terminal_size(self._fd)
        return (columns, height) if columns >= _LEAST[0] and height >= _LEAST[1] and self._foreground() else None

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, no longer than the terminal is wide; OSError where the terminal is gone."""
        with self._lock:
            columns, height = os.get_terminal_size(self._fd)
            held, self._held = self._held, (columns, height, len(lines))
            parts = [] if held == self._held else self._reserved(len(lines), height)
            # One write: other processes' output comes before or after it. What is too long does not wrap.
            shown = (_LINE.format(height - len(lines) + 1 + row, text) for row, text in enumerate(lines))
            self._write("".join([*parts, _SAVE, _UNWRAPPED, *shown, _WRAPPED, _RESTORE]))

    def close(self) -> None:
        """Give the whole terminal back; the cursor stays where the output ended."""
        if self._lock.acquire(timeout=1.0):  # a terminal that is held up (Ctrl-S) is not waited for
            held, self._held = self._held, None
            if held:
                with contextlib.suppress(OSError):
                    self._write(_SAVE + _ALL + _RESTORE + _BELOW)
            self._lock.release()

    def _reserved(self, count: int, height: int) -> list[str]:
        """What is below the cursor is ours or empty: clear it, and make room there."""
        region = [_SAVE, _REGION.format(height - count), _RESTORE]
        return [_SAVE, _ALL, _RESTORE, _BELOW, _DOWN * count, _UP.format(count), *region]

    def _foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # a terminal without jobs
            return True

    def _write(self, text: str) -> None:
        rest = text.encode(self._encoding, "replace")
        while rest:
            rest = rest[os.write(self._fd, rest) :]


def release_when_stopped(panel: Panel) -> None:
    """On Ctrl-Z give the shell its terminal whole; the next look after `fg` draws the panel again."""

    def stop(number: int, frame: object) -> None:
        panel.close()
        os.kill(os.getpid(), signal.SIGSTOP)  # the terminal has stopped the jobs itself

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, stop)


# --- what it says ---


def lines(now: Standing, states: Mapping[Shard, State], columns: int) -> list[str]:
    """Return the panel's lines, each of at most `columns` characters; how many depends on `columns` alone."""
    done, asked = sum(state.n for state in states.values()), sum(len(shard.expected) for shard in states)
    filled = round(columns * done / max(1, asked))
    rate = outlook.rate(states.values(), now.written_at)
    numbers = [
        outlook.how_far(states),
        f"about {outlook.duration(now.left_s)} left" if now.left_s is not None else "",
        f"{rate:.1f} rounds/s" if rate else "",
        f"{outlook.duration(now.written_at - now.started_at)} so far",
        f"{now.jobs[0]} of {now.jobs[1]} jobs" if now.jobs else "",
    ]
    at_work = {shard: state for shard, state in states.items() if (shard.arm, shard.task_id) in now.busy}
    work = [f"{shard.arm} task {shard.task_id} {state.k}/{state.n}" for shard, state in at_work.items()]
    failed = [f"FAILED {one.job}" + (f": see {one.log}" if one.log else "") for one in now.failed]
    tall = 1 if columns >= _NARROW else 2
    parts = (numbers, tall), ([now.running, *work], 1), (failed or ["so far", *_by_arm(states)], tall)
    return ["━" * filled + "─" * (columns - filled), *(line for text, n in parts for line in _flow(text, columns, n))]


def _by_arm(states: Mapping[Shard, State]) -> list[str]:
    """Return ``clean 5/6`` of every arm with an episode; first those of which one ended last."""
    arms: dict[str, list[State]] = {}
    for shard, state in states.items():
        if state.n:
            arms.setdefault(shard.arm, []).append(state)
    ends = {arm: max((end.at for one in own for end in one.ended.values()), default=0.0) for arm, own in arms.items()}
    order = sorted(arms, key=lambda arm: -ends[arm])
    return [f"{arm} {sum(one.k for one in arms[arm])}/{sum(one.n for one in arms[arm])}" for arm in order]


def _flow(parts: Iterable[str], columns: int, count: int) -> list[str]:
    """Put parts on `count` lines as they fit; what does not is left out, and a first part that is too long is cut."""
    rows = [""]
    for part in filter(None, parts):
        if not rows[-1]:
            rows[-1] = part[:columns]
        elif len(rows[-1]) + 3 + len(part) <= columns:
            rows[-1] += f"   {part}"
        elif len(rows) < count:
            rows.append(part[:columns])
        else:
            break
    return rows + [""] * (count - len(rows))
