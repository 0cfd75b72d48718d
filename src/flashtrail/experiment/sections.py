"""The sections of config.yaml, typed: every key with its unit, default and meaning.

Each section is checked by itself here; what they mean together, and what a name in one of them refers to, is `config`'s
business. Knows no file, no result, no simulator and no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.experiment import drill_arms
from flashtrail.policies.facts import PolicyFacts
from flashtrail.rollouts import clock as clocks
from flashtrail.rollouts import faults

INIT_STATES = 50  # that LIBERO has for each task
REPEATS = 1000
MOST = 1_000_000  # of what is counted: steps, rounds, samples
MAX_SEED = 2**63 - 1  # the tables hold 64 bits

# examples: failures and one success per task, within 1.4 MB an arm and task.
Video = Literal["none", "failures", "examples", "all"]


class Section(documents.Section):
    """A part of the config; defaults are checked as values are."""

    model_config = ConfigDict(validate_default=True, allow_inf_nan=False)


class Flash(Section):
    """Settings of speculative inference; names and defaults are those of the official server's flags."""

    tau_radius: float = Field(0.3, ge=0, description="acceptance radius, RMS in normalised action space")
    t_list: tuple[float, ...] = Field((0.10, 0.05), min_length=1, description="flow times at which a draft is verified")
    max_exec_steps: int = Field(12, ge=1, le=50, description="actions verified and executed per round")
    dist_dims: int = Field(7, ge=1, le=50, description="leading action dims of the radius; 7 means 6, without gripper")
    gripper_switch_threshold: float = Field(0.0, description="gripper crossing level, normalised space")
    enable_gripper_verify: bool = True
    enable_gripper_post_verify: bool = True
    gripper_full_window: int = Field(1, ge=0, le=MOST, description="full rounds forced after a gripper event")
    full_fallback: bool = Field(True, description="a rejected draft or gripper event makes the next round full")
    force_full_each_round: bool = Field(False, description="never draft: the full-model arm")
    periodic_full_every_n_draft_rounds: int = Field(0, ge=0, le=MOST, description="0 = off")
    official_time_bias: bool = Field(False, description="reproduce the official verifier's clamp at t = 0.05")


class Policy(PolicyFacts, Section):
    """Where a policy comes from, what its checkpoint does not hold (policy_facts.py), and how it is run."""

    candidates: list[str] = Field(min_length=1, description="checkpoint locations to probe: gs://, hf:// or a path")
    draft: str | None = Field(None, description="draft head .pt: hf://repo/file, gs:// or a path; none = full only")
    tokenizer: str = Field(description="SentencePiece model: gs:// or a path")
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    backend: Literal["auto", "torch", "triton"] = Field("auto", description="what computes; auto: see docs/flash.md")
    threads: int = Field(1, ge=1, le=1024, description="torch threads of one server (CPU)")
    published: str | None = Field(None, description="source/method of resources/published, for the checkup")


def _checked(read: Callable[[Any], Any], spell: Callable[[Any], Any] = faults.spelled_out) -> Callable[[Any], Any]:
    """Return a validator that fills in the defaults of a fault's, a guard's or a clock's own kind."""

    def check(spec: Any) -> Any:
        try:
            return spell(read(spec))
        except UserError as error:
            raise ValueError(str(error).removeprefix("clock: ")) from None

    return check


# What is done to the observation before the policy sees it, and the remedy at the client between the two. Kinds and
# parameters: rollouts/faults.py.
Condition = Annotated[
    dict[str, Any], BeforeValidator(_checked(faults.condition)), WithJsonSchema(faults.schema(faults.CONDITIONS))
]
Guard = Annotated[dict[str, Any], BeforeValidator(_checked(faults.guard)), WithJsonSchema(faults.schema(faults.GUARDS))]
# Whether the simulator waits for the policy (paused) or goes on while a round is under way. Keys: rollouts/clock.py.
Clock = Annotated[
    Any, BeforeValidator(_checked(clocks.read, clocks.spelled_out)), WithJsonSchema(clocks.schema()), Field("paused")
]


class Execution(Section):
    """What becomes of the actions, where an arm differs from the others in it (docs/rollouts.md, Drills)."""

    replan_steps: int | None = Field(None, ge=1, le=50, description="actions executed a round; none: rollout's")
    horizon: int | None = Field(None, ge=1, le=MOST, description="control steps of an episode; none: the suite's")
    action_stats: str | None = Field(None, description="file by whose statistics actions are unnormalised")


class Arm(Section):
    """One named row of the experiment: policy x engine settings x condition x guard x clock."""

    policy: str
    condition: str = "clean"
    guard: str = "none"
    clock: Clock
    episodes: int = Field(10, ge=1, description="episodes per task: init states first_init_state, +1, ...")
    first_init_state: int = Field(0, ge=0)
    repeats: int = Field(1, ge=1, le=REPEATS, description="repeats of each init state, each with its own seed")
    flash: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the top-level flash:")
    server: str | None = Field(
        None,
        pattern=r"^wss?://[^\s/]+$",
        description="ws://host:port of a server that runs; the shard then starts none",
    )
    execution: Execution = Field(default_factory=Execution)
    video: Video = "examples"


class Grid(Section):
    """Arms from one line: a fault at several severities, each under several guards (grids.py writes them out)."""

    policy: str
    fault: str = Field(description="kind of the condition, such as zero or noise")
    view: Literal["wrist", "agent", "both"] | None = Field(None, description="for a fault that has a view")
    severity: dict[str, list[int | float]] = Field(description="one parameter of the fault with its values")
    guards: list[str] = Field(["none"], min_length=1, description="names of guards")
    parameters: dict[str, Any] = Field(default_factory=dict, description="further parameters of the fault")
    episodes: int = Field(5, ge=1, description="episodes per task of each arm")
    first_init_state: int = Field(0, ge=0)
    repeats: int = Field(1, ge=1, le=REPEATS)
    flash: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the top-level flash:")
    video: Video = "examples"


class Sweep(Section):
    """Arms from one line: the running clock at several latencies and control frequencies (sweeps.py)."""

    policy: str
    constant_ms: list[Annotated[int | float, Field(ge=0)]] = Field(description="latencies of a round, ms")
    hz: list[Annotated[int | float, Field(gt=0)]] = Field([20], description="control steps a second")
    while_waiting: Literal["chunk", "hold", "repeat"] = "chunk"
    ask_ahead: int | Literal["auto"] = 0
    condition: str = "clean"
    guard: str = "none"
    episodes: int = Field(5, ge=1, description="episodes per task of each arm")
    first_init_state: int = Field(0, ge=0)
    repeats: int = Field(1, ge=1, le=REPEATS)
    flash: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the top-level flash:")
    video: Video = "examples"


class Reference(Section):
    """The clean episodes from which the drills' bounds are derived; none of the drills' own."""

    first_init_state: int = Field(10, ge=0)
    episodes: int = Field(5, ge=1, description="episodes per task")


class Drills(Section):
    """The drills: clean and faulty runs of one policy (drill_arms.py writes the arms out)."""

    policy: str
    names: list[str] = Field(list(drill_arms.DRILLS), min_length=1, description="which drills")
    episodes: int = Field(5, ge=1, description="episodes per task of each drill and of the clean run")
    first_init_state: int = Field(0, ge=0)
    reference: Reference = Field(default_factory=Reference)
    flash: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the top-level flash:")
    video: Video = "examples"


class Rollout(Section):
    """How episodes are run; the defaults are those of the official LIBERO client."""

    replan_steps: int = Field(12, ge=1, le=50)
    hard_reset: bool = Field(True, description="rebuild the simulator's model at every reset, as LIBERO does")
    simulators: int = Field(1, ge=1, le=1024, description="simulator processes per shard, against one server")
    server_ready_timeout_s: float = Field(180, gt=0, le=604_800)


class Profile(Section):
    """Latency profiling, alone on the device."""

    policy: str
    episodes: int = Field(3, ge=1, le=INIT_STATES, description="episodes per task whose observations are replayed")
    samples: int = Field(40, ge=2, le=MOST, description="timed rounds per task and route")
    warmup: int = Field(5, ge=1, le=MOST, description="untimed rounds per task and route")


class Smoke(Section):
    """Two episodes before anything long."""

    episodes: int = Field(2, ge=1, le=INIT_STATES)
    task: int = Field(0, ge=0)
