"""G5: the verification pass against a stale cache, the whole rule on its output, and whole sessions on real weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from conformance.golden import Arrays, Golden, arrays_of, golden_cache, model_inputs, read_json, read_npz
from conformance.rows import Parts, Rows, close, count
from conformance.sessions import equal

from flashtrail.policies.pi0 import expert, verify
from flashtrail.policies.pi0.engine import Engine
from flashtrail.policies.pi0.policy import policy_timing
from flashtrail.policies.pi0.settings import FlashSettings

X0_HAT, DISTANCE, V_JAX, DRAFT, ACTIONS = 1e-4, 1e-5, 5e-4, 1e-5, 5e-5
# Values of a whole session pass through the model, so they carry its float32 error; everything else is exact.
FROM_MODEL = {"radius_dist": 1e-5, "last_gripper": 5e-5}
NOT_OURS = ("verify_mode", "random_accept_prob", "random_seed", "draft_history_len", "full_num_steps", "chunk_m")


def parts(golden: Golden) -> Parts:
    folder = golden.root / "G5_verify"
    cases, arrays = read_json(folder / "cases.json"), read_npz(folder / "cases.npz")
    for key, case in cases.items():
        name, own = f"G5 {key}", arrays_of(arrays, f"{key}/")
        yield name, one_pass(golden, case, own, name)
        yield f"{name} semantics", semantics(case, own, f"{name} semantics")
    rounds, arrays = read_json(folder / "e2e.json"), read_npz(folder / "e2e.npz")
    for number, trace in enumerate(rounds):
        yield f"G5 e2e{number}", whole_session(golden, trace, arrays_of(arrays, f"trace{number}/"), number)


def one_pass(golden: Golden, case: dict, arrays: Arrays, name: str) -> Rows:
    """x_t, v and x0_hat from the reference's own cache of an earlier observation and the current state."""
    run, noise, draft = golden.runtime, arrays["noise"], arrays["x0_draft"]
    cache = golden_cache(golden.observations[case["prev_obs"]])
    placed = run.place(model_inputs(golden.observations[case["cur_obs"]]))
    settings = FlashSettings(t_list=tuple(case["t_list"]))
    x0_hat = run.verify(cache, placed, draft, noise, settings)
    yield close(f"{name} out_x0_hat, JAX", x0_hat, arrays["out_x0_hat"], X0_HAT)
    yield close(f"{name} out_x0_hat, torch", x0_hat, arrays["out_x0_hat_upstream_torch"], X0_HAT)
    w, dims = golden.base
    x_t, t = torch.from_numpy(arrays["x_t"]), torch.from_numpy(arrays["t_list"])
    yield close(f"{name} out_v, JAX", expert.velocity(w, dims, cache, placed.state, x_t, t), arrays["out_v"], V_JAX)
    dist = verify.distances(draft, x0_hat, 7, 12)
    yield close(f"{name} out_dist_upstream_torch", dist, arrays["out_dist_upstream_torch"], DISTANCE)
    proposed = run.draft(run.encode(placed), placed)
    yield close(f"{name} x0_draft", proposed, draft, DRAFT)
    if (clamped := arrays.get("out_x0_hat_timecond_0p10_for_both")) is not None:
        official = FlashSettings(t_list=settings.t_list, official_time_bias=True)
        ours = run.verify(cache, placed, draft, noise, official)
        yield close(f"{name} out_x0_hat_timecond_0p10_for_both", ours, clamped, X0_HAT)


def semantics(case: dict, arrays: Arrays, name: str) -> Rows:
    """The whole rule on the reference's x0_hat, for several tau and last grippers."""
    draft, x0_hat = arrays["x0_draft"], arrays["out_x0_hat_upstream_torch"]
    wrong = []
    for row in case["semantics"]:
        settings = FlashSettings(t_list=tuple(case["t_list"]), tau_radius=row["tau_radius"])
        verdict = verify.judge(draft, x0_hat, row["last_gripper"], settings)
        accepted = verify.radius_prefix(verify.distances(draft, x0_hat, 7, 12), row["tau_radius"])
        ours: dict[str, Any] = {
            "radius_accepted": accepted,
            "accepted_prefix_len": verdict.accepted,
            "radius_dist_mean": verdict.radius,
            "gripper_switch_cut": float(verdict.gripper_cut),
            "gripper_verify_stop": float(verdict.gripper_stop),
            "scheduled_full_fallback_gripper": float(verdict.gripper_cut or verdict.gripper_stop),
        }
        tail = x0_hat.mean(axis=0)
        out = verify.stitch(draft, tail, accepted) if row["output"] == "stitched" else tail
        if np.abs(verdict.chunk - out).max() > 1e-6:
            wrong.append(f"tau {row['tau_radius']} output is not {row['output']}")
        wrong += [
            f"tau {row['tau_radius']} {k}: {ours[k]}, golden {row[k]}" for k in ours if not equal(ours[k], row[k])
        ]
    yield count(name, wrong, len(case["semantics"]))


def whole_session(golden: Golden, trace: dict, arrays: Arrays, number: int) -> Rows:
    """Nine rounds on real weights: routes, flags and counters exactly, arrays to the float32 tolerances."""
    settings = FlashSettings.from_dict({k: v for k, v in trace["settings"].items() if k not in NOT_OURS})
    engine = Engine(golden.runtime, settings)
    session = engine.new_session()
    wrong: list[str] = []
    worst = dict.fromkeys(("out_actions", "out_x0_draft", "out_x0_hat", "out_dist"), 0.0)
    for index, row in enumerate(trace["rounds"]):
        key = f"round{index}"
        inputs = model_inputs(golden.observations[row["obs"]])
        result = engine.infer(session, inputs, arrays[f"{key}/noise"], executed_steps=row["executed_steps"])
        timing = policy_timing(result, settings.enable_gripper_verify)
        state = session.state
        ours: dict[str, Any] = {
            "route": result.route,
            "accepted_prefix_len": result.accepted,
            "last_gripper": result.last_gripper,
            "action_cache_ptr": state.ptr,
            "draft_rounds_since_full": state.rounds_since_full,
            "pending_full_fallback": state.pending is not None,
            "gripper_full_rounds_left": state.full_rounds_left,
        }
        want = {k: row[k] for k in ("route", "accepted_prefix_len")} | row["after"]
        want["last_gripper"] = row["last_gripper_used"]
        timed = {k: v for k, v in row["timing_non_time"].items() if k != "did_prefill"}
        ours, want = ours | {k: timing.get(k) for k in timed}, want | timed
        wrong += [f"round {index} {k}: {ours[k]}, golden {want[k]}" for k in want if not _matches(k, ours[k], want[k])]
        values = {"out_actions": result.chunk}
        if result.draft is not None and result.x0_hat is not None:
            steps = verify.window(settings.max_exec_steps, result.draft.shape[0])
            values["out_x0_draft"] = result.draft[:, :7]
            values["out_x0_hat"] = result.x0_hat
            values["out_dist"] = verify.distances(result.draft, result.x0_hat, settings.dist_dims, steps)
        for what, value in values.items():
            worst[what] = max(worst[what], float(np.abs(value - arrays[f"{key}/{what}"]).max()))
    yield count(f"G5 e2e{number}: state machine", wrong, len(trace["rounds"]))
    for (what, error), atol in zip(worst.items(), (ACTIONS, DRAFT, X0_HAT, DISTANCE), strict=True):
        yield close(f"G5 e2e{number}: {what}", error, 0.0, atol)


def _matches(key: str, ours: Any, golden: Any) -> bool:
    if key in FROM_MODEL and golden is not None:
        return ours is not None and abs(ours - golden) <= FROM_MODEL[key]
    return equal(ours, golden)
