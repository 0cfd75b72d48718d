"""Compares an artifact with its source, stage by stage, on fixed inputs: the gate between conversion and any result.

The source runs in `reference` (JAX, its own layout, padded and masked), the artifact in the engine's stage functions
(PyTorch, packed). Both chain their own values from stage to stage, so the first stage over its tolerance is where
they part. Tolerances and their reasons: docs/precision.md. Knows no simulator and no server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashtrail import provenance
from flashtrail.checkpoints import artifact, reference
from flashtrail.errors import UserError
from flashtrail.flash import draft as flash_draft
from flashtrail.flash import expert, prefix, vision, weights

SEED = 20_240_229
PROMPT_TOKENS = 11
VERIFY_TIMES = (0.10, 0.05)


@dataclass(frozen=True)
class Tolerance:
    """Bounds on a stage's error: `peak` = max |a-b| / max |b|, `mean` = mean |a-b| / standard deviation of b."""

    peak: float
    mean: float


Bounds = Mapping[str, Tolerance]  # by a stage's first word; "default" for the rest
EXACT: Bounds = {
    "denoise": Tolerance(2e-4, 5e-5),
    "actions": Tolerance(2e-4, 5e-5),
    "verify": Tolerance(2e-4, 5e-5),
    "default": Tolerance(5e-5, 1e-5),
}
ROUNDING: Bounds = {
    "denoise": Tolerance(0.06, 0.04),
    "actions": Tolerance(0.06, 0.04),
    "verify": Tolerance(0.06, 0.04),
    "default": Tolerance(0.03, 0.02),
}
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """The fixed inputs: float views (V, 224, 224, 3) in [-1, 1], prompt ids (P,), state (32,), noise (50, 32)."""

    views: np.ndarray
    token_ids: np.ndarray
    state: np.ndarray
    noise: np.ndarray


def fixed_inputs(dims: Mapping[str, Any], seed: int = SEED) -> Inputs:
    """Return pseudo-random inputs for a model's dims; the same for every run and machine (counter-based)."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    side, state = dims["vision"]["image_size"], np.zeros(dims["action_dim"], np.float32)
    pixels = rng.integers(0, 256, (dims["num_views"], side, side, 3))
    coarse = rng.integers(0, 256, (dims["num_views"], 7, 7, 3)).repeat(side // 7, 1).repeat(side // 7, 2)
    views = (0.25 * pixels + 0.75 * coarse) / 255 * 2 - 1
    ids = np.concatenate([[2], rng.integers(3, dims["vocab_size"], PROMPT_TOKENS - 1)])
    state[: dims["state_dim"]] = rng.standard_normal(dims["state_dim"])
    noise = rng.standard_normal((dims["action_horizon"], dims["action_dim"]))
    return Inputs(views.astype(np.float32), ids, state, noise.astype(np.float32))


def source_values(source_dir: str | Path, inputs: Inputs, rounded_to: str = "float32") -> Values:
    """Run the source model; return stage name -> values, in the order of computation, valid prefix rows only."""
    source = reference.load_source(source_dir, rounded_to)
    views = [reference.encode_view(source, image) for image in inputs.views]
    pre = reference.prefill(source, views, inputs.token_ids)
    valid = pre.valid
    out: Values = {"vision": np.concatenate([np.asarray(v) for v in views])}
    out["language"] = np.asarray(pre.embeddings)[valid][-len(inputs.token_ids) :]
    for layer in range(pre.keys.shape[0]):
        out[f"prefix_k/layer_{layer}"] = np.asarray(pre.keys[layer])[valid]
        out[f"prefix_v/layer_{layer}"] = np.asarray(pre.values[layer])[valid]
    velocities, steps = reference.denoise(source, pre, inputs.state, inputs.noise)
    out |= {f"denoise/velocity_{i}": np.asarray(v) for i, v in enumerate(velocities)}
    out["actions"] = np.asarray(steps[-1])
    if source.draft is not None:
        out["draft"] = np.asarray(reference.draft(source, pre, inputs.state))
        for t in VERIFY_TIMES:
            v, x0_hat = reference.verify(source, pre, inputs.state, out["draft"], inputs.noise, t)
            out[f"verify/velocity_t{t:.2f}"] = np.asarray(v)
            out[f"verify/x0_hat_t{t:.2f}"] = np.asarray(x0_hat)
    return out


@torch.inference_mode()
def artifact_values(base_dir: str | Path, draft_dir: str | Path | None, inputs: Inputs) -> Values:
    """Run the artifact through the engine's stages in float32 on the CPU; same names and order as `source_values`."""
    w, dims, _ = weights.load_base(base_dir, "cpu", "float32")
    views, state = torch.from_numpy(inputs.views)[None], torch.from_numpy(inputs.state)[None]
    noise = torch.from_numpy(inputs.noise)[None]
    images = vision.encode_images(w, dims, views)
    words = prefix.embed_prompt(w, torch.from_numpy(inputs.token_ids)[None])
    embeddings = torch.cat([images, words], dim=1)
    valid = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    cache = prefix.prefill(w, dims, embeddings, valid)
    out: Values = {"vision": images[0].numpy(), "language": words[0].numpy()}
    for layer in range(cache.k.shape[0]):
        out[f"prefix_k/layer_{layer}"] = cache.k[layer, 0].numpy()
        out[f"prefix_v/layer_{layer}"] = cache.v[layer, 0].numpy()
    x = noise
    for i, t in enumerate(expert.euler_times(dims.num_steps)):
        v = expert.velocity(w, dims, cache, state, x, torch.tensor([float(t)]))
        x = x - v / dims.num_steps
        out[f"denoise/velocity_{i}"] = v[0].numpy()
    out["actions"] = expert.denoise(w, dims, cache, state, noise, dims.num_steps)[0].numpy()
    if draft_dir is not None:
        wd, ddims, _ = weights.load_draft(draft_dir, "cpu", "float32")
        chunk = flash_draft.draft(wd, ddims, embeddings, valid, state)
        out["draft"] = chunk[0].numpy()
        out |= _artifact_verify(w, dims, cache, state, noise, chunk)
    return out


def _artifact_verify(w: Any, dims: Any, cache: Any, state: Any, noise: Any, chunk: Any) -> Values:
    """Velocity and x0_hat of both verification times in one batched pass, as a draft round computes them."""
    times = torch.tensor(VERIFY_TIMES)
    x0 = torch.zeros_like(noise)
    x0[..., : chunk.shape[-1]] = chunk
    mix = times[:, None, None]
    x_t = mix * noise + (1 - mix) * x0
    v = expert.velocity(w, dims, cache, state, x_t, times)
    out = {f"verify/velocity_t{t:.2f}": v[i].numpy() for i, t in enumerate(VERIFY_TIMES)}
    return out | {f"verify/x0_hat_t{t:.2f}": (x_t - mix * v)[i].numpy() for i, t in enumerate(VERIFY_TIMES)}


def compare(source: Values, ours: Values, tolerances: Bounds) -> list[dict[str, Any]]:
    """Return one row a stage, in order: both errors, both bounds, `passed`. Values that are not finite fail."""
    rows = []
    for name, expected in source.items():
        found = ours.get(name)
        bound = tolerances.get(name.split("/")[0], tolerances["default"])
        row: dict[str, Any] = {"stage": name, "tolerance": dataclasses.asdict(bound), "shape": list(expected.shape)}
        if found is None or found.shape != expected.shape:
            missing = "missing" if found is None else f"shape {list(found.shape)}"
            rows.append({**row, "peak": None, "mean": None, "passed": False, "note": missing})
            continue
        gap = np.abs(found.astype(np.float64) - expected)
        peak = float(gap.max() / max(np.abs(expected).max(), 1e-30))
        mean = float(gap.mean() / max(float(expected.std()), 1e-30))
        finite = bool(np.isfinite(peak) and np.isfinite(mean))
        passed = finite and peak <= bound.peak and mean <= bound.mean
        rows.append({**row, "peak": peak if finite else None, "mean": mean if finite else None, "passed": passed})
    return rows


def check_parity(
    source_dir: str | Path,
    artifact_base: str | Path,
    artifact_draft: str | Path | None = None,
    tolerances: Bounds = EXACT,
    rounding: Bounds = ROUNDING,
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Compare source and artifact; write the report (if a path is given) and return it.

    The source's parameters are first rounded to the artifact's dtype, so that `tolerances` need only cover the order
    of float32 sums. For another dtype than float32, rows named ``rounding/...`` then compare with the unrounded
    source, by `rounding`. Raises UserError, after writing, naming the first stage that diverges.
    """
    source_dir = Path(source_dir)
    manifest = artifact.verify_artifact(artifact_base)
    draft_manifest = None if artifact_draft is None else artifact.verify_artifact(artifact_draft)
    dtype, inputs = manifest["dtype"], fixed_inputs(manifest["dims"])
    ours = artifact_values(artifact_base, artifact_draft, inputs)
    stages = _compare_files(source_dir, Path(artifact_base))
    stages += compare(_wanted(source_values(source_dir, inputs, dtype), draft_manifest), ours, tolerances)
    if dtype != "float32":
        rows = compare(_wanted(source_values(source_dir, inputs), draft_manifest), ours, rounding)
        stages += [{**row, "stage": "rounding/" + row["stage"]} for row in rows]
    first = next((row for row in stages if not row["passed"]), None)
    result = {
        "version": 1,
        "passed": first is None,
        "first_divergence": first["stage"] if first else None,
        "dtype": dtype,
        "base": manifest["digest"],
        "draft": draft_manifest["digest"] if draft_manifest else None,
        "inputs_seed": SEED,
        "stages": stages,
    }
    if report is not None:
        provenance.json_dump(result, report)
    if first is not None:
        raise UserError(
            f"artifact {artifact_base} differs from its source: the first stage that diverges is {first['stage']} "
            f"({_size(first)}); convert again, and do not use this artifact"
        )
    return result


def _wanted(values: Values, draft: Any) -> Values:
    """Leave out the draft's stages where only a base artifact is compared."""
    return {n: x for n, x in values.items() if draft is not None or n.split("/")[0] not in ("draft", "verify")}


def _size(row: Mapping[str, Any]) -> str:
    if row.get("peak") is None:
        return str(row.get("note", "not finite"))
    bound = row["tolerance"]
    return f"peak {row['peak']:.1e} of {bound['peak']:.0e} allowed, mean {row['mean']:.1e} of {bound['mean']:.0e}"


def _compare_files(source: Path, base: Path) -> list[dict[str, Any]]:
    """Rows for what is copied, not computed: statistics and tokenizer must be the source's, byte for byte."""
    rows = []
    pairs = {
        "norm_stats": next(iter(sorted(source.glob("assets/**/norm_stats.json"))), None),
        "tokenizer": source / artifact.TOKENIZER,
    }
    for name, path in pairs.items():
        copy = base / (artifact.NORM_STATS if name == "norm_stats" else artifact.TOKENIZER)
        same = path is not None and path.is_file() and path.read_bytes() == copy.read_bytes()
        rows.append({"stage": name, "passed": same, "note": "identical" if same else "not the source's"})
    return rows
