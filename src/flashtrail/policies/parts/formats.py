"""The number formats of a trained network, by name: settings know these without PyTorch; `precision` makes them."""

from __future__ import annotations

from typing import Literal, get_args

from flashtrail.policies.parts.errors import OptionError

Precision = Literal["float32", "bfloat16", "float16", "int8_dynamic", "int8_weight"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def check(name: str) -> None:
    """Raise OptionError for a precision that there is not."""
    if name not in PRECISIONS:
        raise OptionError(f"precision {name!r} is none of {', '.join(PRECISIONS)}")
