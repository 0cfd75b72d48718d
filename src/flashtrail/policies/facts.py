"""What a checkpoint's tree does not hold and its training did: the keys of ``policies.X`` that declare it.

One model for config.yaml, for ``assets/flashtrail/model.json`` and for the table of public checkpoints, so that a fact
has one type and one range wherever it comes from.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StrictBool, StrictInt

Count = Annotated[StrictInt, Field(ge=1)]


class PolicyFacts(BaseModel):
    """Facts of a policy's training, as openpi's TrainConfig names them; None where nothing is declared."""

    horizon: Annotated[StrictInt, Field(ge=1, le=1000)] | None = Field(
        None, description="actions of a chunk (openpi: action_horizon)"
    )
    action_dim: Count | None = Field(None, description="dims of the model's state and actions; the tree's shapes tell")
    delta_actions: StrictBool | None = Field(None, description="the first 6 actions are differences from the state")
    views: Annotated[StrictInt, Field(ge=1, le=2)] | None = Field(None, description="cameras: 1 agent, 2 and wrist")
    steps: Annotated[StrictInt, Field(ge=1, le=1000)] | None = Field(None, description="Euler steps of a full round")
    max_token_len: Annotated[StrictInt, Field(ge=2, le=1000)] | None = Field(
        None, description="tokens of a prompt, at most"
    )
    asset: str | None = Field(
        None, min_length=1, description="folder below assets/ whose norm_stats.json counts, where several lie there"
    )


NAMES = tuple(PolicyFacts.model_fields)
