"""The real worker process around a simulator that is only arithmetic: FD, then optionally MODE and a MODE's file.

Modes, in init state 1: ``crash_once`` dies natively, ``hang_once`` hangs (the file remembers that it has happened),
``crash`` and ``wedge`` do so every time, ``wedge`` at step 20 and in native code that holds the interpreter; ``slow``
takes 0.1 s for each step, ``raise_once`` raises at step 20. ``blind`` cannot render. ``long`` has 90 steps.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from flashtrail.rollouts import lending, worker
from flashtrail.simulators.observation import Observation
from flashtrail.simulators.protocol import Metrics, Step
from flashtrail.simulators.robosuite import opengl


class StubSimulator:
    """A point that is moved by actions; init state 0 succeeds at step 30, the others never; 60 steps at most."""

    prompt, horizon = "move the point", 60

    def __init__(self, mode: str = "", file: Path | None = None, horizon: int | None = None) -> None:
        self.mode, self.file, self.rendered = mode, file, False
        self.horizon = horizon or (90 if mode == "long" else self.horizon)

    def reset(self, key) -> None:
        self.key, self.steps, self.rendered = key, 0, True
        self.position = np.full(3, key.init_state + key.repeat / 10)
        if key.init_state != 1 or (self.mode.endswith("_once") and self.file.exists()):
            return
        if self.mode.startswith(("crash", "hang")):
            with self.file.open("a") as stream:
                print(os.getpid(), file=stream)
        if self.mode.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mode == "hang_once":
            time.sleep(600)

    def observe(self) -> Observation:
        assert self.rendered, "nothing was rendered"
        image = np.full((224, 224, 3), self.steps % 256, np.uint8)
        image[0, 0] = 255
        return Observation(image, image, np.concatenate([self.position, np.zeros(5)]), self.prompt)

    def step(self, action, *, render: bool) -> Step:
        self.rendered = render
        self.steps += 1
        if self.key.init_state == 1 and self.mode == "slow":
            time.sleep(0.1)
        if self.key.init_state == 1 and self.mode == "raise_once" and self.steps == 20 and not self.file.exists():
            self.file.touch()
            raise FloatingPointError("unstable")
        if self.key.init_state == 1 and self.mode == "wedge" and self.steps == 20:
            with self.file.open("a") as stream:
                print(os.getpid(), file=stream)
            ctypes.PyDLL(None).sleep(600)
        self.position = self.position + np.asarray(action[:3]) * 0.05
        done = self.key.init_state == 0 and self.steps == 30
        return Step(float(done), done, self.position)

    def verdict(self, success: bool) -> None:
        return None

    def sense(self) -> None:
        return None

    def metrics(self) -> Metrics:
        return Metrics()

    def close(self) -> None:
        pass


if __name__ == "__main__":
    kept = sys.argv[-2] == lending.KEPT[0]
    descriptor, mode, file = int(sys.argv[-1]), *(sys.argv[1 : -2 if kept else -1] or ["", "."])
    if mode == "blind":

        def blind(settings):
            raise opengl.explain(ImportError("libOSMesa.so.8"))

        opengl._loads = lambda name, soname: False
        worker.make_simulator = blind
    else:
        worker.make_simulator = lambda spec: StubSimulator(mode, Path(file), spec.horizon)
    worker.leave_with_parent(os.getppid())
    worker.serve(Connection(descriptor), kept)
