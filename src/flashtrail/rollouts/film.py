"""A short film of an episode, and its contact sheet: what the policy saw at each query, and what it answered.

Agent and wrist view side by side, after condition and guard, with route, accepted prefix, condition and guard drawn on.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from flashtrail.rollouts.episode import Query
from flashtrail.rollouts.guards import GuardRecord
from flashtrail.simulators.observation import POLICY_PIXELS
from flashtrail.tables import pictures
from flashtrail.tables.pictures import FRAMES_PER_SECOND, SHEET_COLUMNS, SHEET_WIDTH, STRIP

_QUALITY = 70
_PLAIN, _HIT, _HELPED = (255, 255, 255), (255, 170, 60), (90, 220, 150)


class Film:
    """Collects frames; `write` encodes them, `sheet` shows some of them in one picture.

    `condition` and `guard` are the names to be drawn on; ``none`` or ``clean`` is not drawn.
    """

    def __init__(self, path: str | Path, condition: str = "clean", guard: str = "none") -> None:
        self._path = Path(path)
        self._condition, self._guard = condition, guard
        self._frames: list[np.ndarray] = []
        self._sent: list[tuple[str, np.ndarray, np.ndarray]] = []

    def add(self, query: Query) -> None:
        """Add one query (an `episode.OnQuery`)."""
        frame = Image.new("RGB", (2 * POLICY_PIXELS, POLICY_PIXELS + STRIP))
        frame.paste(Image.fromarray(np.hstack([query.given.agent, query.given.wrist])), (0, STRIP))
        draw = ImageDraw.Draw(frame)
        for x, y, text, colour in self.labels(query):
            draw.text((x, y), text, fill=colour)
        if query.given.wrist_missing:
            _cross(draw)
        self._frames.append(np.asarray(frame))
        self._sent.append((query.given.prompt, query.given.state, np.asarray(query.reply.actions)))

    def labels(self, query: Query) -> list[tuple[int, int, str, tuple[int, int, int]]]:
        """Return the text drawn on the frame of one query: x, y, text, colour."""
        route = query.reply.policy_timing.get("route_type", "?")
        lines = [(4, 2, f"query {query.index}  {route}  accepted {query.reply.accepted_prefix_len}", _PLAIN)]
        if query.hit:
            lines.append((4, 16, f"hit: {self._condition}"[:36], _HIT))
        elif self._condition not in ("clean", "none"):
            lines.append((4, 16, f"spared: {self._condition}"[:36], _PLAIN))
        if self._guard != "none":
            lines.append((POLICY_PIXELS + 4, 16, f"{self._guard}: {done(query.guard)}"[:36], _colour(query.guard)))
        return lines

    def write(self) -> str:
        """Encode to the path given and return it; beside it are written the contact sheet, as .jpg, and what else the
        policy was sent and returned (`pictures.Sent`).
        """
        import imageio_ffmpeg

        self._path.with_suffix(".jpg").write_bytes(self.sheet())
        pictures.write_sent(self._path.with_suffix(pictures.SENT), *zip(*self._sent, strict=True))

        height, width = self._frames[0].shape[:2]
        writer = imageio_ffmpeg.write_frames(
            str(self._path),
            (width, height),
            fps=FRAMES_PER_SECOND,
            codec="libx264",
            quality=None,
            output_params=["-crf", "26"],
            ffmpeg_log_level="error",
        )
        writer.send(None)
        for frame in self._frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return str(self._path)

    def sheet(self) -> bytes:
        """Return a JPEG of some of the frames (`pictures.on_sheet`)."""
        chosen = pictures.on_sheet(len(self._frames))
        height, width = self._frames[0].shape[:2]
        size = (SHEET_WIDTH, round(SHEET_WIDTH * height / width))
        columns = min(SHEET_COLUMNS, len(chosen))
        canvas = Image.new("RGB", (columns * size[0], math.ceil(len(chosen) / columns) * size[1]), (255, 255, 255))
        for position, index in enumerate(chosen):
            small = Image.fromarray(self._frames[index]).resize(size, Image.Resampling.LANCZOS)
            canvas.paste(small, (position % columns * size[0], position // columns * size[1]))
        buffer = io.BytesIO()
        canvas.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
        return buffer.getvalue()


def done(record: GuardRecord) -> str:
    """Return a short text for what a guard did at a query."""
    if record.masked:
        return "declared missing"
    if record.replaced:
        return "replaced" if record.cache_age is None else f"replaced, age {record.cache_age}"
    return "passed" if record.healthy else "missed"


def _colour(record: GuardRecord) -> tuple[int, int, int]:
    return _HELPED if record.replaced or record.masked else _PLAIN if record.healthy else _HIT


def _cross(draw: ImageDraw.ImageDraw) -> None:
    """Cross out the wrist view: it is sent, but the policy does not look at it."""
    inset = 4  # lines have a width, and the agent view lies next to it
    left, right = POLICY_PIXELS + inset, 2 * POLICY_PIXELS - inset
    top, bottom = STRIP + inset, STRIP + POLICY_PIXELS - inset
    draw.line([(left, top), (right, bottom)], fill=_HELPED, width=3)
    draw.line([(left, bottom), (right, top)], fill=_HELPED, width=3)
