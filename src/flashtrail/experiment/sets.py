"""The section `datasets` of config.yaml: the sets of demonstrations that the report shows, by name.

Apart from `sections`, so that no measurement which is taken by a section's keys runs again for it.
"""

from __future__ import annotations

from pydantic import Field

from flashtrail.base import documents


class Dataset(documents.Section):
    """A LeRobot set, or one to train on (docs/datasets.md)."""

    path: str = Field(min_length=1, description="its directory; a relative one lies in the checkout")
    cameras: list[str] = Field([], description="of a LeRobot set: which ones, the one at the wrist last; none: all")
    state: str | None = Field(None, description="of a LeRobot set: the state's feature, where it is not state")
    action: str | None = Field(None, description="of a LeRobot set: the action's feature, where it is not action")
