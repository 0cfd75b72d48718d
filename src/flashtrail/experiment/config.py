"""The experiment, typed once: config.yaml (plus profile overlays) -> a checked Experiment -> plain dicts.

Every key of a section is explained in `sections`; what they mean together is here. An unknown key is an error that
names the nearest valid one. `Experiment.arm(name)` and `Experiment.policy(name)` give the slice that a job needs and
nothing else, so that a change elsewhere reruns nothing of it. Knows no file of results, no simulator and no model.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from flashtrail.base import documents, names
from flashtrail.base.errors import UserError, nearest
from flashtrail.experiment import checkup_arm, drill_arms, grids, sweeps
from flashtrail.experiment.sections import (
    INIT_STATES,
    MAX_SEED,
    Arm,
    Clock,
    Condition,
    Drills,
    Execution,
    Flash,
    Grid,
    Guard,
    Policy,
    Profile,
    Reference,
    Rollout,
    Section,
    Smoke,
    Sweep,
    Video,
)
from flashtrail.rollouts import clock as clocks
from flashtrail.rollouts import faults

__all__ = [
    "INIT_STATES_PER_TASK",
    "PUBLISHED",
    "TASKS_PER_SUITE",
    "Arm",
    "Clock",
    "Condition",
    "Drills",
    "Execution",
    "Experiment",
    "Flash",
    "Grid",
    "Guard",
    "Policy",
    "Profile",
    "Reference",
    "Rollout",
    "Smoke",
    "Suite",
    "Sweep",
    "Video",
    "checkup_arm",
    "load",
    "merge",
    "parse",
    "parse_tasks",
    "schema",
]

Suite = Literal["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"]
TASKS_PER_SUITE: dict[str, int] = {
    "libero_spatial": 10,
    "libero_object": 10,
    "libero_goal": 10,
    "libero_10": 10,
    "libero_90": 90,
}
INIT_STATES_PER_TASK = INIT_STATES
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
        raise ValueError(f"a policy is also a folder of results: call it {plain!r}")
    return name


Name = Annotated[str, AfterValidator(_name)]
FolderName = Annotated[Name, AfterValidator(_folder)]


def _spelled(value: Any) -> Any:
    """Return a single task id, a number in YAML, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Experiment(Section):
    """The whole config.yaml."""

    suite: Suite = "libero_goal"
    tasks: Annotated[str, BeforeValidator(_spelled)] = Field("0-2", description="task ids such as 0,2,5-7")
    seed: int = Field(7, ge=0, le=MAX_SEED)
    scene_seed: Literal["episode", "official"] = "episode"
    policies: dict[FolderName, Policy] = Field(min_length=1)
    flash: Flash = Field(default_factory=Flash)
    conditions: dict[Name, Condition]
    guards: dict[Name, Guard]
    arms: dict[Name, Arm] = Field(default_factory=dict)
    grids: dict[Name, Grid] = Field(default_factory=dict)
    sweeps: dict[Name, Sweep] = Field(default_factory=dict)
    drills: Drills | None = None
    rollout: Rollout = Field(default_factory=Rollout)
    profile: Profile
    smoke: Smoke = Field(default_factory=Smoke)
    checkup: checkup_arm.Checkup | None = None
    claims: str = Field("claims.yaml", description="the claims that the report judges")

    @model_validator(mode="after")
    def _references(self) -> Experiment:
        task_ids = parse_tasks(self.tasks, self.suite)
        if self.smoke.task not in task_ids:
            raise ValueError(f"smoke.task: {self.smoke.task} is not among tasks {self.tasks!r}")
        if not self.arms and not self.grids and not self.sweeps:
            raise ValueError("arms: give at least one arm, grid or sweep")
        _known("profile.policy", self.profile.policy, self.policies)
        for name, grid in self.grids.items():
            _known(f"grids.{name}.policy", grid.policy, self.policies)
            _known(f"grids.{name}.fault", grid.fault, faults.CONDITIONS)
            for guard in grid.guards:
                _known(f"grids.{name}.guards", guard, self.guards)
        for name, sweep in self.sweeps.items():
            _known(f"sweeps.{name}.policy", sweep.policy, self.policies)
        self._check_drills()
        self._check_checkup()
        for name, arm in self.all_arms.items():
            if name.endswith(".html"):
                raise ValueError(f"arms.{name}: a name that ends in .html is a page's: leave the ending out")
            _known(f"arms.{name}.policy", arm.policy, self.policies)
            _known(f"arms.{name}.condition", arm.condition, self.all_conditions)
            _known(f"arms.{name}.guard", arm.guard, self.guards)
            if arm.first_init_state + arm.episodes > INIT_STATES_PER_TASK:
                last = arm.first_init_state + arm.episodes - 1
                limit = INIT_STATES_PER_TASK - 1
                raise ValueError(f"arms.{name}.episodes: init state {last} is out of range 0-{limit}")
            self._clock_of(name)
            if arm.server and arm.flash:
                raise ValueError(f"arms.{name}.flash: the server at {arm.server} has its own settings; leave them out")
            self._check_execution(name, arm)
        return self

    def _check_drills(self) -> None:
        if self.drills is None:
            return
        drills, reference = self.drills, self.drills.reference
        _known("drills.policy", drills.policy, self.policies)
        for name in drills.names:
            _known("drills.names", name, drill_arms.DRILLS)
        if len(set(drills.names)) != len(drills.names):
            raise ValueError("drills.names: give each once")
        for name in [*self.drill_arms, *drill_arms.conditions(drills.model_dump())]:
            if name in self.arms or name in self.conditions:
                raise ValueError(f"drills: {name!r} is the name of another arm or condition: rename that one")
        apart = reference.first_init_state - drills.first_init_state
        if -reference.episodes < apart < drills.episodes:
            raise ValueError("drills.reference: its init states meet the drills': bounds must come from other episodes")

    def _check_execution(self, name: str, arm: Arm) -> None:
        if arm.server and arm.execution.action_stats:
            raise ValueError(f"arms.{name}.execution: the server at {arm.server} has its own statistics")
        most = self._flash_of(name).max_exec_steps
        if not arm.server and (arm.execution.replan_steps or 0) > most:
            raise ValueError(f"arms.{name}.execution.replan_steps: the policy lets {most}: raise flash.max_exec_steps")

    @functools.cached_property
    def drill_arms(self) -> dict[str, Arm]:
        """The arms of the drills by name; no part of reports/final.html."""
        if self.drills is None:
            return {}
        made = drill_arms.arms(self.drills.model_dump())
        return {name: Arm.model_validate(arm) for name, arm in made.items()}

    @functools.cached_property
    def all_arms(self) -> dict[str, Arm]:
        """The arms of the final report, those of the drills, and the checkup's."""
        own = {} if self.checkup is None else {checkup_arm.NAME: Arm.model_validate(self.checkup.arm())}
        return {**self.arms, **self.drill_arms, **own}

    @functools.cached_property
    def all_conditions(self) -> dict[str, dict[str, Any]]:
        """The conditions of the config and those of the drills."""
        if self.drills is None:
            return self.conditions
        own = drill_arms.conditions(self.drills.model_dump())
        return {**self.conditions, **{name: faults.spelled_out(faults.condition(spec)) for name, spec in own.items()}}

    def _check_checkup(self) -> None:
        if self.checkup is None:
            return
        _known("checkup.policy", self.checkup.policy, self.policies)
        for key in self.checkup.flash:
            _known("checkup.flash", key, Flash.model_fields)
        self.checkup.check(TASKS_PER_SUITE[self.suite], INIT_STATES_PER_TASK)
        if checkup_arm.NAME in self.arms:
            raise ValueError(f"arms.{checkup_arm.NAME}: this is the name of the checkup's arm: rename yours")

    def tasks_of(self, arm: str) -> list[int]:
        """The task ids of an arm: the experiment's, or the checkup's one."""
        return [self.checkup.task] if self.checkup and arm == checkup_arm.NAME else self.task_ids

    def _seed_of(self, arm: str) -> int:
        own = self.checkup.seed if self.checkup and arm == checkup_arm.NAME else None
        return self.seed if own is None else own

    def _flash_of(self, arm: str) -> Flash:
        changed = self.all_arms[arm].flash
        for key in changed:
            _known(f"arms.{arm}.flash", key, Flash.model_fields)
        return Flash.model_validate({**self.flash.model_dump(), **changed})

    def _clock_of(self, arm: str) -> clocks.Clock | None:
        """Return an arm's clock with published figures looked up; ValueError where it cannot time all its rounds."""
        where, flash = f"arms.{arm}.clock", self._flash_of(arm)
        try:
            clock = clocks.read(self.all_arms[arm].clock)
            if clock is not None and clock.source.published:
                clock = clocks.resolved(clock, documents.mapping(PUBLISHED, "sources:"))
        except UserError as error:
            raise ValueError(f"{where}: {str(error).removeprefix('clock: ')}") from None
        if clock is None or clock.source.kind in ("measured", "replay"):
            return clock
        if clock.source.draft_ms is None and not (flash.force_full_each_round or self.all_arms[arm].server):
            name = clock.source.published or "constant_ms"
            raise ValueError(f"{where}: {name} has no draft round: add flash: {{force_full_each_round: true}}")
        return clock

    @property
    def running_arms(self) -> list[str]:
        """The arms under a running clock, in config order."""
        return [name for name, arm in self.arms.items() if arm.clock != clocks.PAUSED]

    def replayed(self, arm: str) -> str | None:
        """The table of rounds whose latencies an arm replays, or None."""
        clock = clocks.read(self.all_arms[arm].clock)
        return None if clock is None else clock.source.replay

    @property
    def task_ids(self) -> list[int]:
        """The chosen task ids, ascending."""
        return parse_tasks(self.tasks, self.suite)

    @property
    def used_policies(self) -> list[str]:
        """Policies whose artifact an arm or the profile needs, in config order."""
        used = {arm.policy for arm in self.arms.values() if not arm.server} | {self.profile.policy}
        return [name for name in self.policies if name in used]

    def grid_cells(self, arms: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the cells of all grids as plain data by arm, of `arms` only where given."""
        chosen = set(self.arms if arms is None else arms)
        found = [cell for name, grid in self.grids.items() for cell in grids.cells(name, grid.model_dump())]
        return {
            cell.arm: grids.plain(cell) | {"guard_kind": self.guards[cell.guard]["kind"]}
            for cell in found
            if cell.arm in chosen
        }

    def arm(self, name: str) -> dict[str, Any]:
        """Return all that a shard of this arm depends on (its task apart), as plain JSON-able data."""
        _known("arm", name, self.all_arms)
        arm = self.all_arms[name]
        execution = arm.execution.model_dump(exclude_none=True)
        policy = self.policies[arm.policy]
        return {
            "arm": name,
            "policy": arm.policy,
            "suite": self.suite,
            "seed": self._seed_of(name),
            "scene_seed": self.scene_seed,
            "condition": {"name": arm.condition, **self.all_conditions[arm.condition]},
            "guard": {"name": arm.guard, **self.guards[arm.guard]},
            "clock": clocks.spelled_out(self._clock_of(name)),
            "init_states": list(range(arm.first_init_state, arm.first_init_state + arm.episodes)),
            "repeats": arm.repeats,
            "flash": self._flash_of(name).model_dump(mode="json"),
            "engine": policy.model_dump(include={"device", "dtype", "backend", "threads"}),
            "video": arm.video,
            "rollout": self.rollout.model_dump(),
            **({"server": arm.server} if arm.server else {}),
            **({"execution": execution} if execution else {}),
        }

    def policy(self, name: str) -> dict[str, Any]:
        """Return one policy's own settings as plain data."""
        _known("policy", name, self.policies)
        return {"policy": name, **self.policies[name].model_dump()}


def _known(where: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(f"{where}: unknown name {name!r}{nearest(name, known)}")


def parse_tasks(spec: str, suite: str) -> list[int]:
    """Return the ascending task ids of a spec such as ``0,2,5-7``; ValueError if malformed or out of range."""
    ids: set[int] = set()
    limit = TASKS_PER_SUITE[suite] - 1
    for part in str(spec).split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        if not match:
            raise ValueError(f"tasks: {part.strip()!r} in {spec!r} is neither a task id nor a range such as 5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"tasks: the range {part.strip()!r} runs backwards")
        if last > limit:
            raise ValueError(f"tasks: task {last} is out of range 0-{limit} of {suite}")
        ids.update(range(first, last + 1))
    return sorted(ids)


def parse(data: Mapping[str, Any]) -> Experiment:
    """Check a mapping (already merged with its overlays) and return the Experiment.

    Raises UserError with the first problem, its place and, for an unknown key, the nearest valid one.
    """
    try:
        _plain(data, "")
        written = Experiment.model_validate(data)
        if not written.grids and not written.sweeps:
            return written
        full = grids.written_out(data, {name: grid.model_dump() for name, grid in written.grids.items()})
        full = sweeps.written_out(full, {name: sweep.model_dump() for name, sweep in written.sweeps.items()})
        return Experiment.model_validate(full)
    except ValidationError as error:
        raise UserError(f"config: {_first_problem(error)}") from None
    except RecursionError:
        raise UserError("config: it is nested too deeply") from None


def _plain(value: Any, place: str) -> None:
    """Raise UserError for what is no setting whatever its key: a date, NaN, more than 64 bits, control characters."""
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
        problem = None if odd is None else f"the character {odd!r} is no part of a setting"
    elif isinstance(value, int):
        problem = None if -(2**63) <= value < 2**63 else "the number does not fit in 64 bits"
    elif isinstance(value, float):
        problem = None if math.isfinite(value) else f"{value} is not a number to compute with"
    elif value is not None:
        problem = f"{value!r} is read as a {type(value).__name__}: quote it"
    if problem:
        raise UserError(f"config: {place.rstrip('. ')}: {problem}")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(p) for p in problem["loc"] if p != "[key]")
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        return f"unknown key {place!r}{nearest(key, _keys_at(problem['loc'][:-1]))}"
    message = documents.reason(problem)
    if problem["type"] == "missing" and len(problem["loc"]) == 1:
        message = "missing; an overlay such as this goes after the whole: config.yaml OVERLAY.yaml"
    return f"{place}: {message}" if place else message


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """Return the valid keys of the model at a pydantic error location."""
    model: Any = Experiment
    entries = {"policies": Policy, "arms": Arm, "grids": Grid, "sweeps": Sweep}
    if location:
        single = {"drills": Drills, "flash": Flash, "rollout": Rollout, "profile": Profile, "smoke": Smoke}
        single |= {"checkup": checkup_arm.Checkup}
        model = (entries | single).get(str(location[0]), Experiment)
    return list(model.model_fields)


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
    return parse(merge(*(documents.mapping(path) for path in paths)))


def schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml."""
    return Experiment.model_json_schema()
