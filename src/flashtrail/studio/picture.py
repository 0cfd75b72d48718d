"""Where the hand goes, drawn into the agent view with the camera's own matrices."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flashtrail.experiment.suites import suite_of
from flashtrail.simulators.observation import POLICY_PIXELS

_CAMERA = "agentview"
# By simulator: whether its agent view is mirrored left to right, as LIBERO's is by the turn of 180 degrees.
_MIRRORED = {"libero": True, "robosuite_lift": False}
ACCEPTED, BEYOND, GRIP, TRAIL = (80, 230, 120), (255, 160, 50), (255, 70, 200), (90, 180, 255)
_SCALE = 2  # a picture is drawn on at twice its size, so that lines of one pixel of the policy's are thin


class Camera:
    """The agent view's camera of a simulator; `points` of (N, 3) m as (N, 2) pixels, None without a camera known."""

    def __init__(self, simulator: Any, suite: str) -> None:
        self._simulator, self._mirrored = simulator, _MIRRORED.get(suite_of(suite).simulator)

    def points(self, places: Sequence[np.ndarray]) -> list[tuple[float, float]] | None:
        """Return x and y of each place in the picture as the policy gets it; places behind the camera are left out."""
        if self._mirrored is None:
            return None
        from robosuite.utils import camera_utils

        env, _ = self._simulator.truth
        world = camera_utils.get_camera_transform_matrix(env.sim, _CAMERA, POLICY_PIXELS, POLICY_PIXELS)
        shown = (world @ np.append(np.asarray(place, np.float64), 1.0) for place in places)
        pixels = [(float(x / z), float(y / z)) for x, y, z, _ in shown if z > 0]
        return [(POLICY_PIXELS - 1 - x, y) for x, y in pixels] if self._mirrored else pixels


def chunk(
    image: np.ndarray, path: list[tuple[float, float]] | None, accepted: int, closed: Sequence[bool]
) -> Image.Image:
    """Return the picture with a chunk's path on it: its accepted prefix and the rest; a ring where the gripper's word
    changes (`closed`, of each action). `path` begins where the hand is, so it is one longer than the chunk.
    """
    canvas = _enlarged(image)
    draw = ImageDraw.Draw(canvas)
    if path:
        _line(draw, path[: accepted + 1], ACCEPTED, 4)
        _line(draw, path[accepted:], BEYOND, 2)
        for index, (x, y) in enumerate(path[1:]):
            _dot(draw, x, y, ACCEPTED if index < accepted else BEYOND, 4)
            if index and closed[index] != closed[index - 1]:
                _dot(draw, x, y, GRIP, 9, hollow=True)
        _dot(draw, *path[0], TRAIL, 6)
    return canvas


def trail(image: np.ndarray, path: list[tuple[float, float]] | None) -> Image.Image:
    """Return the picture with the way of the hand so far on it."""
    canvas = _enlarged(image)
    if path:
        _line(ImageDraw.Draw(canvas), path, TRAIL, 3)
        _dot(ImageDraw.Draw(canvas), *path[-1], TRAIL, 6)
    return canvas


def jpeg(image: Image.Image | np.ndarray, quality: int = 80) -> str:
    """Return a picture as the base64 of a JPEG."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def _enlarged(image: np.ndarray) -> Image.Image:
    size = (image.shape[1] * _SCALE, image.shape[0] * _SCALE)
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def _line(draw: ImageDraw.ImageDraw, path: list[tuple[float, float]], colour: tuple[int, ...], width: int) -> None:
    scaled = [(x * _SCALE, y * _SCALE) for x, y in path]
    if len(scaled) > 1:
        draw.line(scaled, fill=(20, 20, 20), width=width + 2, joint="curve")
        draw.line(scaled, fill=colour, width=width, joint="curve")


def _dot(
    draw: ImageDraw.ImageDraw, x: float, y: float, colour: tuple[int, ...], radius: int, hollow: bool = False
) -> None:
    box = [x * _SCALE - radius, y * _SCALE - radius, x * _SCALE + radius, y * _SCALE + radius]
    draw.ellipse(
        box, fill=None if hollow else colour, outline=colour if hollow else (20, 20, 20), width=3 if hollow else 1
    )
