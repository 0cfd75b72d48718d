"""Policies that are refits: what they go back to, and that they are judged on starts which no correction is from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from flashtrail.base.errors import nearest
from flashtrail.experiment.arms import Arm
from flashtrail.experiment.conditions import Kind
from flashtrail.experiment.sections import Policy, Refit

SUITE = "robosuite_lift"  # whose demonstrations and corrections have one layout
MEMORYLESS = ("none", "zero", "swap", "upside_down", "occlusion", "noise")  # faults that look at one picture alone


class Experiment(Protocol):
    """What is asked of a `config.Experiment`, which knows this module."""

    @property
    def policies(self) -> Mapping[str, Policy]: ...
    @property
    def guards(self) -> Mapping[str, Any]: ...
    @property
    def all_arms(self) -> Mapping[str, Arm]: ...
    @property
    def all_conditions(self) -> Mapping[str, Kind]: ...
    def has_expert(self, name: str, /) -> bool: ...
    def suite_of(self, arm: str, /) -> str: ...
    def tasks_of(self, arm: str, /) -> list[int]: ...


def origin(policies: Mapping[str, Policy], name: str) -> Policy:
    """Return the policy with an artifact or a checkpoint that a refit goes back to; of any other policy itself."""
    policy = policies[name]
    return policy if policy.refit is None else origin(policies, policy.refit.of)


def check(experiment: Experiment) -> None:
    """Raise ValueError for a refit that cannot be made, or an arm of one that was trained on the arm's own starts."""
    made = {name: policy.refit for name, policy in experiment.policies.items() if policy.refit is not None}
    for check_one in (_check_names, _check_one):
        for name, refit in made.items():
            check_one(experiment, name, refit)
    for name, arm in experiment.all_arms.items():
        for source in dict.fromkeys(_arms_behind(experiment, arm.policy, ())):
            if shared := _starts(experiment, name) & _starts(experiment, source):
                task, start = min(shared)
                raise ValueError(
                    f"arms.{name}: {arm.policy} is trained on corrections of {source} from the same start "
                    f"(task {task}, init state {start}): give one of the arms another first_init_state"
                )


def _check_names(experiment: Experiment, name: str, refit: Refit) -> None:
    known: dict[str, Iterable[str]] = {"of": experiment.policies, "corrections": experiment.all_arms}
    for key, one in [("of", refit.of), *(("corrections", arm) for arm in refit.corrections)]:
        if one not in known[key]:
            raise ValueError(f"policies.{name}.refit.{key}: unknown name {one!r}{nearest(one, known[key])}")


def _check_one(experiment: Experiment, name: str, refit: Refit) -> None:
    where = f"policies.{name}.refit"
    list(_arms_behind(experiment, name, ()))
    if origin(experiment.policies, name).artifact is None:
        raise ValueError(f"{where}.of: {refit.of!r} has no artifact: name a policy with one")
    for arm in refit.corrections:
        if not experiment.has_expert(arm):
            raise ValueError(f"{where}.corrections: in {arm} no expert acts: give it a handoff to expert")
        if experiment.suite_of(arm) != SUITE:
            raise ValueError(f"{where}.corrections: {arm} is of {experiment.suite_of(arm)}: name arms of {SUITE}")
        own = experiment.all_arms[arm]
        kind = experiment.all_conditions[own.condition].called("")["kind"]
        if kind not in MEMORYLESS or experiment.guards[own.guard].kind != "none":
            known = ", ".join(MEMORYLESS)
            raise ValueError(f"{where}.corrections: {arm}: needs guard none, and of the conditions {known}")


def _arms_behind(experiment: Experiment, policy: str, behind: tuple[str, ...]) -> Iterator[str]:
    """Yield the arms whose corrections a policy was trained on, itself or what it was made of."""
    refit = experiment.policies[policy].refit
    if policy in behind:
        raise ValueError(f"policies.{behind[0]}.refit: it is made of itself ({' of '.join([*behind, policy])})")
    if refit is not None:
        yield from refit.corrections
        for other in (refit.of, *(experiment.all_arms[arm].policy for arm in refit.corrections)):
            yield from _arms_behind(experiment, other, (*behind, policy))


def _starts(experiment: Experiment, arm: str) -> set[tuple[int, int]]:
    tasks = experiment.tasks_of(arm) if experiment.suite_of(arm) == SUITE else []
    return {(task, start) for task in tasks for start in experiment.all_arms[arm].init_states}
