"""Per-round and per-episode CSV files with the reproduction's columns (docs/reference/FLASH.md, G) as our tables.

What another format's module made of its file (episode_list.py) counts as a file of episodes.

A file with the column of rounds (``infer_id``) holds rounds, another one episodes. Either kind suffices: episodes alone
give success, rounds alone a profile, since no rate can be had from rounds. A round belongs to the episode that has its
task, its number and every further name (run, condition, suite) that all files have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base.errors import UserError
from flashtrail.imports import columns
from flashtrail.imports.cells import INT64, BadRow, Row, called, empty, needed_flag, number, text, whole, whole_or_none
from flashtrail.imports.columns import Columns
from flashtrail.imports.delimited import Delimited
from flashtrail.imports.episode_list import EpisodeList
from flashtrail.imports.record import (
    CHUNK,
    Imported,
    Problem,
    apart_by_suite,
    check_steps,
    check_whole,
    chunk_of,
    episode_row,
    place,
    read_cell,
    round_row,
    route_of,
    short_of_limit,
    times,
)
from flashtrail.tables import schemas

_NAMES = ("run_name", "condition", "task_suite_name")  # may tell episodes apart beside task and number
_ROUND = ("task_id", "episode_idx", "infer_id", "route_type")
_TIMES = ("policy_time_ms", "serve_time_ms", "client_roundtrip_ms")
_NEEDED = {
    "rounds": (*_ROUND, "accepted_prefix_len", "chunk_exec_len", *_TIMES),
    "episodes": ("task_suite_name", "task_id", "episode_idx", "completed", "success"),
    "profile": (*_ROUND, *_TIMES),
}
_COUNTED = ("rounds", "full_rounds", "draft_rounds", "executed_actions")  # unknown where there is no file of rounds
EpisodeName = tuple[Any, ...]
File = Delimited | EpisodeList


class CsvRun:
    """The files of one run, or of one stage of several arms: rounds, episodes or both, in any order of the files.

    An episode's arm is `arm`, or else the `condition` of its rounds or its own, or else its run_name. Its initial state
    is `init_state` where there is such a column, else its number. `seed` is for files that have no such column.
    """

    def __init__(
        self,
        files: Sequence[str | Path | File],
        policy: str,
        seed: int | None = None,
        arm: str | None = None,
        named: Columns | None = None,
        device: str = "",
    ) -> None:
        self.policy, self.seed, self.arm, self.device, self.columns = policy, seed, arm, device, named or Columns()
        known = self.columns.known
        self.files = [Delimited(Path(file), known) if isinstance(file, str | Path) else file for file in files]
        self.columns.check({str(file.path): file.header for file in self.files})
        _check_constants(self.columns)
        self.result = Imported(origin=_origin(self.files), unpaired=not all(file.starts for file in self.files))
        self.result.unsaid += dict.fromkeys(file.unsaid for file in self.files if file.unsaid)
        self.result.files += [file.path for file in self.files]
        self.result.unread = {file.path.name: self.columns.unused(file.header) for file in self.files}
        kinds = {file.path: "rounds" if "infer_id" in self._column_names(file) else "episodes" for file in self.files}
        self.kinds = set(kinds.values())
        if self.kinds == {"rounds"}:
            kinds = dict.fromkeys(kinds, "profile")
        self.of = {kind: [f for f in self.files if kinds[f.path] == kind] for kind in _NEEDED}
        for kind, files_of_kind in self.of.items():
            for file in files_of_kind:
                self._check_columns(file, kind)
        self.shared = [name for name in _NAMES if all(name in self._column_names(file) for file in self.files)]
        self.rounds: dict[EpisodeName, list[tuple[Row, dict[str, Any]]]] = {}
        self.lines: dict[EpisodeName, list[tuple[str, int]]] = {}  # of these rounds
        self.bad: Counter[EpisodeName] = Counter()  # rounds that are named as problems already
        self.where: dict[EpisodeName, tuple[str, int]] = {}  # of rounds that no episode has claimed
        self.seen: dict[EpisodeName, tuple[str, int, Row]] = {}  # of episodes
        self.repeats: dict[tuple[Any, ...], int] = {}
        self.met: set[int] = set()  # warm-up rules that left something out

    def read(self) -> Imported:
        """Return the rows of all files; UserError where no row at all can be kept, or names contradict each other."""
        if self.of["profile"]:
            self.result.profile = self.arm or self.of["profile"][0].path.stem
            self._each("profile", self._profile)
            self._leave_out_short()
            self._keep_profile()
        self._each("rounds", self._round)
        self._leave_out_short()
        self._each("episodes", self._episode)
        self.columns.check_met(self.met)
        check_steps(self.result)
        for episode_name, (name, line) in self.where.items():
            message = f"{len(self.rounds[episode_name])} rounds of an episode that no (good) row of the episodes has"
            self.result.problems.append(Problem(name, line, f"{message}: {_text_of(self.shared, episode_name)}"))
        if any(isinstance(file, EpisodeList) for file in self.files):
            apart_by_suite(self.result)
        check_whole(self.result)
        return self.result

    # --- columns ---

    def _column_names(self, file: File) -> set[str]:
        return {*self.columns.positions(file.header), *self.columns.constant_cells(file.header)}

    def _check_columns(self, file: File, kind: str) -> None:
        have = self._column_names(file)
        if isinstance(file, EpisodeList) and not file.header:
            return  # no good row: the rows say why
        for name in _NEEDED[kind]:
            if name not in have:
                ours = columns.ours(name)
                message = f"{file.path} has no column {name!r}, which {kind} need"
                raise UserError(f"{message}: give --map {ours}=THEIRS or --constant {ours}=VALUE")
        rules = [rule for rule in self.columns.warmup if "round" in rule]
        if rules and kind != "profile":
            raise UserError(
                "--warmup with a round: an episode cannot lose single rounds, its counts would not be its rows; such "
                "a rule is for a profile (rounds alone)"
            )

    def _each(self, kind: str, taker: Callable[[File, int, Row], None]) -> None:
        for file in self.of[kind]:
            before = self.result.read[kind]
            for line, row in self._rows(file, kind):
                try:
                    taker(file, line, row)
                except BadRow as error:
                    self.result.problems.append(Problem(file.name, line, str(error)))
                    self._excuse(kind, row)
            if self.result.read[kind] == before:
                listed = isinstance(file, EpisodeList)
                lacks = f"holds no episode ({file.kind})" if listed else "has a header and no rows"
                raise UserError(f"{file.path} {lacks}")

    def _rows(self, file: File, kind: str) -> Iterator[tuple[int, Row]]:
        positions, constants = self.columns.positions(file.header), self.columns.constant_cells(file.header)
        names, width = self.columns.called(file.header), len(file.header)
        for line, cells in file.rows():
            self.result.read[kind] += 1
            if isinstance(cells, BadRow) or len(cells) != width:
                message = str(cells) if isinstance(cells, BadRow) else f"has {len(cells)} cells, the header {width}"
                self.result.problems.append(Problem(file.name, line, message))
                continue
            row = Row({**constants, **{name: cells[at] for name, at in positions.items()}}, names)
            met = self.columns.rules_met(row, file.path)
            self.met |= {*met}
            if kind != "profile" and met:
                self.result.warmup[kind] += 1
                continue
            yield line, row

    def _episode_name(self, row: Row) -> EpisodeName:
        names = [text(row, name) for name in self.shared]
        for name, value in zip(self.shared, names, strict=True):
            if value is None:
                raise BadRow(f"{called(row, name)} is missing")
        return (*names, whole(row, "task_id"), whole(row, "episode_idx"))

    def _excuse(self, kind: str, row: Row) -> None:
        """A bad episode takes its rounds along, a bad round is one that its episode lacks: one problem, one line."""
        try:
            if kind == "episodes":
                self.where.pop(self._episode_name(row), None)
            elif kind == "rounds":
                self.bad[self._episode_name(row)] += 1
        except BadRow:
            pass  # the row does not say which episode it is of, so its rounds are named by themselves

    # --- rows ---

    def _round(self, file: File, line: int, row: Row) -> None:
        episode_name = self._episode_name(row)
        before = self.rounds.setdefault(episode_name, [])
        parsed = round_row(row, [earlier for earlier, _ in before[-1:]])
        for name in _NAMES:
            if before and text(row, name) != text(before[0][0], name):
                values = f"{row.get(name)!r}, {before[0][0].get(name)!r} in the episode's earlier rounds"
                raise BadRow(f"{called(row, name)} is {values}")
        before.append((row, parsed))
        self.lines.setdefault(episode_name, []).append((file.name, line))
        self.where.setdefault(episode_name, (file.name, line))

    def _leave_out_short(self) -> None:
        """Name the rounds that only their whole episode shows to be bad, and leave them out."""
        for episode_name, of_episode in self.rounds.items():
            bad = dict(short_of_limit(of_episode))
            self.result.problems += [Problem(*self.lines[episode_name][at], message) for at, message in bad.items()]
            self.bad[episode_name] += len(bad)
            self.rounds[episode_name] = [of_round for at, of_round in enumerate(of_episode) if at not in bad]

    def _profile(self, file: File, line: int, row: Row) -> None:
        route = route_of(row)
        episode_name = (file.path, *(text(row, n) for n in _NAMES), whole(row, "task_id"), whole(row, "episode_idx"))
        episode_name += (whole(row, "infer_id"),)
        if episode_name in self.seen:
            raise BadRow(f"the round of line {self.seen[episode_name][1]} again; delete one")
        self.seen[episode_name] = (file.name, line, row)
        untold = empty(row, "accepted_prefix_len") or empty(row, "chunk_exec_len")
        chunk = dict.fromkeys(CHUNK, 0) if untold else chunk_of(row, route)
        parsed = chunk | {name: value for name, value in times(row, route).items() if name != "serve_ms"}
        parsed |= {"policy": self.policy, "route": route}
        parsed |= {
            "warmup": bool(self.columns.rules_met(row, file.path)),
            "prompt": self._task(row),
            "device": self.device,
        }
        self.result.rows["profile"].append(parsed)
        self.rounds.setdefault(episode_name[:-1], []).append((row, parsed))
        self.lines.setdefault(episode_name[:-1], []).append((file.name, line))

    def _keep_profile(self) -> None:
        """Number the profile's good rounds, in the order of the files, as rows of its table."""
        good = {id(of_round) for of_episode in self.rounds.values() for _, of_round in of_episode}
        kept = [row for row in self.result.rows["profile"] if id(row) in good]
        self.result.rows["profile"] = [
            {name: row.get(name) for name in schemas.PROFILE.names} | {"sample": sample}
            for sample, row in enumerate(kept)
        ]

    def _episode(self, file: File, line: int, row: Row) -> None:
        episode_name = self._episode_name(row)
        if episode_name in self.seen:
            name, earlier, cells = self.seen[episode_name]
            again = f"the episode of {place(name, earlier)}"
            which = f"({_text_of(self.shared, episode_name)})"
            if cells == row:
                raise BadRow(f"{again} again {which}; delete one")
            raise BadRow(f"another row of {again} {which}: delete one, or import it as another --arm")
        self.seen[episode_name] = (file.name, line, row)
        of_episode = self.rounds.get(episode_name, [])
        key = self._key(row, of_episode[0][0] if of_episode else {})
        end, steps = _end(row), whole_or_none(row, "steps")
        run = text(row, "run_name") or (text(of_episode[0][0], "run_name") if of_episode else None) or file.path.stem
        common = {"run_id": run, "policy": self.policy, "task": self._task(row), "seed": self._seed(row)}
        rounds = [{**key, **of_round} for _, of_round in of_episode]
        counts = {"steps": steps, "executed_actions": sum(r["executed"] for r in rounds)}
        episode = episode_row(common, key, end, rounds) | counts | {"video": text(row, "video_path")}
        if "rounds" in self.kinds:
            self._agree(file, line, row, episode, self.bad[episode_name])
        else:
            number(row, "infer_calls")  # held against nothing, but still a number
            episode |= dict.fromkeys(_COUNTED)
        self.where.pop(episode_name, None)
        self.result.rows["episodes"].append(episode)
        self.result.rows["rounds"] += rounds

    def _key(self, row: Row, of_rounds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the episode's key. Episodes of one initial state are told apart as its repeats, in their order."""
        suite = text(row, "task_suite_name")
        if suite is None:
            raise BadRow(f"{called(row, 'task_suite_name')} is missing")
        name_given = self.arm or text(of_rounds, "condition") or text(row, "condition") or text(row, "run_name")
        arm = name_given or text(of_rounds, "run_name")
        if arm is None:
            raise BadRow("neither condition nor run_name names the arm: give --arm")
        start = "episode_idx" if empty(row, "init_state") else "init_state"
        state = (arm, suite, whole(row, "task_id"), whole(row, start))
        repeat = whole_or_none(row, "repeat")
        if repeat is None:
            repeat = self.repeats.get(state, 0) if start == "init_state" else 0
        names = (*state, repeat)
        if names in self.repeats:
            raise BadRow(f"another episode of {'/'.join(map(str, names))}; give each its own --arm")
        self.repeats |= {names: 1, state: self.repeats.get(state, 0) + 1}
        return dict(zip(schemas.EPISODE_KEY, names, strict=True))

    def _agree(self, file: File, line: int, row: Row, episode: Mapping[str, Any], bad: int) -> None:
        """Name an episode whose rounds, with the `bad` ones, are not those that it counts; the rounds are kept."""
        counted, n = number(row, "infer_calls"), episode["rounds"]
        if bad and counted in (None, n + bad):
            return
        if counted in (None, n):
            self.result.complete[tuple(episode[name] for name in schemas.EPISODE_KEY)] = (file.name, line)
        if counted is not None and counted != n:
            message = f"{called(row, 'infer_calls')} is {counted:g}, but {n} rounds of the episode could be read"
            self.result.problems.append(Problem(file.name, line, message))
        elif counted is None and not n and episode["outcome"] != "error":
            self.result.problems.append(Problem(file.name, line, "no round of this episode could be read"))

    def _task(self, row: Row) -> str:
        return text(row, "task_description") or f"task {whole(row, 'task_id')}"

    def _seed(self, row: Row) -> int:
        if not empty(row, "seed"):
            return whole(row, "seed", INT64)
        if self.seed is None:
            raise UserError("the files do not name the run's seed: give --seed")
        return self.seed


def _origin(files: Sequence[File]) -> str:
    """``CSV files a.csv, b.csv``, by kind, with what a file's reader has to say."""
    names: dict[str, list[str]] = {}
    for file in files:
        names.setdefault(file.kind, []).append(file.path.name + (f" ({file.note})" if file.note else ""))
    return "; ".join(f"{kind}{'s' * (len(own) > 1)} {', '.join(sorted({*own}))}" for kind, own in names.items())


def _check_constants(named: Columns) -> None:
    for ours, value in named.constants.items():
        try:
            read_cell({columns.OFFICIAL[ours]: value}, columns.OFFICIAL[ours])
        except BadRow as error:
            raise UserError(f"--constant {ours}={value}: {error}") from None


def _end(row: Row) -> tuple[str, str | None]:
    """Return outcome and error: an episode that was not completed was ended by infrastructure, not by the policy."""
    success, completed = needed_flag(row, "success"), needed_flag(row, "completed")
    if completed and whole_or_none(row, "steps") == 0:
        message = "is 0 of a completed episode: leave the cell empty if it is not known"
        raise BadRow(f"{called(row, 'steps')} {message}")
    if success and not completed:
        raise BadRow(f"{called(row, 'success')} without {called(row, 'completed')}")
    reason = text(row, "failure_reason") or text(row, "failure_mode") or "no reason recorded"
    return ("success", None) if success else ("horizon", None) if completed else ("error", reason)


def _text_of(shared: Sequence[str], episode_name: EpisodeName) -> str:
    *names, task, episode = episode_name
    parts = [f"{name} {value}" for name, value in zip(shared, names, strict=True)]
    return ", ".join([*parts, f"task {task}", f"episode {episode}"])
