"""A short film of an episode: what the policy saw at each query, and what it answered.

Agent and wrist view side by side, after condition and guard, with a line of text. Knows pictures and an encoder
(H.264 through imageio-ffmpeg); knows no table and no simulator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flashtrail.rollouts.observation import POLICY_PIXELS, Observation

_STRIP = 16  # rows of text; with 224 x 448 pixels the frame stays a multiple of the encoder's 16 x 16 blocks
_FRAMES_PER_SECOND = 4


class Film:
    """Collects frames; `write` encodes them."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._frames: list[np.ndarray] = []

    def add(self, query: int, observation: Observation, reply: Any) -> None:
        """Add one query (an `episode.OnQuery`)."""
        frame = Image.new("RGB", (2 * POLICY_PIXELS, POLICY_PIXELS + _STRIP))
        frame.paste(Image.fromarray(np.hstack([observation.agent, observation.wrist])), (0, _STRIP))
        route = reply.policy_timing.get("route_type", "?")
        text = f"query {query}   {route}   accepted {reply.accepted_prefix_len}"
        ImageDraw.Draw(frame).text((4, 2), text, fill=(255, 255, 255))
        self._frames.append(np.asarray(frame))

    def write(self) -> str:
        """Encode to the path given and return it."""
        import imageio_ffmpeg

        height, width = self._frames[0].shape[:2]
        writer = imageio_ffmpeg.write_frames(
            str(self._path), (width, height), fps=_FRAMES_PER_SECOND, codec="libx264", ffmpeg_log_level="error"
        )
        writer.send(None)
        for frame in self._frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return str(self._path)
