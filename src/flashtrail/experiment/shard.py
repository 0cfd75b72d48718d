"""A shard's spec: how episodes are run, and everything else that defines one arm and task.

Checked where it is made, and trusted everywhere else. What an episode depends on is said here alone: `config_digest`
of an arm, `ShardSpec.digest` of an arm and task. Episodes are found again by these and their key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator

from flashtrail.base import documents, provenance
from flashtrail.experiment import suites
from flashtrail.experiment.clocks import MEASURED, PAUSED, Clock
from flashtrail.experiment.conditions import Condition
from flashtrail.experiment.guards import Guard
from flashtrail.experiment.handoff import Handoff
from flashtrail.experiment.limits import Limits

MAX_SEED = 2**63 - 1  # the tables hold 64 bits
SceneSeed = Literal["episode", "official"]
EXPERT = "expert"  # in the place of a server's address: the simulator's own expert answers
# examples: failures and one success per task, within 1.4 MB an arm and task.
Video = Literal["none", "failures", "examples", "all"]
# What an episode does not depend on: how many run side by side, which others there are, what is filmed.
_BESIDE_THE_POINT = {
    *("init_states", "repeats", "simulators", "video"),
    *("server_ready_timeout_s", "episode_timeout_s", "stall_timeout_s"),
}


def config_digest(arm: Mapping[str, Any]) -> str:
    """Return the digest of what the episodes of an arm (as `config.Experiment.arm` gives it) depend on in the config.

    Tables hold it as ``config_digest``. Earlier ones hold the digest of the whole arm there: an audit compares either
    with what the merge's own record had planned.
    """
    own = {key: value for key, value in arm.items() if key not in _BESIDE_THE_POINT}
    rollout = {key: value for key, value in arm["rollout"].items() if key not in _BESIDE_THE_POINT}
    return provenance.digest_json({**own, "rollout": rollout})


class Rollout(documents.Section):
    """How episodes are run; the defaults are those of the official LIBERO client."""

    model_config = ConfigDict(validate_default=True, allow_inf_nan=False)

    replan_steps: int = Field(12, ge=1, le=50, description="actions executed a round")
    hard_reset: bool = Field(True, description="rebuild the simulator's model at every reset, as LIBERO does")
    simulators: int = Field(1, ge=1, le=1024, description="simulator processes per shard, against one server")
    server_ready_timeout_s: float = Field(180, gt=0, le=604_800, description="a server may take so long to start")


class Server(documents.Section):
    """The policy server: `command`, with ``{port}`` in it, of one to start, or the `url` of one that runs.

    EXPERT is an address at which nothing runs. `settings`: the command without the places of files on this machine,
    where their content has a digest elsewhere. `log`: where the one that is started writes. `lock`: the file on which
    shards settle whose turn it is with a server that has one state for all.
    """

    command: list[str] | None = None
    settings: list[str] | None = None
    url: str | None = None
    log: str | None = None
    lock: str | None = None

    @property
    def external(self) -> bool:
        """Whether it is not ours: what answers there may be another thing by now."""
        return self.url not in (None, EXPERT)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either a command (with {port} in it) or the url of one that runs")
        if self.command and not any("{port}" in word for word in self.command):
            raise ValueError("the command has no {port} in it: the server needs to be given its port")
        return self


class ShardSpec(Rollout):
    """The episodes of one arm and task, and everything that they depend on."""

    arm: str
    policy: str
    suite: str
    task_id: int
    init_states: list[int]
    repeats: int = Field(1, ge=1)
    seed: int = Field(ge=0, le=MAX_SEED)
    scene_seed: SceneSeed = "episode"
    condition: Condition = Field({"kind": "none"}, validate_default=True)
    guard: Guard = Field({"kind": "none"}, validate_default=True)
    limits: Limits | None = None
    handoff: Handoff | None = None
    clock: Clock = PAUSED
    server: Server
    video: Video = "none"
    horizon: int | None = Field(None, ge=1, description="control steps of an episode; none: the suite's")
    window_lag: int = Field(0, ge=0, le=50, description="steps by which each action comes late (a drill)")
    answer: Literal["first"] | None = Field(None, description="first: a policy that answers once and for all (a drill)")
    episode_timeout_s: float = Field(1800, gt=0)
    stall_timeout_s: float = Field(120, gt=0)
    metadata: dict[str, Any] = Field(default_factory=dict, description="of every table, as it is")

    @model_validator(mode="after")
    def _episodes(self) -> Self:
        suites.check_task(self.suite, self.task_id)
        count = suites.suite_of(self.suite).init_states
        for init_state in self.init_states:
            suites.check_init_state(init_state, f" of {self.suite} task {self.task_id}", count)
        if len(set(self.init_states)) != len(self.init_states) or not self.init_states:
            raise ValueError("init_states: give at least one, each once")
        return self

    @property
    def digest(self) -> str:
        """Digest of all that an episode's rows depend on: finished episodes are reused only under the same one.

        The device is recorded and no part of it, unless its pace decides what the robot does (a measured clock).
        """
        parts = self.model_dump(exclude=_BESIDE_THE_POINT)
        # The suite's own, none: a spec that says nothing of it keeps its digest.
        for name in ("horizon", "window_lag", "answer", "limits", "handoff"):
            if not parts[name]:
                del parts[name]
        server = parts["server"]
        parts["server"] = {"command": server["settings"] or server["command"], "url": server["url"]}
        if self.clock == PAUSED or self.clock.source != MEASURED:
            parts["metadata"].pop("device", None)
        return provenance.digest_json(parts)


_SPEC = TypeAdapter(ShardSpec)


def read(spec: Mapping[str, Any] | ShardSpec) -> ShardSpec:
    """Return a spec, or plain data as one; UserError for the first thing wrong in it."""
    return documents.typed(_SPEC, spec, "shard")
