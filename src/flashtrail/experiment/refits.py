"""Policies made here, refits and those of several robots: what they go back to, which robots they know.

And that a refit is judged on starts which no correction is from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from flashtrail.base.errors import nearest
from flashtrail.experiment.arms import Arm
from flashtrail.experiment.conditions import Kind
from flashtrail.experiment.embodiments import EMBODIMENTS, SUITE  # whose demonstrations and corrections have one layout
from flashtrail.experiment.sections import Measured, Policy, Profile, Refit, Train

MEMORYLESS = ("none", "zero", "swap", "upside_down", "occlusion", "noise")  # faults that look at one picture alone


class Experiment(Protocol):
    """What is asked of a `config.Experiment`, which knows this module."""

    @property
    def policies(self) -> Mapping[str, Policy]: ...
    @property
    def measured(self) -> Measured: ...
    @property
    def profile(self) -> Profile: ...
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
    """Return the policy that a refit goes back to, which has an artifact or is trained here; of any other itself."""
    policy = policies[name]
    return policy if policy.refit is None else origin(policies, policy.refit.of)


def robots_of(policies: Mapping[str, Policy], name: str) -> list[str] | None:
    """Return the robots that a policy trained here knows, first those that it began with; None: an artifact knows."""
    train = policies[name].train
    if train is None:
        return None
    before = [] if train.of is None else robots_of(policies, train.of)
    return None if before is None else list(dict.fromkeys([*before, *train.robots]))


def tried_as(experiment: Experiment, policy: str) -> dict[str, str]:
    """Return the settings with which a policy of several robots is tried and timed: as its first arm's robot."""
    named = [arm.settings.embodiment for arm in experiment.all_arms.values() if arm.policy == policy]
    return {"embodiment": robot} if (robot := next(filter(None, named), None)) else {}


def check(experiment: Experiment) -> None:
    """Raise ValueError for a policy that cannot be made, or an arm that cannot be of it.

    That is an arm whose own starts its refit was trained on, or one that names no robot of its policy.
    """
    trained = {name: policy.train for name, policy in experiment.policies.items() if policy.train is not None}
    for check_training in (_check_of, _check_robots):
        for name, train in trained.items():
            check_training(experiment, name, train)
    for name in experiment.measured.sensitivity:
        if len(robots_of(experiment.policies, name) or []) > 1:
            raise ValueError(f"measured.sensitivity: {name!r} is of several robots: name a policy of one")
    for name, arm in experiment.all_arms.items():
        _check_arm(experiment, name, arm)
    several = len(robots_of(experiment.policies, timed := experiment.profile.policy) or []) > 1
    if several and not tried_as(experiment, timed):
        raise ValueError(f"profile.policy: {timed!r} is of several robots, and no arm says which is timed: add one")
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


def _check_of(experiment: Experiment, name: str, train: Train) -> None:
    where, behind = f"policies.{name}.train.of", [name]
    while (of := train.of) is not None:
        if of not in experiment.policies:
            raise ValueError(f"{where}: unknown name {of!r}{nearest(of, experiment.policies)}")
        if of in behind:
            raise ValueError(f"{where}: it is made of itself ({' of '.join([*behind, of])})")
        parent = experiment.policies[of]
        if parent.train is None:
            if parent.artifact is None:
                raise ValueError(f"{where}: {of!r} is of one robot: name a policy with train or artifact")
            return
        behind.append(of)
        train = parent.train


def _check_robots(experiment: Experiment, name: str, train: Train) -> None:
    known, where = None if train.of is None else robots_of(experiment.policies, train.of), f"policies.{name}.train.like"
    if train.like and known is not None:
        if train.like not in known:
            raise ValueError(f"{where}: {train.of} has no robot {train.like!r}; it has {', '.join(known)}")
        if set(train.robots) <= set(known):
            raise ValueError(f"{where}: {train.of} has all of these robots already: leave it out")
        for robot in [one for one in train.robots if one not in known]:
            if EMBODIMENTS[robot].action_dim != EMBODIMENTS[train.like].action_dim:
                raise ValueError(f"{where}: the head of {train.like} is of another size than {robot}'s: name another")


def _check_arm(experiment: Experiment, name: str, arm: Arm) -> None:
    """Raise ValueError where an arm's settings name no robot of its policy; an artifact's server asks it later.

    Another robot's task is a control; another suite's, or doubt of a policy that was not given any, is not.
    """
    known, where = robots_of(experiment.policies, arm.policy) or [], f"arms.{name}.settings"
    if experiment.policies[arm.policy].train is not None:
        if experiment.suite_of(name) != SUITE:
            raise ValueError(f"arms.{name}: {arm.policy} is trained for {SUITE}: add suite: {SUITE}")
        if arm.settings.doubt:
            raise ValueError(f"{where}.doubt: {arm.policy} is trained here and cannot say its doubt: leave it out")
    for key in ("embodiment", "token") if known else ():
        if (robot := getattr(arm.settings, key)) and robot not in known:
            raise ValueError(f"{where}.{key}: {arm.policy} has no robot {robot!r}; it has {', '.join(known)}")
    if len(known) > 1 and not arm.settings.embodiment:
        raise ValueError(f"{where}: {arm.policy} has several robots: add embodiment: {' or '.join(known)}")


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
