"""What this family refuses, each as one line that a user can act on."""

from __future__ import annotations

from flashtrail.policies.parts.errors import ArtifactError, ObservationError, OptionError
from flashtrail.policies.parts.errors import FamilyError as LiftError

__all__ = ["ArtifactError", "LiftError", "ObservationError", "OptionError"]
