"""Single pictures cut out of a contact sheet, and JPEGs as the source of an image inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from flashtrail.tables import pictures

_QUALITY = 72


def frame(sheet: bytes, rounds: float, place: int | None = None, words: bool = False) -> bytes | None:
    """Return one frame of a contact sheet as JPEG: `place` as in a list, -1 is the last, None the middle.

    `words`: with its strip; `rounds`: how many the episode had. None for bytes that are not such a sheet: an imported
    one may be anything.
    """
    try:
        shown = list(range(len(pictures.on_sheet(int(rounds)))))
        width = pictures.SHEET_WIDTH
        height = round(width * (pictures.PIXELS + pictures.STRIP) / (2 * pictures.PIXELS))
        strip = 0 if words else round(height * pictures.STRIP / (pictures.PIXELS + pictures.STRIP))
        row, column = divmod(shown[len(shown) // 2 if place is None else place], pictures.SHEET_COLUMNS)
        box = (column * width, row * height + strip, (column + 1) * width, (row + 1) * height)
        with Image.open(io.BytesIO(sheet), formats=["JPEG"]) as picture:
            if box[2] > picture.width or box[3] > picture.height:
                return None
            return _jpeg(picture.crop(box))
    except (OSError, ValueError, IndexError, Image.DecompressionBombError):
        return None


def cut(sheet: bytes, boxes: Sequence[Sequence[int]]) -> list[bytes]:
    """Return parts of a JPEG, each left, upper, right and lower, as JPEGs; none of bytes that are no such picture."""
    try:
        with Image.open(io.BytesIO(sheet), formats=["JPEG"]) as picture:
            return [_jpeg(picture.crop((box[0], box[1], box[2], box[3]))) for box in boxes]
    except (OSError, ValueError, IndexError, TypeError, Image.DecompressionBombError):
        return []


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def source(jpeg: bytes) -> str:
    """Return a JPEG as an address that needs no request."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
