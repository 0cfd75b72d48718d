"""The stages of a round: our names, the columns of tables that hold their times, and their names on the wire.

The wire's names are those of the official server's `policy_timing`; the engine's reply (`flash.policy`) writes them.
"""

from __future__ import annotations

WIRE = {
    "encoder": "encoder_ms",
    "prefill": "vlm_prefill_ms",
    "denoise": "full_fallback_ms",
    "draft": "draft_ms",
    "verify": "action_verify_ms",
}
OF_ROUTE = {"full": ("encoder", "prefill", "denoise"), "draft": ("encoder", "draft", "verify")}
COLUMNS = {f"{stage}_ms": wire for stage, wire in WIRE.items()}
COLUMNS_OF_ROUTE = {route: {f"{stage}_ms": WIRE[stage] for stage in stages} for route, stages in OF_ROUTE.items()}
