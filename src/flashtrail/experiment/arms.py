"""Arms, and what a line of the config expands into arms: a grid, a sweep, the drills, the checkup.

Names of expanded arms are made of their line's name and their values, so that they stay what they are when a value is
added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, field_serializer, field_validator, model_validator

from flashtrail.base.errors import UserError, nearest
from flashtrail.experiment.clocks import PAUSED, Clock, Waiting
from flashtrail.experiment.conditions import View
from flashtrail.experiment.sections import Execution, FamilySettings, Flash, Section
from flashtrail.experiment.shard import MAX_SEED, Video
from flashtrail.experiment.suites import SuiteName, TaskSpec

Plain = dict[str, dict[str, Any]]
CHECKUP = "checkup"
DRILL_PREFIX = "drill_"
DRILL_REFERENCE, DRILL_CLEAN = f"{DRILL_PREFIX}reference", f"{DRILL_PREFIX}clean"
CHUNK = 50  # actions of a round, of which a clean run executes 12


def _once(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values) or not values:
        raise ValueError("give at least one, each once")
    return values


Once = AfterValidator(_once)
Repeats = Annotated[int, Field(ge=1, le=1000)]


class Starts(Section):
    """Initial states of a task, one after another."""

    first_init_state: int = Field(0, ge=0)
    episodes: int = Field(5, ge=1, description="episodes per task: init states first_init_state, +1, ...")

    @property
    def end(self) -> int:
        """The first init state after theirs."""
        return self.first_init_state + self.episodes

    @property
    def init_states(self) -> list[int]:
        """Their numbers."""
        return list(range(self.first_init_state, self.end))


class Line(Starts):
    """What every arm says, and every line that expands into arms."""

    policy: str
    suite: SuiteName | None = Field(None, description="none: the experiment's")
    tasks: TaskSpec | None = Field(None, description="task ids of its suite; none: the experiment's")
    flash: Flash = Field(default_factory=Flash, description="settings that differ from the top-level flash:")
    settings: FamilySettings = Field(default_factory=FamilySettings, description="settings of the policy's own family")
    video: Video = "examples"

    @field_serializer("flash")
    def _own(self, flash: Flash) -> dict[str, Any]:
        return flash.model_dump(mode="json", exclude_unset=True)

    @field_serializer("settings")
    def _given(self, settings: FamilySettings) -> dict[str, Any]:
        return settings.model_dump(exclude_none=True)

    def arm(self, **more: Any) -> dict[str, Any]:
        """Return an arm of these policy, episodes and settings as plain data; `more` are its other keys."""
        return self.model_dump(include=set(Arm.model_fields)) | more


class Arm(Line):
    """One named row of the experiment: policy x engine settings x condition x guard x limits x hand-overs x clock."""

    episodes: int = Field(10, ge=1, description="episodes per task: init states first_init_state, +1, ...")
    condition: str = "clean"
    guard: str = "none"
    limits: str | None = Field(None, description="name of limits at the client; none: nothing is limited or measured")
    handoff: str | None = Field(None, description="name of hand-overs; none: the policy acts alone")
    clock: Clock = PAUSED
    repeats: Repeats = Field(1, description="repeats of each init state, each with its own seed")
    server: str | None = Field(
        None,
        pattern=r"^wss?://[^\s/]+$",
        description="ws://host:port of a server that runs; the shard then starts none",
    )
    execution: Execution = Field(default_factory=Execution)


class Expanded(NamedTuple):
    """The conditions and arms of a line by name, as entries of the config."""

    conditions: Plain
    arms: Plain


@dataclass(frozen=True)
class Cell:
    """One arm of a grid; `severity` is the parameter's value, `view` None where the fault has no view."""

    grid: str
    fault: str
    view: str | None
    parameter: str
    severity: float
    guard: str

    @property
    def condition(self) -> str:
        """Name of the cell's condition: ``wrist_grid_every4``, ``noise_sigma2p5``."""
        return f"{self.grid}_{self.parameter}{str(self.severity).replace('.', 'p')}"

    @property
    def arm(self) -> str:
        """Name of the cell's arm: ``wrist_grid_every4_wrist_health``."""
        return f"{self.condition}_{self.guard}"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON-able data, for the figure."""
        return asdict(self)


class Grid(Line):
    """Arms from one line: a fault at several severities, each under several guards."""

    fault: str = Field(description="kind of the condition, such as zero or noise")
    view: View | None = Field(None, description="for a fault that has a view")
    severity: dict[str, Annotated[list[int | float], Once]] = Field(
        description="one parameter of the fault with its values"
    )
    guards: Annotated[list[str], Once] = Field(["none"], description="names of guards")
    parameters: dict[str, Any] = Field(default_factory=dict, description="further parameters of the fault")
    repeats: Repeats = 1

    @field_validator("severity")
    @classmethod
    def _one(cls, severity: dict[str, Any]) -> dict[str, Any]:
        if len(severity) != 1:
            raise ValueError("give one parameter with its values, such as {every: [2, 4]}")
        return severity

    def cells(self, name: str) -> list[Cell]:
        """Return the grid's cells, severity by severity."""
        ((parameter, values),) = self.severity.items()
        return [Cell(name, self.fault, self.view, parameter, value, guard) for value in values for guard in self.guards]

    def expanded(self, name: str) -> Expanded:
        """Return the cells' conditions and arms."""
        fault = {"kind": self.fault, **({} if self.view is None else {"view": self.view}), **self.parameters}
        cells = self.cells(name)
        return Expanded(
            {cell.condition: {**fault, cell.parameter: cell.severity} for cell in cells},
            {cell.arm: self.arm(condition=cell.condition, guard=cell.guard) for cell in cells},
        )


class Sweep(Line):
    """Arms from one line: the running clock at several latencies and control frequencies."""

    constant_ms: Annotated[list[Annotated[int | float, Field(ge=0)]], Once] = Field(
        description="latencies of a round, ms"
    )
    hz: Annotated[list[Annotated[int | float, Field(gt=0)]], Once] = Field([20], description="control steps a second")
    while_waiting: Waiting = "chunk"
    ask_ahead: int | Literal["auto"] = 0
    condition: str = "clean"
    guard: str = "none"
    repeats: Repeats = 1

    def expanded(self, name: str) -> Expanded:
        """Return the arms (``latency_58ms_100hz``), latency by latency."""
        waiting = {"kind": "running", "while_waiting": self.while_waiting, "ask_ahead": self.ask_ahead}
        arms = {
            f"{name}_{_spelled(ms)}ms_{_spelled(hz)}hz": self.arm(
                clock={**waiting, "hz": hz, "source": {"constant_ms": ms}}
            )
            for ms in self.constant_ms
            for hz in self.hz
        }
        return Expanded({}, arms)


def _spelled(value: float) -> str:
    return f"{value:g}".replace(".", "p").replace("+", "")


@dataclass(frozen=True)
class Drill:
    """A silent failure on demand: where it acts, what is wrong, and the settings that differ from the clean arm's."""

    stage: str  # picture | state | prompt | actions | loop
    mistake: str
    condition: dict[str, Any] | None = None
    flash: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)


# One toggle each. Why these:
# - bad_unnorm: an option of the server, whose last but one output transform uses other statistics; engine,
#   verification and session stay in normalised space, so drafts work too. The statistics are constructed
#   (resources/drills). LIBERO's controller cuts actions at +-1; the tables hold what the policy sent.
# - state_antipode: the official client's axis-angle does not normalise the quaternion's sign, so q and -q, the same
#   attitude, are 2 pi apart; here it jumps in every episode. The related mistake, a client that wants w >= 0
#   (robosuite's own mat2quat, or a rotation vector of at most pi), is {kind: antipode, canonical: true}. It jumps only
#   where the gripper points straight down and w crosses zero, which an episode may never meet: in replayed clean
#   episodes w was negative at 0 and 1 % of the steps of task 0, 6 and 20 % of task 2 (two episodes each).
# - short_horizon cuts the episode, not the chunk (a replan_steps of 1 would cost time, not success). 60 is the limit
#   of SimplerEnv's Bridge tasks, at 5 Hz; LIBERO's clients allow 300 here. pi0_nano's quickest success on tasks 0-2
#   took 70: none of its episodes can succeed.
DRILLS: dict[str, Drill] = {
    "no_flip": Drill("picture", "both views as the simulator renders them, upside down", {"kind": "upside_down"}),
    "bad_prompt": Drill(
        "prompt",
        "the instruction in OpenVLA's template",
        {"kind": "prompt", "template": "In: What action should the robot take to {instruction}?\nOut:"},
    ),
    "bad_unnorm": Drill(
        "actions",
        "actions unnormalised by another robot's statistics, larger in translation",
        execution={"action_stats": "resources/drills/bridge_like.json"},
    ),
    "state_antipode": Drill(
        "state",
        "the quaternion's sign flips at every other query, so the axis-angle jumps by 2 pi",
        {"kind": "antipode", "every": 2},
    ),
    "swapped_cameras": Drill("picture", "each camera's picture in the other one's place", {"kind": "swap"}),
    "stale_frame": Drill(
        "picture", "both views are those of the query before", {"kind": "stale", "queries": 1, "view": "both"}
    ),
    "long_chunk": Drill(
        "loop",
        "all 50 actions of a round executed before the next query",
        flash={"max_exec_steps": CHUNK},
        execution={"replan_steps": CHUNK},
    ),
    "short_horizon": Drill(
        "loop", "episodes cut at another benchmark's limit of 60 control steps", execution={"horizon": 60}
    ),
    "late_window": Drill(
        "loop",
        "each action is that for nine steps ago: of a window of ten frames the oldest one's output is executed",
        execution={"window_lag": 9},
    ),
    "frozen_policy": Drill(
        "loop",
        "every round executes one action, the mean of those of the episode's first round",
        execution={"answer": "first"},
    ),
}


def _drills(names: list[str]) -> list[str]:
    for name in names:
        if name not in DRILLS:
            raise ValueError(f"unknown name {name!r}{nearest(name, DRILLS)}")
    return names


class Reference(Starts):
    """The clean episodes from which the drills' bounds are derived; none of them is one of the drills'."""

    first_init_state: int = Field(10, ge=0)


class Drills(Line):
    """The drills: clean and faulty runs of one policy, on the same episodes, and the clean reference."""

    names: Annotated[list[str], AfterValidator(_drills), Once] = Field(list(DRILLS), description="which drills")
    reference: Reference = Field(default_factory=Reference)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if max(self.first_init_state, self.reference.first_init_state) < min(self.end, self.reference.end):
            raise ValueError("the reference and the drills share init states: bounds must come from other episodes")
        return self

    def expanded(self) -> Expanded:
        """Return the conditions, each called as its arm, and the arms: the reference, the clean run, each drill."""
        conditions, arms = {}, {DRILL_REFERENCE: self.arm(**self.reference.model_dump()), DRILL_CLEAN: self.arm()}
        for name in self.names:
            drill, arm = DRILLS[name], DRILL_PREFIX + name
            arms[arm] = self.arm(execution=drill.execution)
            arms[arm]["flash"] |= drill.flash
            if drill.condition is not None:
                conditions[arm] = drill.condition
                arms[arm]["condition"] = arm
        return Expanded(conditions, arms)


class Checkup(Line):
    """One task at all its init states against the policy's published success (`make checkup`)."""

    episodes: int = Field(50, ge=1, description="init states first_init_state, +1, ...")
    task: int = Field(0, ge=0)
    repeats: Repeats = Field(1, description="of each init state: for more episodes than a task has init states")
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="none: the experiment's; one other than the published evaluation's repeats none of its episodes",
    )
    published: str | None = Field(None, description="source/method to compare with; none: the policy's own")

    @field_validator("tasks")
    @classmethod
    def _one_task(cls, tasks: str | None) -> str | None:
        if tasks is not None:
            raise ValueError("a checkup is of one task: give task instead")
        return tasks


def written_out(data: Mapping[str, Any], lines: Iterable[tuple[str, str, Grid | Sweep]]) -> dict[str, Any]:
    """Return the config with the conditions and arms of its lines added; UserError for a name that is taken.

    `lines`: each line's section of the config, its name and itself.
    """
    full = {**data, "conditions": dict(data.get("conditions", {})), "arms": dict(data.get("arms", {}))}
    for section, name, line in lines:
        for what, made in zip(("condition", "arm"), line.expanded(name), strict=True):
            for own, entry in made.items():
                if own in full[f"{what}s"]:
                    raise UserError(
                        f"config: {section}.{name}: its {what} {own!r} has the same name as another {what}: rename one"
                    )
                full[f"{what}s"][own] = entry
    return full
