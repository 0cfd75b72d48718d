"""A process for each simulator without each one's imports: forks of a process that has imported LIBERO or robosuite.

A process may have one simulator in its life, and its imports cost as much as building it. What runs here has
built none, so that a fork is as good as a process of its own; nothing but the imports is shared.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import numpy as np

from flashtrail.simulators.robosuite import opengl


def import_libero() -> None:
    """Import what a LIBERO simulator needs."""
    import_robosuite()
    import libero.libero.benchmark
    import libero.libero.envs  # noqa: F401


def import_robosuite() -> None:
    """Import what a simulator of robosuite's own tasks needs."""
    opengl.choose_backend()
    import robosuite  # noqa: F401
    from robosuite.utils import transform_utils

    transform_utils.mat2quat(np.eye(3))  # numba loads the rest of itself with the first function that it compiles


def run(jobs: Sequence[Callable[[], object]], at_once: int = 1, load: Callable[[], None] = import_libero) -> None:
    """Run each job in a fork, `at_once` at a time; end with exit code 1 as soon as one has failed, after its words."""
    load()
    gc.freeze()
    running = 0
    for job in jobs:
        if running == at_once:
            _wait_for_one()
        else:
            running += 1
        if os.fork() == 0:
            _end(job)
    for _ in range(running):
        _wait_for_one()


def _wait_for_one() -> None:
    _, status = os.wait()
    if status:
        sys.exit(1)


def _end(job: Callable[[], object]) -> None:
    """Run the job and leave without what the parent would do at its end."""
    try:
        job()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
