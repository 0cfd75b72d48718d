"""Pictures only where they are asked for: the camera sensors of a robosuite environment, shut in between.

Switching observables off would reset their sampling clocks, and the next picture would be of another moment of the
control step (each holds 25 physics steps); so sensors go on being sampled, and return black while they are shut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flashtrail.simulators.robosuite import unseen


class Pictures:
    """Whether the cameras of a robosuite environment draw, and whether they drew at the last step.

    With `only_wanted` they draw only in `wanted(True)`, and only what a camera can see (`unseen`); without it always,
    as robosuite does. Hard resets make new sensors, so their factory is wrapped too.
    """

    def __init__(self, env: Any, *, only_wanted: bool) -> None:
        self._env, self._only_wanted = env, only_wanted
        self._open, self._drawn = False, False
        if not only_wanted:
            return
        self._make: Callable[..., tuple[list[Any], list[str]]] = env._create_camera_sensors
        env._create_camera_sensors = self._make_gated
        for name, observable in env._observables.items():
            if name.endswith("_image"):
                camera = name.removesuffix("_image")
                observable._sensor = self._gated(observable._sensor, observable._data_shape, camera)

    @contextlib.contextmanager
    def wanted(self, wanted: bool) -> Iterator[None]:
        """Let what is sampled meanwhile be drawn, or not."""
        self._drawn = wanted or not self._only_wanted
        self._open = wanted
        try:
            yield
        finally:
            self._open = False

    def check_drawn(self) -> None:
        """Raise RuntimeError unless the last step drew."""
        if not self._drawn:
            raise RuntimeError("nothing was rendered at the last step: call step(..., render=True) before observe()")

    def _make_gated(
        self, cam_name: str, cam_w: int, cam_h: int, *rest: Any, **named: Any
    ) -> tuple[list[Any], list[str]]:
        sensors, names = self._make(cam_name, cam_w, cam_h, *rest, **named)
        return [self._gated(sensor, (cam_h, cam_w, 3), cam_name) for sensor in sensors], names

    def _gated(self, sensor: Any, shape: tuple[int, ...], camera: str) -> Any:
        black = np.zeros(shape, np.uint8)

        def picture(cache: dict[str, Any]) -> np.ndarray:
            if not self._open:
                return black
            with unseen.left_out(self._env.sim, camera):
                image: np.ndarray = sensor(cache)
            return image

        picture.__modality__ = sensor.__modality__  # type: ignore[attr-defined]
        return picture
