"""Compares an artifact with its source, stage by stage, on fixed inputs: the gate between conversion and any result.

The source runs in `reference` (an Orbax tree, in JAX, padded and masked) or `reference_torch` (safetensors, by its own
names), the artifact in the engine's stage functions (PyTorch), and what a round answers with in the arrangement of them
that serves. Both chain their own values from stage to stage, so the first stage over its tolerance is where they part;
only the velocity of each denoising step is taken at the source's own points, since a trained flow drives close points
apart. Tolerances and reasons: docs/precision.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, facts, layouts, reference, reference_torch
from flashtrail.policies.pi0 import expert, prefix, transforms, verify, vision, weights
from flashtrail.policies.pi0.dims import DraftDims
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.stages import Stages, choose

SEED = 20_240_229
PROMPT_TOKENS = 11
VERIFY_TIMES = (0.10, 0.05)
SOURCE_ROOM = 2.2  # peak memory over the source's own size in float32: Orbax decodes beside what it has read


@dataclass(frozen=True)
class Tolerance:
    """Bounds on a stage's error: `peak` = max |a-b| / max |b|, `mean` = mean |a-b| / standard deviation of b."""

    peak: float
    mean: float
    deepens: bool = False  # both bounds grow with the root of the layer's number

    def at(self, stage: str) -> Tolerance:
        """The bounds of one stage."""
        layer = int(stage.rpartition("layer_")[2]) if self.deepens else 0
        return Tolerance(self.peak * (1 + layer) ** 0.5, self.mean * (1 + layer) ** 0.5)


Bounds = Mapping[str, Tolerance]  # by a stage's first word; "default" for the rest
EXACT: Bounds = {
    "vision": Tolerance(5e-6, 2e-6, deepens=True),
    "actions": Tolerance(2e-3, 5e-5),
    "verify": Tolerance(2e-4, 5e-5),
    "decisions": Tolerance(0.0, 0.0),
    "default": Tolerance(5e-5, 1e-5),
}
ROUNDING: Bounds = {
    "actions": Tolerance(1.0, 0.04),
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


def source_values(
    source_dir: str | Path, inputs: Inputs, rounded_to: str = "float32", points: np.ndarray | None = None
) -> Values:
    """Run the source model; return stage name -> values, in the order of computation, valid prefix rows only.

    `points`: where each step's velocity is taken (see `euler_points`); by default at the run's own points.
    """
    model: Any = reference_torch if artifact.is_torch(Path(source_dir)) else reference
    source = model.load_source(source_dir, rounded_to)
    hidden: list[list[Any]] = [[] for _ in inputs.views]
    views = [model.encode_view(source, image, h) for image, h in zip(inputs.views, hidden, strict=True)]
    after: list[Any] = []
    pre = model.prefill(source, views, inputs.token_ids, after)
    valid = pre.valid
    out: Values = {}
    for i, rows in enumerate(zip(*hidden, strict=True)):
        out[_vision_stage(i)] = np.concatenate([np.asarray(x) for x in rows])
    out["projector"] = np.concatenate([np.asarray(v) for v in views])
    out["embedding_table"] = _every_row(model.embedding_table(source))
    out["language"] = np.asarray(pre.embeddings)[valid][-len(inputs.token_ids) :]
    for layer in range(pre.keys.shape[0]):
        out[f"prefix_k/layer_{layer}"] = np.asarray(pre.keys[layer])[valid]
        out[f"prefix_v/layer_{layer}"] = np.asarray(pre.values[layer])[valid]
        if layer + 1 < pre.keys.shape[0]:  # the last layer's rows are never read
            out[f"prefix/layer_{layer}"] = np.asarray(after[layer])[valid]
    layers: list[Any] = []
    model.velocity(source, pre, inputs.state, inputs.noise, 1.0, layers)
    out |= {_expert_stage(i): np.asarray(x) for i, x in enumerate(layers)}
    velocities, steps = reference.denoise(source, pre, inputs.state, inputs.noise, model.velocity)
    if points is not None:
        times = (float(np.float32(1 - i / len(points))) for i in range(len(points)))
        velocities = [model.velocity(source, pre, inputs.state, x, t) for x, t in zip(points, times, strict=True)]
    out |= {f"denoise/velocity_{i}": np.asarray(v) for i, v in enumerate(velocities)}
    out["actions"] = np.asarray(steps[-1])
    if source.draft is not None:
        out["draft"] = np.asarray(reference.draft(source, pre, inputs.state))
        for t in VERIFY_TIMES:
            v, x0_hat = reference.verify(source, pre, inputs.state, out["draft"], inputs.noise, t, model.velocity)
            out[f"verify/velocity_t{t:.2f}"] = np.asarray(v)
            out[f"verify/x0_hat_t{t:.2f}"] = np.asarray(x0_hat)
    return out


def euler_points(values: Values, noise: np.ndarray) -> np.ndarray:
    """Where each step's velocity was taken in a run that chose its own points: x of every step [n, 50, 32]."""
    velocities = [v for name, v in values.items() if name.startswith("denoise/")]
    points = [noise]
    for v in velocities[:-1]:
        points.append(points[-1] - np.float32(1 / len(velocities)) * v)
    return np.stack(points)


@torch.inference_mode()
def artifact_values(
    base_dir: str | Path,
    draft_dir: str | Path | None,
    inputs: Inputs,
    points: np.ndarray | None = None,
) -> Values:
    """Run the artifact through the engine's stages in float32 on the CPU; names, order, points as `source_values`."""
    w, dims, _ = weights.load_base(base_dir, "cpu", "float32")
    views, state = torch.from_numpy(inputs.views)[None], torch.from_numpy(inputs.state)[None]
    noise = torch.from_numpy(inputs.noise)[None]
    with _Watch(F.layer_norm) as norms:  # the residual stream enters each layer by its first norm
        images = vision.encode_images(w, dims, views)
    out: Values = {_vision_stage(i): x.flatten(0, 1).numpy() for i, x in enumerate(norms.inputs[::2])}
    ids = torch.from_numpy(inputs.token_ids)[None]
    prompt = prefix.embed_prompt(w, ids)
    embeddings = torch.cat([images, prompt], dim=1)
    valid = torch.ones(embeddings.shape[:2], dtype=torch.bool)
    with _layers_of(prefix) as rows:
        cache = prefix.prefill(w, dims, embeddings, valid)
    table = _every_row(w["embed.weight"].numpy())
    out |= {"projector": images[0].numpy(), "embedding_table": table, "language": prompt[0].numpy()}
    for layer in range(cache.k.shape[0]):
        out[f"prefix_k/layer_{layer}"] = cache.k[layer, 0].numpy()
        out[f"prefix_v/layer_{layer}"] = cache.v[layer, 0].numpy()
        if layer + 1 < len(rows):
            out[f"prefix/layer_{layer}"] = rows[layer + 1][0].numpy()
    with _layers_of(expert) as rows:
        expert.velocity(w, dims, cache, state, noise, torch.ones(1))
    out |= {_expert_stage(i): x[0].numpy() for i, x in enumerate(rows)}
    x = noise
    for i, t in enumerate(expert.euler_times(dims.num_steps)):
        x = x if points is None else torch.from_numpy(points[i])[None]
        v = expert.velocity(w, dims, cache, state, x, torch.tensor([float(t)]))
        x = x - v / dims.num_steps
        out[f"denoise/velocity_{i}"] = v[0].numpy()
    wd: dict[str, torch.Tensor] = {}
    ddims: DraftDims | None = None
    if draft_dir is not None:
        wd, ddims, _ = weights.load_draft(draft_dir, "cpu", "float32")
    # What a round answers with comes from the stages that serve, from pixels to actions.
    serving = choose(w, w, dims, wd, ddims)
    embeddings = torch.cat([serving.encode_images(views), serving.embed_prompt(ids)], dim=1)
    cache = serving.prefill(embeddings, None)
    out["actions"] = serving.denoise(cache, state, noise)[0].numpy()
    if ddims is not None:
        chunk = serving.draft(embeddings, None, state)
        out["draft"] = chunk[0].numpy()
        out |= _artifact_verify(serving, cache, state, noise, chunk)
    return out


def _artifact_verify(serving: Stages, cache: Any, state: Any, noise: Any, chunk: Any) -> Values:
    """Velocity and x0_hat of both verification times in one batched pass, as a draft round computes them."""
    times = torch.tensor(VERIFY_TIMES)
    x0 = torch.zeros_like(noise)
    x0[..., : chunk.shape[-1]] = chunk
    mix = times[:, None, None]
    x_t = mix * noise + (1 - mix) * x0
    v = serving.velocity(cache, state, x_t, times)
    out = {f"verify/velocity_t{t:.2f}": v[i].numpy() for i, t in enumerate(VERIFY_TIMES)}
    return out | {f"verify/x0_hat_t{t:.2f}": (x_t - mix * v)[i].numpy() for i, t in enumerate(VERIFY_TIMES)}


def _every_row(table: np.ndarray) -> np.ndarray:
    """Each row of the embedding (V, W) times one fixed vector: the prompt looks up eleven of them only."""
    probe = np.random.Generator(np.random.Philox(np.random.SeedSequence(SEED))).standard_normal(table.shape[1])
    return np.asarray(table @ probe.astype(np.float32))


def _vision_stage(index: int) -> str:
    return f"vision/layer_{index - 1}" if index else "patches"


def _expert_stage(index: int) -> str:
    return f"expert/layer_{index - 1}" if index else "suffix"


class _Watch(TorchFunctionMode):
    """Keeps the first argument of every call of one torch function: the stage functions run as they are."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.inputs = function, []

    inputs: list[torch.Tensor]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.function:
            self.inputs.append(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def _layers_of(module: Any) -> Iterator[list[torch.Tensor]]:
    """Collect a Gemma stage's tokens and each layer's rows: what its first norm is given, what each MLP returns."""
    rows: list[torch.Tensor] = []
    norm, mlp = module.rms_norm, module.mlp

    def watched_norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if not rows:
            rows.append(x)
        return norm(x, scale)  # type: ignore[no-any-return]

    def watched_mlp(*args: Any) -> torch.Tensor:
        rows.append(mlp(*args))
        return rows[-1]

    module.rms_norm, module.mlp = watched_norm, watched_mlp
    try:
        yield rows
    finally:
        module.rms_norm, module.mlp = norm, mlp


# --- decisions ---


@dataclass(frozen=True)
class Case:
    """One judgement: the gate's settings, and where the gripper was."""

    settings: FlashSettings
    last_gripper: float


def decision_cases(source: Values) -> list[Case]:
    """Cases that between them accept every prefix the source's distances allow, with and without a gripper switch.

    Radii and thresholds lie halfway between values of the source, so that no rounding decides; where two values are
    closer than a thousandth of their size, there is no case between them.
    """
    steps, hats = FlashSettings().max_exec_steps, _x0_hats(source)
    gaps = np.sqrt(np.mean((hats[:, :steps, :6] - source["draft"][None, :steps, :6]) ** 2, axis=-1)).max(axis=0)
    radii = [0.5 * gaps[0], *_between(np.maximum.accumulate(gaps)), 2 * gaps.max()]
    estimates, own = _between(hats[:, :steps, 6].ravel()), _between(source["draft"][:steps, 6])
    never = float(min(hats[:, :steps, 6].min(), source["draft"][:steps, 6].min()) - 1)
    thresholds = [never, *estimates[:: max(1, len(estimates) // 3)], *own[:: max(1, len(own) // 3)]]
    return [
        Case(
            FlashSettings(tau_radius=float(tau), gripper_switch_threshold=float(threshold), enable_gripper_verify=stop),
            float(threshold + side),
        )
        for tau in radii
        for threshold in thresholds
        for side in (1, -1)
        for stop in (True, False)
    ]


def _between(values: np.ndarray) -> list[float]:
    x = np.unique(values)
    wide = np.diff(x) > 1e-3 * np.maximum(np.abs(x[1:]), np.abs(x[:-1]))
    return [float(m) for m in ((x[1:] + x[:-1]) / 2)[wide]]


def _x0_hats(values: Values) -> np.ndarray:
    return np.stack([values[f"verify/x0_hat_t{t:.2f}"] for t in VERIFY_TIMES])


def source_decisions(values: Values, cases: list[Case]) -> np.ndarray:
    """The reference's judgements (cases, 3): accepted steps, gripper stop, gripper cut."""
    chunk, hats, rows = values["draft"], _x0_hats(values), []
    for case in cases:
        given = case.settings
        bounds = (given.tau_radius, given.gripper_switch_threshold, given.enable_gripper_verify)
        rows.append(reference.decide(chunk, hats, case.last_gripper, *bounds))
    return np.array(rows, np.float32)


def our_decisions(values: Values, cases: list[Case]) -> np.ndarray:
    """The engine's judgements of the same cases, on its own draft and estimates."""
    hats, rows = _x0_hats(values), []
    chunk = np.zeros_like(hats[0])
    chunk[:, : values["draft"].shape[-1]] = values["draft"]
    for case in cases:
        verdict = verify.judge(chunk, hats, case.last_gripper, case.settings)
        rows.append((verdict.accepted, verdict.gripper_stop, verdict.gripper_cut))
    return np.array(rows, np.float32)


def compare(source: Values, ours: Values, tolerances: Bounds) -> list[dict[str, Any]]:
    """Return one row a stage, in order: both errors, both bounds, `passed`. Values that are not finite fail."""
    rows = []
    for name, expected in source.items():
        found = ours.get(name)
        bound = tolerances.get(name.split("/")[0], tolerances["default"]).at(name)
        limits = {"peak": bound.peak, "mean": bound.mean}
        row: dict[str, Any] = {"stage": name, "tolerance": limits, "shape": list(expected.shape)}
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
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Compare source and artifact; write the report (if a path is given) and return it.

    The source's parameters are first rounded to the artifact's dtype, so that `EXACT` need only cover the order
    of float32 sums. For another dtype than float32, rows named ``rounding/...`` then compare with the unrounded
    source, by `ROUNDING`. Raises UserError, after writing, naming the first stage that diverges.
    """
    source_dir = Path(source_dir)
    manifest = artifact.verify_artifact(artifact_base)
    draft_manifest = None if artifact_draft is None else artifact.verify_artifact(artifact_draft)
    if draft_manifest is not None and not (source_dir / "draft.pt").is_file():
        raise UserError(f"{source_dir} has no draft.pt to compare {artifact_draft} with: fetch the policy's draft too")
    if not artifact.is_torch(source_dir) and not (source_dir / "params/_METADATA").is_file():
        raise UserError(f"{source_dir}/params has no _METADATA, by which Orbax restores a tree: fetch the source again")
    _check_room(manifest["dims"])
    dtype, inputs = manifest["dtype"], fixed_inputs(manifest["dims"])
    expected = _wanted(source_values(source_dir, inputs, dtype), draft_manifest)
    points = euler_points(expected, inputs.noise)
    ours = artifact_values(artifact_base, artifact_draft, inputs, points)
    stages = [*_compare_files(source_dir, Path(artifact_base)), _compare_transforms(source_dir, manifest)]
    if draft_manifest is not None:
        cases = decision_cases(expected)
        expected["decisions"] = source_decisions(expected, cases)
        ours["decisions"] = our_decisions(ours, cases)
    stages += compare(expected, ours, EXACT)
    if dtype != "float32":
        unrounded = source_values(source_dir, inputs, points=points)
        rows = compare(_wanted(unrounded, draft_manifest), ours, ROUNDING)
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


def _check_room(dims: Mapping[str, Any]) -> None:
    """Raise UserError where the source cannot be restored: better at once than killed by the system in the middle."""
    numbers = sum(math.prod(shape) for shape in layouts.base_shapes(dims).values())
    need, there = SOURCE_ROOM * 4 * numbers, total_memory()
    if there is not None and need > there:
        raise UserError(
            f"comparing {numbers / 1e9:.2f} billion weights with their source takes about {need / 1e9:.0f} GB of "
            f"memory, this machine has {there / 1e9:.0f} GB: run it where there is as much (results/ may be copied)"
        )


def total_memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


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
    stats, tokenizer = base / artifact.NORM_STATS, source / artifact.TOKENIZER
    theirs = reference_torch.statistics(source) if artifact.is_torch(source) else None
    if theirs is None:
        same = artifact.find_norm_stats(source, facts.of_source(source).get("asset")).read_bytes() == stats.read_bytes()
    else:
        same = _same_normalisation(theirs, stats)
    alike = tokenizer.is_file() and tokenizer.read_bytes() == (base / artifact.TOKENIZER).read_bytes()
    found = {"norm_stats": same, "tokenizer": alike}
    return [{"stage": n, "passed": ok, "note": "identical" if ok else "not the source's"} for n, ok in found.items()]


def _same_normalisation(theirs: Mapping[str, np.ndarray], stats: Path) -> bool:
    """Whether the artifact's statistics, by the engine's formula, do to numbers what LeRobot's do by LeRobot's."""
    x = np.linspace(-3, 3, 8)
    state, actions = transforms.read_norm_stats(stats, 8, 7, len(theirs["state.mean"]))
    mean, std = (theirs[f"state.{part}"][:8] for part in ("mean", "std"))
    ours, wanted = state.normalize(mean + x * std), (x * std) / (std + reference_torch.LEROBOT_EPS)
    raw = x[:7] * theirs["actions.std"][:7] + theirs["actions.mean"][:7]
    return np.allclose(ours, wanted, rtol=1e-9) and np.allclose(actions.unnormalize(x[:7])[:7], raw, rtol=1e-9)


def _compare_transforms(source: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A row for what no stage computes with: horizon, delta actions, views, prompt length."""
    described = facts.of_source(source)
    keys = ("action_horizon", "delta_actions", "num_views", "num_steps", "max_token_len")
    theirs = {key: described[key] for key in keys}
    ours = {key: manifest["transforms" if key == "delta_actions" else "dims"].get(key) for key in keys}
    differing = [f"{key} {ours[key]}, the source says {theirs[key]}" for key in keys if ours[key] != theirs[key]]
    return {"stage": "transforms", "passed": not differing, "note": "; ".join(differing) or "identical"}
