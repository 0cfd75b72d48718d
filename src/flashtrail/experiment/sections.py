"""The sections of config.yaml, typed: every key with its unit, default and meaning.

Each section is checked by itself here; what they mean together, and what a name in one of them refers to, is `config`'s
business.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from flashtrail.base import documents
from flashtrail.experiment import embodiments
from flashtrail.experiment.suites import INIT_STATES
from flashtrail.policies.facts import NAMES as FACTS
from flashtrail.policies.facts import PolicyFacts
from flashtrail.policies.fluid.settings import MOST_STEPS
from flashtrail.policies.parts.formats import Precision
from flashtrail.policies.pi0.settings import MOST_SAMPLES, FlashSettings

ENGINE = ("device", "dtype", "backend", "threads")  # of a policy: how its server is started
MOST = 1_000_000  # of what is counted: steps, rounds, samples
DEMONSTRATIONS = "results/lift/demos.hdf5"  # what rule record_lift_demonstrations records


class Section(documents.Section):
    """A part of the config; defaults are checked as values are."""

    model_config = ConfigDict(validate_default=True, allow_inf_nan=False)


_cli = FlashSettings()
PI0_SETTINGS = frozenset(field.name for field in dataclasses.fields(FlashSettings))


class Flash(Section):
    """Settings of speculative inference; names and defaults are those of the official server's flags."""

    tau_radius: float = Field(_cli.tau_radius, ge=0, description="acceptance radius, RMS in normalised action space")
    t_list: tuple[float, ...] = Field(_cli.t_list, min_length=1, description="flow times at which a draft is verified")
    max_exec_steps: int = Field(_cli.max_exec_steps, ge=1, le=50, description="actions verified and executed per round")
    dist_dims: int = Field(
        _cli.dist_dims, ge=1, le=50, description="leading action dims of the radius; 7 means 6, without gripper"
    )
    gripper_switch_threshold: float = Field(
        _cli.gripper_switch_threshold, description="gripper crossing level, normalised space"
    )
    enable_gripper_verify: bool = _cli.enable_gripper_verify
    enable_gripper_post_verify: bool = _cli.enable_gripper_post_verify
    gripper_full_window: int = Field(
        _cli.gripper_full_window, ge=0, le=MOST, description="full rounds forced after a gripper event"
    )
    full_fallback: bool = Field(
        _cli.full_fallback, description="a rejected draft or gripper event makes the next round full"
    )
    force_full_each_round: bool = Field(_cli.force_full_each_round, description="never draft: the full-model arm")
    periodic_full_every_n_draft_rounds: int = Field(
        _cli.periodic_full_every_n_draft_rounds, ge=0, le=MOST, description="0 = off"
    )
    official_time_bias: bool = Field(
        _cli.official_time_bias, description="reproduce the official verifier's clamp at t = 0.05"
    )

    @model_validator(mode="after")
    def _as_the_server_takes_them(self) -> Self:
        FlashSettings(**self.model_dump())
        return self


Robot = Annotated[str, AfterValidator(embodiments.named)]


class FamilySettings(Section):
    """Settings that one family has (beside pi0's `flash`), where an arm differs from the policy's defaults."""

    epsilon: float | None = Field(
        None, ge=0, description="fluid: turbulence below which a field stops; 0 or none: every step is taken"
    )
    min_steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="fluid: steps before a field may stop")
    patience: int | None = Field(None, ge=1, le=MOST_STEPS, description="fluid: calm steps in a row before it stops")
    max_steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="fluid: steps of a layer; none: as trained")
    samples: int | None = Field(
        None, ge=2, le=MOST_SAMPLES, description="pi0: noises that a full round is answered under; none: one"
    )
    doubt: bool | None = Field(None, description="lift_vla: rounds say head_spread and novelty (docs/lift.md)")
    precision: Precision | None = Field(None, description="lift_vla, fluid: number format; none: float32")
    embodiment: Robot | None = Field(None, description="lift_vla: which robot, of a policy of several")
    token: Robot | None = Field(None, description="lift_vla: a control: whose token it has; none: its own")


class Refit(Section):
    """A policy trained further on corrections, half of each batch, and on demonstrations (docs/deployment.md)."""

    of: str = Field(description="the policy that training begins from: an artifact's, or a refit itself")
    corrections: tuple[str, ...] = Field(
        (), description="arms that hand over to the expert, or the expert's own; none: demonstrations alone"
    )
    count: int | None = Field(None, ge=1, le=MOST, description="the first so many corrections of these arms; none: all")
    keep: int | None = Field(None, ge=1, le=MOST, description="of those the last so many steps, a queue; none: all")
    demonstrations: str = Field(DEMONSTRATIONS, description="file of demonstrations; the default is recorded")
    parts: Literal["head", "all"] = Field("head", description="head: decoder and output; all: all but the text")
    steps: int = Field(300, ge=1, le=MOST, description="optimizer steps")
    rate: float = Field(3e-4, gt=0, le=1, description="peak learning rate")
    seed: int = Field(0, ge=0, le=MOST)

    @model_validator(mode="after")
    def _of_corrections(self) -> Self:
        if not self.corrections and (self.count or self.keep):
            raise ValueError("count and keep are of corrections: name their arms, or leave them out")
        return self


class Train(Section):
    """A policy of lift_vla trained here, from demonstrations of each of its robots (docs/deployment.md)."""

    robots: dict[Robot, Annotated[int, Field(ge=1, le=400)]] = Field(
        min_length=1, description="how many demonstrations of each robot are trained on; they are recorded"
    )
    of: str | None = Field(
        None, description="the policy of several robots that training begins from; none: random weights"
    )
    like: Robot | None = Field(
        None, description="with of: new robots begin with this one's token, adapter and head; none: random"
    )
    steps: int = Field(1000, ge=1, le=MOST, description="for each robot: N robots take N times as many steps in all")
    rate: float = Field(1e-3, gt=0, le=1, description="peak learning rate")
    seed: int = Field(0, ge=0, le=MOST)

    @model_validator(mode="after")
    def _like_one_of_its_parents(self) -> Self:
        if self.like and not self.of:
            raise ValueError("like is a robot of the policy that training begins from: give of, or leave it out")
        return self


class Policy(PolicyFacts, Section):
    """Where a policy comes from, what its checkpoint does not hold (policies/facts.py), and how it is run.

    From a checkpoint of pi0 (`candidates`, `tokenizer`), from a finished artifact of any family (`artifact`), from
    another policy (`refit`) or from demonstrations (`train`); or the simulator's `expert` in the place of one.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["candidates", "tokenizer"]},
                {"required": ["artifact"]},
                {"required": ["refit"]},
                {"required": ["train"]},
                {"required": ["expert"]},
            ]
        }
    )

    candidates: list[str] = Field([], description="checkpoint locations to probe: gs://, hf:// or a path")
    draft: str | None = Field(None, description="draft head .pt: hf://repo/file, gs:// or a path; none = full only")
    tokenizer: str | None = Field(None, description="SentencePiece model: gs:// or a path; with candidates")
    artifact: str | None = Field(
        None, min_length=1, description="directory of a finished artifact, in place of candidates"
    )
    refit: Refit | None = Field(None, description="another policy, trained further")
    train: Train | None = Field(None, description="a policy of one or several robots, trained from demonstrations")
    expert: bool = Field(
        False, description="the suite's own expert, which knows the true state: no server, an upper bound, no policy"
    )
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    backend: Literal["auto", "torch", "triton"] = Field("auto", description="what computes; auto: see docs/flash.md")
    threads: int = Field(1, ge=1, le=1024, description="torch threads of one server (CPU)")
    published: str | None = Field(None, description="source/method of resources/published, for the checkup")

    @model_validator(mode="after")
    def _from_one_source(self) -> Self:
        sources = [name for name in ("artifact", "refit", "train", "expert") if getattr(self, name)]
        if not sources and not (self.candidates and self.tokenizer):
            raise ValueError("give candidates and tokenizer (a checkpoint of pi0), artifact, refit or train")
        own = [name for name in ("candidates", "draft", "tokenizer", *FACTS) if getattr(self, name) not in (None, [])]
        if self.expert and (len(sources) > 1 or own):
            raise ValueError(f"expert and {', '.join(own) or sources[0]} exclude each other: an expert has no weights")
        made = [name for name in sources if name in ("refit", "train")]
        if made and (others := own or [name for name in sources if name != made[0]]):
            raise ValueError(f"{made[0]} and {', '.join(others)} exclude each other: a policy has one source")
        if self.artifact is not None and own:
            raise ValueError(f"artifact and {', '.join(own)} exclude each other: an artifact holds them already")
        return self


class Execution(Section):
    """What becomes of the actions, where an arm differs from the others in it (docs/rollouts.md, Drills)."""

    replan_steps: int | None = Field(None, ge=1, le=50, description="actions executed a round; none: rollout's")
    horizon: int | None = Field(None, ge=1, le=MOST, description="control steps of an episode; none: the suite's")
    window_lag: int | None = Field(None, ge=1, le=50, description="steps by which each action comes late; none: 0")
    answer: Literal["first"] | None = Field(
        None, description="first: each round executes the mean of the first round's actions; none: its own answer"
    )
    action_stats: str | None = Field(None, description="file by whose statistics actions are unnormalised")


class Profile(Section):
    """Latency profiling, alone on the device."""

    policy: str
    episodes: int = Field(3, ge=1, le=INIT_STATES, description="episodes per task whose observations are replayed")
    samples: int = Field(40, ge=2, le=MOST, description="timed rounds per task and route")
    warmup: int = Field(5, ge=1, le=MOST, description="untimed rounds per task and route")


class Scaling(Section):
    """Memory and time by the number of tokens, alone on the device: a field beside attention (benchmark/scaling.py)."""

    pixels: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (64, 96, 256), min_length=1, description="sides of a picture, multiples of the patch"
    )
    frames: tuple[Annotated[int, Field(ge=3, le=1024)], ...] = Field(
        (4, 16), min_length=1, description="pictures of one pass; each with each of `pixels`"
    )
    patch: int = Field(8, ge=1, le=256, description="side of a patch, a token")
    repeats: int = Field(5, ge=5, le=MOST, description="passes that count, after a warm-up")
    device: Literal["cpu", "cuda"] = "cpu"

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        for side in self.pixels:
            if side % self.patch or side < 5 * self.patch:  # a dilation of 2 lies below half the grid
                raise ValueError(f"pixels: {side} is not five or more whole patches of {self.patch}")
        if len({tokens for _, _, tokens in self.sizes}) < 2:
            raise ValueError("pixels and frames give one number of tokens: a slope needs two")
        return self

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """Pixels, frames and tokens of each size, the fewest tokens first."""
        pairs = {(side, count) for side in self.pixels for count in self.frames}
        return sorted(((p, f, (p // self.patch) ** 2 * f) for p, f in pairs), key=lambda one: (one[2], one[0]))


class Measured(Section):
    """Figures that no episode has (docs/evidence.md, Measurements); each is a file."""

    given: list[str] = Field([], description="measurements that are finished, such as a training's: files")
    scaling: Scaling | None = Field(None, description="memory and time by the number of tokens, alone on the device")
    substrate: tuple[Literal["digits", "moving", "volumes", "pick2d"], ...] = Field(
        (), description="the core of fluid apart from any robot (benchmark/substrate/)"
    )
    sensitivity: list[str] = Field([], description="policies: how far their answers follow what they see")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(self.files) < len(self.given) + len(self.own):
            raise ValueError("given: two measurements have one name: a claim could not tell them apart")
        return self

    @property
    def own(self) -> list[str]:
        """The names of what is measured here."""
        scaling = ["scaling"] if self.scaling is not None else []
        return [*scaling, *self.substrate, *(f"sensitivity_{policy}" for policy in self.sensitivity)]

    @property
    def files(self) -> dict[str, str]:
        """Every measurement's file by its name."""
        given = {PurePosixPath(file).stem: file for file in self.given}
        return given | {name: f"results/measured/{name}.json" for name in self.own}


class Smoke(Section):
    """Two episodes before anything long."""

    episodes: int = Field(2, ge=1, le=INIT_STATES)
    task: int = Field(0, ge=0)
