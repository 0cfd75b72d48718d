"""The pixels that the network sees, the same function for demonstrations and for a served policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIRE_PIXELS = 224  # the side of a view on the wire
PIXELS = 112  # the side at which demonstrations are stored


def shrink(picture: NDArray[Any], pixels: int = PIXELS) -> NDArray[np.uint8]:
    """uint8 (224, 224, 3) -> uint8 (pixels, pixels, 3) by area average (PIL's BOX); one of that size is not touched."""
    if picture.shape[0] == pixels:
        return picture
    small: NDArray[np.uint8] = np.asarray(Image.fromarray(picture).resize((pixels, pixels), Image.Resampling.BOX))
    return small
