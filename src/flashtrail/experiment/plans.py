"""What a run was planned as, frozen when it starts: its jobs run that, whatever config.yaml says by then.

On a cluster every job parses the workflow again, hours later perhaps. So the process that plans writes the experiment
to a file named by its digest, and that name travels on the command line of each job. Code cannot travel; what a job
runs is held to the digest of its files instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.experiment.config import Experiment

KEY = "plan"  # the entry of `--config` that names a plan to a job
_PREFIX = "plan-"
_AGAIN = "start the run again"


def name_of(experiment: Experiment) -> str:
    """Return the name of a plan: a digest of the experiment and of every arm as it is resolved (published figures)."""
    resolved = {name: experiment.arm(name) for name in experiment.all_arms}
    return _PREFIX + provenance.digest_json([_text(experiment), resolved])


def freeze(experiment: Experiment, directory: str | Path) -> None:
    """Write the experiment to `directory` under its plan's name."""
    with provenance.write_atomic(Path(directory) / f"{name_of(experiment)}.json") as temporary:
        temporary.write_text(_text(experiment), encoding="utf-8")


def _text(experiment: Experiment) -> str:
    """Return the experiment as JSON in its own order, which is that of the arms in the report."""
    return json.dumps(experiment.model_dump(mode="json"), indent=1)


def planned(settings: Mapping[str, Any], directory: str | Path) -> Experiment:
    """Return the experiment of the plan that a job's `--config` settings name; UserError where it is gone or another.

    config.yaml is not asked: a change to it is the next run's.
    """
    name = str(settings.get(KEY))
    path = Path(directory) / f"{name}.json"
    if not name.startswith(_PREFIX) or not name.removeprefix(_PREFIX).isalnum():
        raise UserError(f"this job does not name a plan: only a run of the workflow starts its jobs; {_AGAIN}")
    if not path.is_file():
        raise UserError(f"{path}, what this job was planned as, is missing on this node; {_AGAIN}")
    try:
        experiment = Experiment.model_validate(provenance.json_load(path))
        found = name_of(experiment)
    except ValidationError:
        found = "not an experiment of this version"
    if found != name:
        raise UserError(
            f"{path} is not what this job was planned as (it now reads as {found}: the file, the code that reads it or "
            f"the published figures changed meanwhile); {_AGAIN}"
        )
    return experiment
