"""What a family refuses, each as one line that a user can act on."""

from __future__ import annotations

from flashtrail.policies.protocol import Refusal


class FamilyError(ValueError):
    """Base of what is refused before a policy is served; `str(error)` is a single line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class ArtifactError(FamilyError):
    """An artifact or checkpoint that is incomplete, damaged, of another family or of other dims than it claims."""


class OptionError(FamilyError):
    """A flag or setting that this family does not take."""


class ObservationError(Refusal):
    """An observation that lacks a key, has the wrong shape, or an instruction of which no word is known."""
