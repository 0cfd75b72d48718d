"""One observation as the policy gets it: two views, the state vector and the prompt.

Also the official client's picture and state conventions (rotation, resizing, axis-angle).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from flashtrail.serving.protocol import IMAGE_MASK_KEY

POLICY_PIXELS = 224


@dataclass(frozen=True)
class Observation:
    """`agent` and `wrist`: uint8 (224, 224, 3); `state`: float64 (8,) = position (m), axis-angle (rad), fingers (m).

    Arrays are never written to: conditions and guards return a changed copy (`dataclasses.replace`).
    """

    agent: np.ndarray
    wrist: np.ndarray
    state: np.ndarray
    prompt: str
    wrist_missing: bool = False  # the policy is told that there is no wrist view; the frame is sent but not looked at

    def request(self) -> dict[str, Any]:
        """Return the observation under the wire's keys; a missing view adds a key that official servers ignore."""
        request = {
            "observation/image": self.agent,
            "observation/wrist_image": self.wrist,
            "observation/state": self.state,
            "prompt": self.prompt,
        }
        return request | {IMAGE_MASK_KEY: [True, False]} if self.wrist_missing else request


def upright(image: np.ndarray) -> np.ndarray:
    """Rotate a (H, W, 3) render by 180 degrees: LIBERO's camera pictures are upside down in pi0's training data."""
    return np.ascontiguousarray(image[::-1, ::-1])


def resize_with_pad(image: np.ndarray, height: int = POLICY_PIXELS, width: int = POLICY_PIXELS) -> np.ndarray:
    """Fit a uint8 (H, W, 3) image into (height, width, 3), aspect kept, black bars; PIL bilinear, as openpi does."""
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    ratio = max(columns / width, rows / height)
    fitted_height, fitted_width = int(rows / ratio), int(columns / ratio)
    fitted = Image.fromarray(image).resize((fitted_width, fitted_height), Image.Resampling.BILINEAR)
    canvas = Image.new(fitted.mode, (width, height), 0)
    canvas.paste(fitted, (max(0, int((width - fitted_width) / 2)), max(0, int((height - fitted_height) / 2))))
    return np.asarray(canvas)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Return axis * angle (rad) of an (x, y, z, w) quaternion, its sign untouched, as the official client does.

    A quaternion with w < 0 gives an angle above pi; policies were trained on that, so it is not normalised away.
    """
    w = min(1.0, max(-1.0, float(quaternion[3])))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3], np.float64) * 2.0 * math.acos(w) / sine


def state_vector(raw: dict[str, np.ndarray]) -> np.ndarray:
    """Return the (8,) float64 state from a simulator's observation: position, axis-angle, the two finger positions."""
    parts = (raw["robot0_eef_pos"], axis_angle(raw["robot0_eef_quat"]), raw["robot0_gripper_qpos"])
    return np.concatenate(parts).astype(np.float64)
