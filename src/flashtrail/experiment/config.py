"""The experiment, typed once: config.yaml (plus profile overlays) -> a checked Experiment -> plain dicts.

Every key of a section is explained in `sections`; what they mean together is here. An unknown key is an error that
names the nearest valid one. `Experiment.arm(name)` and `Experiment.policy(name)` give the slice that a job needs and
nothing else, so that a change elsewhere reruns nothing of it.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from flashtrail.base import commands, documents, names
from flashtrail.base.errors import SettingError, UserError, nearest
from flashtrail.experiment import clocks, refits, suites
from flashtrail.experiment.arms import CHECKUP, Arm, Checkup, Drills, Expanded, Grid, Line, Sweep, written_out
from flashtrail.experiment.conditions import KINDS, Clean, Condition, Kind
from flashtrail.experiment.conditions import read as read_condition
from flashtrail.experiment.guards import Guard, NoGuard
from flashtrail.experiment.handoff import Handoff
from flashtrail.experiment.limits import Limits
from flashtrail.experiment.report_files import CHAPTERS, FINAL, ReportFiles, ReportName
from flashtrail.experiment.sections import ENGINE, PI0_SETTINGS, Flash, Measured, Policy, Profile, Section, Smoke
from flashtrail.experiment.sets import Dataset
from flashtrail.experiment.shard import EXPERT, MAX_SEED, Rollout, SceneSeed

T = TypeVar("T")
_LONGEST_NAME = 200
PUBLISHED = Path(__file__).resolve().parents[3] / "resources" / "published" / "published.yaml"


def _name(name: str) -> str:
    """Return a name as it was given: it may hold anything that can be shown (`names` makes a file's name of it)."""
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(f"a name has 1 to {_LONGEST_NAME} printable characters")
    return name


def _folder(name: str) -> str:
    if names.file_name(name) != name:
        plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name)[:50].strip("_.-") or "policy"
        raise ValueError(f"this name also names result files: call it {plain!r}")
    return name


Name = Annotated[str, AfterValidator(_name)]
FolderName = Annotated[Name, AfterValidator(_folder)]


class Experiment(Section):
    """The whole config.yaml."""

    suite: suites.SuiteName = "libero_goal"
    tasks: suites.TaskSpec = Field("0-2", description="task ids such as 0,2,5-7")
    seed: int = Field(7, ge=0, le=MAX_SEED)
    scene_seed: SceneSeed = "episode"
    policies: dict[FolderName, Policy] = Field(min_length=1)
    flash: Flash = Field(default_factory=Flash)
    conditions: dict[Name, Condition]
    guards: dict[Name, Guard]
    limits: dict[Name, Limits] = Field(default_factory=dict)
    handoffs: dict[Name, Handoff] = Field(default_factory=dict)
    arms: dict[Name, Arm] = Field(default_factory=dict)
    grids: dict[Name, Grid] = Field(default_factory=dict)
    sweeps: dict[Name, Sweep] = Field(default_factory=dict)
    drills: Drills | None = None
    rollout: Rollout = Field(default_factory=Rollout)
    profile: Profile
    measured: Measured = Field(default_factory=Measured)
    datasets: dict[FolderName, Dataset] = Field({}, description="demonstrations that the report shows, by name")
    smoke: Smoke = Field(default_factory=Smoke)
    checkup: Checkup | None = None
    claims: str = Field("claims.yaml", description="the claims that the report judges")
    report: ReportName = Field(
        FINAL, description="name of the report; another one stands beside final.html in the same checkout"
    )
    reuse: list[str] = Field(
        [], description="directories of finished runs or unpacked bundles whose equal episodes are taken, not run"
    )

    @model_validator(mode="after")
    def _references(self) -> Experiment:
        if self.smoke.task not in self.task_ids:
            raise ValueError(f"smoke.task: {self.smoke.task} is not among tasks {self.tasks!r}")
        for where, line in self._lines():
            self._check_place(where, line)
        if not self.arms and not self.grids and not self.sweeps:
            raise ValueError("arms: give at least one arm, grid or sweep")
        for section in ("grids", "sweeps"):
            for name, line in getattr(self, section).items():
                _known(f"{section}.{name}.policy", line.policy, self.policies)
        for place in ("profile", "drills", "checkup"):
            if (section := getattr(self, place)) is not None:
                _known(f"{place}.policy", section.policy, self.policies)
        if self.policies[self.profile.policy].expert:
            raise ValueError(f"profile.policy: {self.profile.policy!r} is the simulator's expert: no round to time")
        for policy in self.measured.sensitivity:
            _known("measured.sensitivity", policy, self.policies)
            if self.policies[policy].expert:
                raise ValueError(f"measured.sensitivity: {policy!r} is the simulator's expert: no policy to ask")
        if self.measured.sensitivity and self.profile.episodes < 2:
            raise ValueError("measured.sensitivity: needs two starts of a task (an interval five): profile.episodes: 5")
        for name, grid in self.grids.items():
            _known(f"grids.{name}.fault", grid.fault, KINDS)
            for guard in grid.guards:
                _known(f"grids.{name}.guards", guard, self.guards)
        for own in [*self._drills.arms, *self._drills.conditions]:
            if own in self.arms or own in self.conditions:
                raise ValueError(f"drills: {own!r} is also the name of another arm or condition: rename that one")
        if self.checkup is not None and CHECKUP in self.arms:
            raise ValueError(f"arms.{CHECKUP}: this name is reserved for the checkup's arm: rename yours")
        for name, arm in self.all_arms.items():
            self._check_arm(f"arms.{name}", name, arm)
        refits.check(self)
        return self

    def _lines(self) -> Iterator[tuple[str, Line]]:
        """Yield the lines that name episodes, each with its place in the config."""
        for section in ("arms", "grids", "sweeps"):
            for name, line in getattr(self, section).items():
                yield f"{section}.{name}", line
        for place in ("drills", "checkup"):
            if (line := getattr(self, place)) is not None:
                yield place, line

    def _check_place(self, where: str, line: Line) -> None:
        """Check that a line's suite has the tasks and init states that it names."""
        if isinstance(line, Checkup):
            _at(f"{where}.task", suites.check_task, self._suite_of(line), line.task)
        else:
            _at(f"{where}.tasks", self._tasks_of, line)
        count = suites.suite_of(self._suite_of(line)).init_states
        starts = {where: line} | ({f"{where}.reference": line.reference} if isinstance(line, Drills) else {})
        for place, own in starts.items():
            _at(f"{place}.episodes", suites.check_init_state, own.end - 1, "", count)

    def _suite_of(self, line: Line) -> str:
        return line.suite or self.suite

    def _tasks_of(self, line: Line) -> list[int]:
        """Return a line's task ids; SettingError where the experiment's would be those of another suite."""
        suite = self._suite_of(line)
        if line.tasks is None and suite != self.suite:
            raise SettingError(f"the experiment's tasks {self.tasks!r} are {self.suite}'s: say which of {suite}")
        return self.task_ids if line.tasks is None else suites.parse_tasks(line.tasks, suite)

    def _check_arm(self, where: str, name: str, arm: Arm) -> None:
        if name.endswith(".html"):
            raise ValueError(f"{where}: names that end in .html are reserved for pages: drop the ending")
        _known(f"{where}.policy", arm.policy, self.policies)
        _known(f"{where}.condition", arm.condition, self.all_conditions)
        _known(f"{where}.guard", arm.guard, self.guards)
        if arm.limits is not None:
            _known(f"{where}.limits", arm.limits, self.limits)
        if arm.handoff is not None:
            _known(f"{where}.handoff", arm.handoff, self.handoffs)
        flash, clock, other = self._flash_of(arm), _at(f"{where}.clock", self._clock_of, arm), self.server_of(arm)
        who = "the expert" if other == EXPERT else f"the server at {other}"
        if other == EXPERT and arm.server:
            raise ValueError(f"{where}.server: the policy {arm.policy!r} is the simulator's expert: leave it out")
        suite = self._suite_of(arm)
        for place in self._asking_expert(arm):
            if not suites.suite_of(suite).expert:
                having = ", ".join(name for name, one in suites.SUITES.items() if one.expert and one.evidence)
                raise ValueError(f"{where}.{place}: {suite} has no expert of its own; suites with one: {having}")
        if other == EXPERT and clock != clocks.PAUSED:  # all that it answers would be late
            raise ValueError(f"{where}.clock: the expert answers for one step at a time: leave its clock paused")
        fixed = clock.source if isinstance(clock, clocks.Running) and isinstance(clock.source, clocks.Fixed) else None
        if fixed and fixed.draft_ms is None and not (flash.force_full_each_round or other):
            source = fixed.published or "constant_ms"
            raise ValueError(f"{where}.clock: {source} has no draft round: add flash: {{force_full_each_round: true}}")
        if other and arm.flash.model_fields_set:
            raise ValueError(f"{where}.flash: {who} has its own settings; leave them out")
        asked = arm.settings.model_dump(exclude_none=True)
        if asked and other:
            raise ValueError(f"{where}.settings: {who} has no such settings; leave them out")
        if self.policies[arm.policy].candidates and (strange := sorted(asked.keys() - PI0_SETTINGS)):
            raise ValueError(f"{where}.settings.{strange[0]}: pi0 has no such setting; leave it out")
        if other and arm.execution.action_stats:
            raise ValueError(f"{where}.execution: {who} has its own statistics")
        most = flash.max_exec_steps
        if not other and (arm.execution.replan_steps or 0) > most:
            raise ValueError(
                f"{where}.execution.replan_steps: the policy allows at most {most}: raise flash.max_exec_steps"
            )

    @functools.cached_property
    def _drills(self) -> Expanded:
        return Expanded({}, {}) if self.drills is None else self.drills.expanded()

    @property
    def files(self) -> ReportFiles:
        """The files of the experiment as a whole, by the name of its report."""
        return ReportFiles(self.report)

    @functools.cached_property
    def drill_arms(self) -> dict[str, Arm]:
        """The arms of the drills by name; not part of the report."""
        return {name: Arm.model_validate(arm) for name, arm in self._drills.arms.items()}

    @functools.cached_property
    def all_arms(self) -> dict[str, Arm]:
        """The arms of the final report, those of the drills, and the checkup's."""
        own = {} if self.checkup is None else {CHECKUP: Arm.model_validate(self.checkup.arm(tasks=self.checkup.task))}
        return {**self.arms, **self.drill_arms, **own}

    @functools.cached_property
    def all_conditions(self) -> dict[str, Kind]:
        """The conditions of the config and those of the drills."""
        return {**self.conditions, **{name: read_condition(spec) for name, spec in self._drills.conditions.items()}}

    def tasks_of(self, arm: str) -> list[int]:
        """The task ids of an arm, ascending: its own, or the experiment's."""
        return self._tasks_of(self.all_arms[arm])

    def suite_of(self, arm: str) -> str:
        """The suite of an arm: its own, or the experiment's."""
        return self._suite_of(self.all_arms[arm])

    @property
    def used_suites(self) -> list[str]:
        """The suites of all arms, and of what tries and times their policies."""
        return list(dict.fromkeys([*map(self.suite_of, self.all_arms), self.home_of(self.profile.policy)[0]]))

    def home_of(self, policy: str) -> tuple[str, list[int]]:
        """The suite in which a policy is tried and timed, and its tasks: the experiment's, if an arm has it there.

        Else, and of a policy trained for its robots, those of its first arm: it may not know the others' instructions.
        """
        own = [arm for arm in self.all_arms.values() if arm.policy == policy]
        at_home = self.policies[policy].train is None and any(self._suite_of(arm) == self.suite for arm in own)
        if not own or at_home:
            return self.suite, self.task_ids
        return self._suite_of(own[0]), self._tasks_of(own[0])

    def smoke_task(self, policy: str) -> int:
        """The task of a policy's smoke test."""
        suite, tasks = self.home_of(policy)
        return self.smoke.task if suite == self.suite and self.smoke.task in tasks else tasks[0]

    def server_of(self, arm: Arm) -> str | None:
        """Return what answers an arm where no server is started: one that runs, or EXPERT; else None."""
        return EXPERT if self.policies[arm.policy].expert else arm.server

    def _asking_expert(self, arm: Arm) -> list[str]:
        """Return the keys of an arm, `policy` or `handoff`, by which its suite's expert acts."""
        asks = {"policy": self.server_of(arm) == EXPERT}
        asks |= {"handoff": arm.handoff is not None and self.handoffs[arm.handoff].asks_expert}
        return [place for place, asked in asks.items() if asked]

    def has_expert(self, name: str) -> bool:
        """Whether its suite's expert acts in an arm."""
        return bool(self._asking_expert(self.all_arms[name]))

    def _flash_of(self, arm: Arm) -> Flash:
        return self.flash.model_copy(update={name: getattr(arm.flash, name) for name in arm.flash.model_fields_set})

    def _clock_of(self, arm: Arm) -> clocks.Running | str:
        """Return an arm's clock with published figures looked up; SettingError where there are none."""
        if not isinstance(arm.clock, clocks.Running):
            return clocks.PAUSED
        return clocks.resolved(arm.clock, lambda: documents.mapping(PUBLISHED, "sources:"))

    @property
    def running_arms(self) -> list[str]:
        """The arms under a running clock, in config order."""
        return [name for name, arm in self.arms.items() if arm.clock != clocks.PAUSED]

    @property
    def chapters(self) -> list[str]:
        """The chapters of the report of which an arm has something: a fault, a guard, a running clock."""
        kinds = [self._kinds(arm) for arm in self.arms.values()]
        empty = {
            "robustness": all(condition == "none" for condition, _ in kinds),
            "guard": all(guard == "none" for _, guard in kinds),
            "clock": not self.running_arms,
        }
        return [chapter for chapter in CHAPTERS if not empty.get(chapter)]

    def arms_of_chapter(self, chapter: str) -> list[str]:
        """Return the arms that a chapter shows, so that a change elsewhere does not render it again."""
        if chapter == "clock":
            return self.running_arms
        chosen = [name for name, arm in self.arms.items() if _shown(chapter, *self._kinds(arm))]
        if chapter == "robustness":  # faults, and what they are held against
            faulty = [self._engine(self.arms[name]) for name in chosen if self._kinds(self.arms[name])[0] != "none"]
            chosen = [name for name in chosen if self._engine(self.arms[name]) in faulty]
        return chosen if chapter == "claims" else [name for name in chosen if name not in self.running_arms]

    def _kinds(self, arm: Arm) -> tuple[str, str]:
        return self.conditions[arm.condition].kind, self.guards[arm.guard].kind

    def _engine(self, arm: Arm) -> tuple[Any, ...]:
        """What acts in an arm: policy, settings, clock, hand-overs, and limits that do more than measure."""
        limits = self.limits[arm.limits] if arm.limits else None
        acting = limits if limits and limits.act else None
        return arm.policy, arm.flash, arm.settings, arm.execution, arm.clock, arm.handoff, acting

    def replayed(self, arm: str) -> str | None:
        """The table of rounds whose latencies an arm replays, or None."""
        return clocks.replayed(self.all_arms[arm].clock)

    @property
    def task_ids(self) -> list[int]:
        """The chosen task ids, ascending."""
        return _at("tasks", suites.parse_tasks, self.tasks, self.suite)

    @property
    def used_policies(self) -> list[str]:
        """Policies whose artifact an arm or the profile needs, in config order."""
        used = {arm.policy for arm in self.arms.values() if not self.server_of(arm)} | {self.profile.policy}
        return [name for name in self.policies if name in used]

    def grid_cells(self, arms: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the cells of all grids as plain data by arm, of `arms` only where given."""
        chosen = set(self.arms if arms is None else arms)
        return {
            cell.arm: cell.plain() | {"guard_kind": self.guards[cell.guard].kind}
            for name, grid in self.grids.items()
            for cell in grid.cells(name)
            if cell.arm in chosen
        }

    def arm(self, name: str) -> dict[str, Any]:
        """Return all that a shard of this arm depends on (its task apart), as plain JSON-able data."""
        _known("arm", name, self.all_arms)
        arm = self.all_arms[name]
        own_seed = self.checkup.seed if self.checkup and name == CHECKUP else None
        execution = arm.execution.model_dump(exclude_none=True)
        clock = self._clock_of(arm)
        return {
            **self._slice(name, arm),
            "seed": self.seed if own_seed is None else own_seed,
            "condition": self.all_conditions[arm.condition].called(arm.condition),
            "guard": self.guards[arm.guard].called(arm.guard),
            **({"limits": self.limits[arm.limits].called(arm.limits)} if arm.limits else {}),
            **({"handoff": self.handoffs[arm.handoff].called(arm.handoff)} if arm.handoff else {}),
            "clock": clock.model_dump(mode="json") if isinstance(clock, clocks.Running) else clock,
            **({"server": other} if (other := self.server_of(arm)) else {}),
            **({"execution": execution} if execution else {}),
        }

    def plain_arm(self, name: str, policy: str, episodes: int) -> dict[str, Any]:
        """Return, as `arm` does, an arm of nothing but a policy: no condition, no guard, one simulator, no video."""
        own = {"policy": policy, "suite": self.home_of(policy)[0], "settings": refits.tried_as(self, policy)}
        slice_ = self._slice(name, Arm.model_validate({**own, "episodes": episodes, "video": "none"}))
        return slice_ | {"rollout": slice_["rollout"] | {"simulators": 1}}

    def _slice(self, name: str, arm: Arm) -> dict[str, Any]:
        return {
            "arm": name,
            "policy": arm.policy,
            "suite": self._suite_of(arm),
            "seed": self.seed,
            "scene_seed": self.scene_seed,
            "condition": Clean().called("clean"),
            "guard": NoGuard().called("none"),
            "clock": clocks.PAUSED,
            "init_states": arm.init_states,
            "repeats": arm.repeats,
            "flash": self._flash_of(arm).model_dump(mode="json"),
            **({"settings": settings} if (settings := arm.settings.model_dump(exclude_none=True)) else {}),
            "engine": self.engine(arm.policy),
            "video": arm.video,
            "rollout": self.rollout.model_dump(),
        }

    def engine(self, policy: str) -> dict[str, Any]:
        """Return how a policy's server is started: device, dtype, backend, threads."""
        return self.policies[policy].model_dump(include=set(ENGINE))

    def artifact(self, policy: str) -> str | None:
        """The finished artifact that a policy is, or that it goes back to as a refit; None: from a checkpoint."""
        return refits.origin(self.policies, policy).artifact

    def policy(self, name: str) -> dict[str, Any]:
        """Return one policy's own settings as plain data."""
        _known("policy", name, self.policies)
        return {"policy": name, **self.policies[name].model_dump()}


def _shown(chapter: str, condition: str, guard: str) -> bool:
    """Whether an arm of these kinds stands in a chapter."""
    if chapter in ("baseline", "profiling"):
        return condition == guard == "none"
    return chapter != "robustness" or guard == "none"


def _at(where: str, check: Callable[..., T], *given: Any) -> T:
    """Return what a check returns; its error is given the place in the config."""
    try:
        return check(*given)
    except UserError as error:
        raise ValueError(f"{where}: {error}") from None


def _known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{where}: unknown name {name!r}{nearest(name, known)}")


def parse(data: Mapping[str, Any]) -> Experiment:
    """Check a mapping (already merged with its overlays) and return the Experiment.

    Raises UserError with the first problem, its place and, for an unknown key, the nearest valid one.
    """
    try:
        _plain(data, "")
        written = Experiment.model_validate(data)
        if not written.grids and not written.sweeps:
            return written
        lines = [(section, *entry) for section in ("grids", "sweeps") for entry in getattr(written, section).items()]
        data = written_out(data, lines)
        return Experiment.model_validate(data)
    except ValidationError as error:
        problem, said = error.errors()[0], documents.first_problem(error, data)
        if problem["type"] == "missing" and len(problem["loc"]) == 1:
            remedy = "an overlay is given after the full config: config.yaml OVERLAY.yaml"
            said = f"{problem['loc'][0]}: missing; {remedy}"
        raise UserError(f"config: {said}") from None
    except RecursionError:
        raise UserError("config: it is nested too deeply") from None


def _plain(value: Any, place: str) -> None:
    """Raise UserError for what no key can hold: a date, NaN, more than 64 bits, control characters."""
    problem = None
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise UserError(f"config: {place}{key!r} is {documents.kind(key)}, not a key: quote it")
            _plain(key, f"{place}{key} ")
            _plain(part, f"{place}{key}.")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _plain(part, f"{place}{number}.")
    elif isinstance(value, str):
        odd = next((c for c in value if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
        problem = None if odd is None else f"the character {odd!r} is not allowed in a setting"
    elif isinstance(value, int):
        problem = None if -(2**63) <= value < 2**63 else "the number does not fit in 64 bits"
    elif isinstance(value, float):
        problem = None if math.isfinite(value) else f"{value} is not a finite number"
    elif value is not None:
        problem = f"{value!r} is read as a {type(value).__name__}: quote it"
    if problem:
        raise UserError(f"config: {place.rstrip('. ')}: {problem}")


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key, later ones over earlier ones.

    A mapping under ``arms``, ``grids``, ``sweeps`` or ``policies`` that carries ``__only__: true`` replaces the earlier
    one whole, so that an overlay can choose its own arms.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
                only = value.get("__only__")
                value = {k: v for k, v in value.items() if k != "__only__"}
                merged[key] = dict(value) if only else merge(merged[key], value)
            else:
                merged[key] = value
    return merged


def load(*paths: str | Path) -> Experiment:
    """Read YAML files, later ones over earlier ones, and return the checked Experiment."""
    return parse(merge(*map(documents.mapping, paths[:1]), *map(documents.overlay, paths[1:])))


def main() -> None:
    """Print the schema."""
    print(json.dumps(schema(), indent=1))


def schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml, for editors; resources/config.schema.json holds it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Experiment.model_json_schema()


if __name__ == "__main__":  # python -m flashtrail.experiment.config > resources/config.schema.json
    sys.exit(commands.run(main, "config"))
