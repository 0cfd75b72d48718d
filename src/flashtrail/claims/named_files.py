"""What an experiment names in other files is there, and says what it has to: asked once, before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError, nearest
from flashtrail.claims import claims as claim_files
from flashtrail.experiment.config import Experiment
from flashtrail.experiment.embodiments import FAMILY
from flashtrail.experiment.sections import DEMONSTRATIONS, Refit
from flashtrail.policies import registry as families
from flashtrail.tables import measurements


def check(experiment: Experiment) -> None:
    """Raise UserError for the first thing that the config names and that is not there, before hours are spent.

    In the working directory: claims, published success, runs, measurements, data sets, artifacts.
    """
    configs = [
        documents.mapping(path) for path in (Path("config.yaml"), *sorted(Path().glob("profiles/*/overlay.yaml")))
    ]
    arms = {name for config in configs for name in config.get("arms") or ()}
    claims = claim_files.load(experiment.claims)
    claim_files.check_arms(experiment.claims, claims, {*arms, *experiment.all_arms})
    keys = {"checkup": experiment.checkup.published} if experiment.checkup else {}
    keys |= {f"policies.{name}": policy.published for name, policy in experiment.policies.items()}
    files = [documents.mapping(path) for path in sorted(Path("resources/published").glob("*.yaml"))]
    known = {f"{row['source']}/{row['method']}" for file in files for row in file.get("success") or ()}
    for where, key in keys.items():
        if key is not None and key not in known:
            raise UserError(f"{where}.published: no success is published under {key!r}{nearest(key, known)}")
    for run in experiment.reuse:
        if not os.path.isdir(Path(run, "results/rollouts")):  # noqa: PTH112  (is_dir fails where it may not look)
            raise UserError(f"reuse: {run} has no results/rollouts, as runs and unpacked bundles have: remove it there")
    given = {Path(file).stem: measurements.read(Path(file)).figures for file in experiment.measured.given}
    claim_files.check_figures(experiment.claims, claims, {name: [f.name for f in own] for name, own in given.items()})
    for name, dataset in experiment.datasets.items():
        if not os.path.isdir(dataset.path):  # noqa: PTH112
            raise UserError(
                f"datasets.{name}.path: {dataset.path} is not a directory: correct the path or leave it out"
            )
    for name, policy in experiment.policies.items():
        if policy.artifact is not None and not Path(policy.artifact, "manifest.json").is_file():
            raise UserError(f"policies.{name}.artifact: {policy.artifact} is not a directory with a manifest.json")
    for name, policy in experiment.policies.items():
        if policy.refit is not None:
            _check_refit(f"policies.{name}.refit", policy.refit, str(experiment.artifact(name)))
        if policy.train is not None and policy.train.of is not None:
            _check_parent(f"policies.{name}.train.of", policy.train.of, experiment.policies[policy.train.of].artifact)
    for name, arm in experiment.arms.items():
        changed: dict[str, set[str]] = {key: getattr(arm, key).model_fields_set for key in ("flash", "settings")}
        artifact, trained = experiment.artifact(arm.policy), experiment.policies[arm.policy].train
        if any(changed.values()) and (artifact or trained):
            family = FAMILY if trained else families.family_of(Path(str(artifact)))
            for key, strange in (
                (k, one) for k in changed for one in sorted(changed[k] - families.settings_of(family))
            ):
                raise UserError(f"arms.{name}.{key}.{strange}: the family {family} has no such setting; leave it out")


def _check_parent(where: str, of: str, artifact: str | None) -> None:
    if artifact is None:
        return
    if (family := families.family_of(Path(artifact))) != FAMILY:
        raise UserError(f"{where}: {of} is of the family {family}: name a policy of {FAMILY} with several robots")
    manifest = provenance.json_load(Path(artifact, "manifest.json"))
    if not (manifest["dims"].get("embodiments") if isinstance(manifest.get("dims"), dict) else None):
        raise UserError(f"{where}: {of} is of one robot: name a policy of several")


def _check_refit(where: str, refit: Refit, artifact: str) -> None:
    if (family := families.family_of(Path(artifact))) != "lift_vla":
        raise UserError(f"{where}.of: {refit.of} goes back to the family {family}: only lift_vla is trained further")
    if refit.demonstrations != DEMONSTRATIONS and not Path(refit.demonstrations).is_file():
        raise UserError(
            f"{where}.demonstrations: {refit.demonstrations} is no file: leave it out, to have some recorded"
        )
