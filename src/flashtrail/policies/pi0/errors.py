"""What the engine refuses, each as one line a user can act on.

`str(error)` is a single line that names the thing and the remedy.
"""

from __future__ import annotations


class FlashError(ValueError):
    """Base of everything the engine refuses because of what it was given."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class ArtifactError(FlashError):
    """An artifact directory that is incomplete, damaged, or of other dims than it claims."""


class DeviceError(FlashError):
    """A device or number format that this machine cannot give."""


class ObservationError(FlashError):
    """An observation that lacks a key or has the wrong shape or type."""


class SettingsError(FlashError):
    """A FLASH setting outside its range."""
