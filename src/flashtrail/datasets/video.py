"""Pictures as video and back, by the ffmpeg of imageio-ffmpeg.

A file is data: it is opened as MP4 and nothing else, and may refer to no other file, whatever its bytes say.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from flashtrail.base.errors import UserError, cause

CODEC, PIXEL_FORMAT = "h264", "yuv420p"
LARGEST_SIDE = 4096  # px
_ENCODE = ["-crf", "18", "-g", "2", "-bf", "0"]  # near pictures that any frame can be read from
_LEAST_FREE = 1 << 20  # bytes of a disk, below which it is full: ffmpeg writes so much at a time
_ONLY_MP4 = ["-f", "mov", "-protocol_whitelist", "file"]


@contextlib.contextmanager
def writing(path: Path, size: tuple[int, int], fps: float) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yield a function that appends a picture, uint8 (height, width, 3), to a new video; `size`: width, height.

    OSError (ENOSPC) where the disk is full afterwards: of ffmpeg's end there is a broken pipe, or no sign at all.
    """
    writer = imageio_ffmpeg.write_frames(
        str(path.absolute()), size, fps=fps, codec="libx264", quality=None, macro_block_size=2,
        output_params=_ENCODE, ffmpeg_log_level="quiet",
    )  # fmt: skip
    writer.send(None)
    broken = None
    try:
        yield lambda picture: writer.send(np.ascontiguousarray(picture))
    except OSError as error:
        broken = error
    finally:
        writer.close()
    if shutil.disk_usage(path.parent).free < _LEAST_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if broken is not None:
        raise broken


def reading(path: Path, fps: float, start: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield `count` pictures, uint8 (height, width, 3), from number `start` on; UserError where they are not there."""
    given = 0
    seek = ["-ss", f"{(start - 0.5) / fps:.6f}"] if start else []
    frames: Any = imageio_ffmpeg.read_frames(
        str(path.resolve()),
        input_params=[*_ONLY_MP4, *seek],
        output_params=["-frames:v", str(count), "-fps_mode", "passthrough"],
    )
    try:
        width, height = next(frames)["size"]
        if max(width, height) > LARGEST_SIDE:
            raise UserError(f"{path}: its pictures are {width} x {height}, at most {LARGEST_SIDE} px a side are read")
        for frame in frames:
            given += 1
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError, KeyError, StopIteration) as error:
        raise UserError(f"{path} is not an MP4 video, or is damaged: {cause(str(error)) or 'no picture'}") from None
    finally:
        frames.close()
    if given < count:
        raise UserError(f"{path}: {given} pictures from number {start} on, the episode has {count}: copy it again")
