"""G2, functions: the acceptance rule and the scheduling predicates, exactly, case by case."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from conformance.golden import Arrays, Golden, read_json, read_npz
from conformance.rows import Parts, Rows, close, count

from flashtrail.policies.pi0 import schedule, verify
from flashtrail.policies.pi0.schedule import SessionState
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import Verdict

DISTANCE = STITCHED = 1e-6


def parts(golden: Golden) -> Parts:
    cases = read_json(golden.root / "G2_verify_semantics/functions.json")
    arrays = read_npz(golden.root / "G2_verify_semantics/functions.npz")
    for part in (radius, truncate, detect):
        yield f"G2 {part.__name__}", part(cases[part.__name__], arrays)
    yield "G2 predicates", predicates(cases)


def radius(cases: list[dict], arrays: Arrays) -> Rows:
    """Distances, accepted prefix (inclusive, min over times) and stitched output."""
    dist_error = stitch_error = 0.0
    wrong = []
    for case in cases:
        key = f"radius/{case['id']:04d}"
        for b, draft in enumerate(arrays[f"{key}/x0_draft"]):
            x0_hat = arrays[f"{key}/x0_hat"][b]
            steps = verify.window(case["eval_h"], draft.shape[0])
            distance = verify.distances(draft, x0_hat, case["dist_dims"], steps)
            accepted = verify.radius_prefix(distance, case["tau_radius"])
            stitched = verify.stitch(draft, x0_hat.mean(axis=0), accepted)
            if accepted != arrays[f"{key}/out_accepted"][b]:
                wrong.append(f"{key} ({case['kind']}): {accepted}")
            dist_error = max(dist_error, _gap(distance, arrays[f"{key}/out_dist"][b]))
            stitch_error = max(stitch_error, _gap(stitched, arrays[f"{key}/out_stitched"][b]))
    yield count("G2 radius out_accepted", wrong, len(cases))
    yield close("G2 radius out_dist", dist_error, 0.0, DISTANCE)
    yield close("G2 radius out_stitched", stitch_error, 0.0, STITCHED)


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max()) if a.size else 0.0


def _samples(
    kind: str, chunks: str, cases: list[dict], arrays: Arrays
) -> Iterator[tuple[dict, str, int, np.ndarray, float | None]]:
    """Each case's samples: case, key of its arrays, index, chunk, and where the gripper was before."""
    for case in cases:
        key = f"{kind}/{case['id']:04d}"
        previous = arrays.get(f"{key}/gripper_prev")
        for b, chunk in enumerate(arrays[f"{key}/{chunks}"]):
            yield case, key, b, chunk, None if case["gripper_prev_is_none"] or previous is None else float(previous[b])


def truncate(cases: list[dict], arrays: Arrays) -> Rows:
    """Gripper post-verify: where it cuts, and whether it did."""
    wrong = []
    for case, key, b, out, last in _samples("truncate", "x0_out", cases, arrays):
        before = int(arrays[f"{key}/accepted_prefix_len"][b])
        kept = verify.cut_at_switch(out, before, last, case["threshold"])
        want = int(arrays[f"{key}/out_accepted"][b]), bool(arrays[f"{key}/out_cut_mask"][b])
        if (kept, kept < before) != want:
            wrong.append(f"{key}[{b}]: {kept}, golden {want[0]}")
    yield count("G2 truncate out_accepted, out_cut_mask", wrong, len(cases))


def detect(cases: list[dict], arrays: Arrays) -> Rows:
    """Gripper verify: whether any estimate switches within the window."""
    wrong = []
    for case, key, b, x0_hat, last in _samples("detect", "x0_hat", cases, arrays):
        steps = verify.window(case["eval_h"], x0_hat.shape[1])
        if verify.gripper_stops(x0_hat, last, case["threshold"], steps) != arrays[f"{key}/out_trigger"][b]:
            wrong.append(f"{key}[{b}]")
    yield count("G2 detect out_trigger", wrong, len(cases))


def predicates(cases: dict[str, list[dict]]) -> Rows:
    """Truth tables of the scheduling rules."""
    masks = cases["prefix_len_from_mask"]
    ours = [[verify.leading_run(np.asarray(row, bool)) for row in case["mask"]] for case in masks]
    wrong = [str(case) for case, lengths in zip(masks, ours, strict=True) if lengths != case["out"]]
    yield count("G2 prefix_len_from_mask", wrong, len(masks))

    table = cases["should_schedule_full_fallback"]
    wrong = [str(case) for case in table if _schedules(case) != case["out"]]
    yield count("G2 should_schedule_full_fallback", wrong, len(table))

    table = cases["should_run_full_pipeline_round"]
    wrong = [str(case) for case in table if _runs_full(case) != case["out"]]
    yield count("G2 should_run_full_pipeline_round", wrong, len(table))

    table = cases["full_round_accepted_prefix_len"]
    wrong = [str(c) for c in table if verify.window(c["max_exec_steps"], c["action_horizon"]) != c["out"]]
    yield count("G2 full_round_accepted_prefix_len", wrong, len(table))


def _schedules(case: dict) -> bool:
    """Upstream asks for a whole batch: any row schedules."""
    settings = FlashSettings(full_fallback=case["full_fallback"])
    cuts = case["gripper_switch_cut_mask"] or [False] * len(case["accepted_prefix_len"])
    empty = np.zeros((0, 7), np.float32)
    verdicts = [Verdict(empty, n, 0.0, False, cut) for n, cut in zip(case["accepted_prefix_len"], cuts, strict=True)]
    return any(schedule.fallback(verdict, settings) is not None for verdict in verdicts)


def _runs_full(case: dict) -> bool:
    names = ("full_fallback", "force_full_each_round", "periodic_full_every_n_draft_rounds")
    state = SessionState(
        snapshot="ready" if case["cache_ready"] else None,
        pending="zero_accept" if case["pending_full_fallback"] else None,
        rounds_since_full=case["draft_rounds_since_full"],
    )
    return schedule.full_cause(state, FlashSettings(**{name: case[name] for name in names})) is not None
