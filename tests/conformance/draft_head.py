"""G4: the draft head, padded and packed, and its two file layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from conformance.golden import Arrays, Golden, prefix_rows, read_json, read_npz
from conformance.rows import Parts, Rows, close, count

from flashtrail.policies.pi0 import draft as head

OUTPUT = 1e-5


def parts(golden: Golden) -> Parts:
    folder = golden.root / "G4_draft_head"
    arrays = read_npz(folder / "cases.npz")
    for case in read_json(folder / "cases.json"):
        yield f"G4 {case}", outputs(golden, case, arrays)
    yield "G4 draft_triton", same_layouts(golden, folder)


def outputs(golden: Golden, case: str, arrays: Arrays) -> Rows:
    """Actions with the mask of the prefix, and without where nothing is masked."""
    w, dims = golden.draft
    embeddings = torch.from_numpy(prefix_embeddings(golden, case, arrays))
    valid = torch.from_numpy(arrays[f"{case}/prefix_pad_masks"].astype(bool))
    state = torch.from_numpy(arrays[f"{case}/robot_state"])
    ours = head.draft(w, dims, embeddings, valid, state)
    yield close(f"G4 {case} out_actions", ours, arrays[f"{case}/out_actions"], OUTPUT)
    if valid.all():
        unmasked = head.draft(w, dims, embeddings, None, state)
        yield close(f"G4 {case} out_actions, no mask", unmasked, arrays[f"{case}/out_actions"], OUTPUT)


def same_layouts(golden: Golden, folder: Path) -> Rows:
    """Both files of the draft head give the same weights."""
    triton = from_triton(read_npz(folder / "draft_triton.npz"), golden)
    weights = golden.draft[0]
    differ = [k for k in weights if not np.array_equal(weights[k].numpy(), triton[k])]
    yield count("G4 draft.pt and draft_triton identical", differ, len(weights))


def prefix_embeddings(golden: Golden, case: str, arrays: Arrays) -> np.ndarray:
    """The case's prefix embeddings [B, S, W]: its own, or those of a G1 observation, padded or packed."""
    if not case.startswith("g1obs"):
        return arrays[f"{case}/prefix_embs"]
    obs = golden.observations[int(case.removeprefix("g1obs")[0])]
    emb = obs["out_prefix_emb"]
    return (emb[prefix_rows(obs)] if case.endswith("_packed") else emb)[None]


def from_triton(t: Arrays, golden: Golden) -> Arrays:
    """`draft_triton.npz` (out x in, Q|K|V stacked) as artifact tensors."""
    d = golden.draft[1]
    q, kv = d.num_heads * d.head_dim, d.num_kv_heads * d.head_dim
    rows = t["draft_qkv_w"]
    return {
        "state_token.weight": t["draft_state_in_proj_w"].T,
        "state_token.bias": t["draft_state_in_proj_b"],
        "action_queries": t["draft_action_queries"],
        "input_norm.scale": t["draft_input_layernorm_w"],
        "q.weight": rows[:q].T,
        "k.weight": rows[q : q + kv].T,
        "v.weight": rows[q + kv :].T,
        "o.weight": t["draft_attn_o_w"].T,
        "post_norm.scale": t["draft_post_attention_layernorm_w"],
        "gate.weight": t["draft_ffn_gate_w"].T,
        "up.weight": t["draft_ffn_up_w"].T,
        "down.weight": t["draft_ffn_down_w"].T,
        "action_head.weight": t["draft_action_head_w"].T,
        "action_head.bias": t["draft_action_head_b"],
    }
