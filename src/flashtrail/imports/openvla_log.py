"""Text logs of OpenVLA's LIBERO evaluation, and of what descends from it (``EVAL-SUITE-...txt``).

Lines as ``experiments/robot/libero/run_libero_eval.py`` writes them, in github.com/openvla/openvla (c8f03f4) and
github.com/moojink/openvla-oft (213c5ff): `Task suite: X`, then for each episode `Task: TEXT`, `Starting episode N...`,
`Success: True`, two running counts; after a task `Current task success rate: R`. The k-th episode of a task starts at
LIBERO's initial state k unless the log names another file of states. An exception ends an episode without success,
whatever `Success:` repeats from the episode before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashtrail.imports.cells import BadRow
from flashtrail.imports.episode_list import EpisodeList, check_rate

KIND = "OpenVLA log"
UNSAID = "policy, device, seed, steps, rounds and latency"
_FIRST = "Task suite: "
_TASK, _BEGIN, _CAUGHT = "Task: ", "Starting episode ", ("Caught exception: ", "Episode error: ")
_SUCCESS, _TASK_END = "Success: ", "Current task success rate: "
_COUNT = re.compile(r"(?:# successes|Total successes): (\d{1,9})\b")
_ENDED = re.compile(r"(?:# episodes completed so far|Total episodes): (\d{1,9})\b")
_RATE = re.compile(r"(Current task|Current total|Overall) success rate: (\d(?:\.\d+)?(?:e-\d+)?)(?: |$)")
_WORDS = {"True": True, "False": False}
_OTHER_STATES = "Using initial states from "


def is_one(content: str) -> bool:
    """Return whether a text is such a log."""
    return content.startswith(_FIRST)


class _Log:
    """What has been read so far: the task, its number, the episode's number, how often a run succeeded."""

    def __init__(self, suite: str) -> None:
        self.suite, self.task, self.task_id, self.index, self.won = suite, "", 0, -1, 0
        self.lost = 0  # episodes that the run counted and that are not here
        self.open: tuple[int, dict[str, Any]] | None = None
        self.lines: list[int] = []
        self.episodes: list[Mapping[str, Any] | BadRow] = []

    def begin(self, line: int) -> None:
        """Take the line that begins an episode."""
        self.cut_off()
        known = {"task_suite_name": self.suite, "task_id": self.task_id, "task_description": self.task}
        self.open = line, known | {"episode_idx": self.index, "completed": True}

    def end(self, word: str) -> None:
        """Take the line that says an episode's success."""
        if self.open is not None:
            line, known = self.open
            self.open = None
            self.lines.append(line)
            self.episodes.append(known | {"success": _WORDS.get(word, word) if known["completed"] else False})
            self.won += known["completed"] and word == "True"

    def count(self, won: int) -> None:
        """Hold the run's own count of successes against its episodes; the last one is named where they differ."""
        if won != self.won and self.episodes:
            self.episodes[-1] = BadRow(
                f"# successes is {won}, but {self.won} episodes so far say so: was a line removed?"
            )
            self.won = won

    def count_ended(self, ended: int) -> None:
        """Hold the run's own count of episodes against those that are here, as `count` does."""
        self.cut_off()
        if ended != len(self.episodes) + self.lost and self.episodes:
            self.lost = ended - len(self.episodes)
            self.episodes[-1] = BadRow(
                f"the run counts {ended} episodes so far, but {len(self.episodes)} are here: was a line removed?"
            )

    def of_task(self) -> list[Mapping[str, Any] | BadRow]:
        """Return the task's episodes; one that is bad is of no known task, and stays."""
        return [row for row in self.episodes if isinstance(row, BadRow) or row["task_id"] == self.task_id]

    def cut_off(self) -> None:
        """Name an episode that began and did not end."""
        if self.open is not None:
            self.lines.append(self.open[0])
            self.episodes.append(BadRow("this episode has no Success: line: was the run cut off?"))
            self.open = None


def read(path: Path, content: str) -> EpisodeList:
    """Return the episodes of a log."""
    lines = content.splitlines()
    log = _Log(lines[0].removeprefix(_FIRST).strip())
    own_states = False
    for line, words in enumerate(lines, 1):
        if words.startswith(_TASK):
            log.cut_off()
            log.task, log.index = words.removeprefix(_TASK), log.index + 1
        elif words.startswith(_BEGIN):
            log.begin(line)
        elif words.startswith(_CAUGHT) and log.open is not None:
            log.open[1].update(completed=False, failure_reason=words)
        elif words.startswith(_SUCCESS):
            log.end(words.removeprefix(_SUCCESS).strip())
        elif found := _COUNT.match(words):
            log.count(int(found[1]))
        elif found := _ENDED.match(words):
            log.count_ended(int(found[1]))
        if found := _RATE.match(words):
            log.cut_off()
            own = log.of_task() if words.startswith(_TASK_END) else log.episodes
            check_rate(f"{path}:{line}: {found[1].lower()}", float(found[2]), own)
        if words.startswith(_TASK_END):
            log.task_id, log.index = log.task_id + 1, -1
        own_states |= words.startswith(_OTHER_STATES)
    log.cut_off()
    return EpisodeList(path, KIND, log.episodes, UNSAID, starts=not own_states, lines=log.lines)
