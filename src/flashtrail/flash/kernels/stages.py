"""What the judging kernel is told and what it answers; the stages that call the kernels are still to come.

Knows settings and no tensor.
"""

from __future__ import annotations

from flashtrail.flash.settings import FlashSettings
from flashtrail.flash.verify import GRIPPER, Floats, Verdict, window


def rules(settings: FlashSettings, horizon: int, dim: int) -> list[float]:
    """Settings as the numbers that the kernel reads, in its order, for chunks of `horizon` steps of `dim` dims."""
    s = settings
    counted = min(s.dist_dims, dim)
    if dim > GRIPPER:
        counted = min(counted, GRIPPER)
    return [
        s.tau_radius,
        float(counted),
        float(window(s.max_exec_steps, horizon)),
        s.gripper_switch_threshold,
        float(s.enable_gripper_verify),
        float(s.enable_gripper_post_verify),
    ]


def unpack_verdict(packed: Floats, horizon: int, dim: int) -> Verdict:
    """The judging kernel's one output, copied to the host: four numbers, then the chunk (horizon, dim)."""
    accepted, radius, stop, cut = (float(v) for v in packed[:4])
    return Verdict(packed[4:].reshape(horizon, dim).copy(), int(accepted), radius, bool(stop), bool(cut))
