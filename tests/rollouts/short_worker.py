"""The real worker with the real simulator, its episodes cut after a few steps: FD."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from flashtrail.rollouts import worker
from flashtrail.simulators.libero.simulator import LiberoSimulator


def short(spec) -> LiberoSimulator:
    simulator = LiberoSimulator(spec.suite, spec.task_id, seed=spec.seed)
    simulator.horizon = 20
    return simulator


if __name__ == "__main__":
    worker.make_simulator = short
    worker.leave_with_parent(os.getppid())
    os.dup2(2, 1)
    worker.serve(Connection(int(sys.argv[1])))
