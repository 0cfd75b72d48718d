"""G1: every stage of the base policy against the JAX reference, and tightly against upstream's float64-time torch.

Tolerances are those of the golden README (float32).
"""

from __future__ import annotations

import numpy as np
import torch
from conformance.golden import VIEWS, Arrays, Golden, arrays_of, load_base, model_inputs, prefix_rows, read_npz
from conformance.rows import Parts, Rows, close, count, same

from flashtrail.policies.pi0 import expert, prefix, transforms, vision
from flashtrail.policies.pi0.gemma import positions_of
from flashtrail.policies.pi0.prefix import PrefixCache

EMBEDDING, KEYS, VALUES, V_TIGHT, V_JAX = 1e-5, 2e-4, 1e-5, 1.5e-5, 5e-4
ACTIONS_TIGHT, ACTIONS_JAX, ENV_ACTIONS, TIME_JAX = 5e-5, 5e-4, 5e-4, 3e-4
TIMES = 2e-7  # JAX accumulates them in float32


def parts(golden: Golden) -> Parts:
    folder = golden.root / "G1_pi0_jax"
    yield "G1 checkpoint_value_suffix", same_leaves(golden)
    yield "G1 time_embedding", time_embedding(read_npz(folder / "time_embedding.npz"))
    torch_values = read_npz(folder / "upstream_torch.npz")
    for i, obs in enumerate(golden.observations):
        tight = arrays_of(torch_values, f"obs{i}/")
        for part in (inputs, images_and_prompt, prefix_transformer, velocities, actions):
            yield f"G1 obs{i} {part.__name__}", part(golden, obs, tight, f"G1 obs{i}")


def same_leaves(golden: Golden) -> Rows:
    """Both leaf conventions of openpi give the same weights."""
    ours = golden.base[0]
    other, _ = load_base(golden.root / "G1_pi0_jax/checkpoint_value_suffix")
    differ = [name for name in sorted(set(ours) | set(other)) if not torch.equal(ours[name], other[name])]
    yield count("G1 checkpoint and checkpoint_value_suffix identical", differ, len(ours))


def time_embedding(arrays: Arrays) -> Rows:
    t = torch.from_numpy(arrays["t"])
    for name, atol in (
        ("emb_expert_width_torch_f64", 1e-9),
        ("emb_expert_width_jax_f32", TIME_JAX),
        ("emb_1024_jax_f32", TIME_JAX),
    ):
        ours = expert.time_embedding(t, arrays[name].shape[1])
        yield close(f"G1 time_embedding {name}", ours, arrays[name], atol)


def inputs(golden: Golden, obs: Arrays, tight: Arrays, name: str) -> Rows:
    """Observation transforms: masked view left out, state z-scored and padded, with either norm_stats."""
    dims = golden.base[1]
    for folder, key in (("checkpoint", "state_normalized"), ("norm_stats_padded32", "state_normalized_padded32_stats")):
        chain: list[transforms.Transform] = [
            transforms.PickViews(dims.num_views, dims.state_dim),
            transforms.NormalizeState(golden.stats(folder)[0]),
            transforms.ResizeWithPad(dims.vision.image_size),
            transforms.ScaleImages(dims.vision.image_size),
            transforms.PadState(dims.action_dim),
        ]
        views = {key: obs[f"image_{view}"] for key, view in zip(transforms.IMAGE_KEYS, VIEWS, strict=True)}
        data = transforms.apply(chain, views | {"observation/state": obs["state_raw"], "prompt": ""})
        yield close(f"{name} {key}", data["state"], obs[key], 1e-6)
    yield close(f"{name} images in [-1, 1]", data["images"], model_inputs(obs).images, 1e-7)


def images_and_prompt(golden: Golden, obs: Arrays, tight: Arrays, name: str) -> Rows:
    w, dims = golden.base
    images = torch.from_numpy(model_inputs(obs).images)[None]
    tokens = vision.encode_images(w, dims, images)[0].split(dims.vision.tokens)
    for view, ours in zip(VIEWS, tokens, strict=True):
        yield close(f"{name} out_img_emb_{view}", ours, obs[f"out_img_emb_{view}"], EMBEDDING)
    language = prefix.embed_prompt(w, torch.from_numpy(obs["token_ids"]).long()[None])[0]
    yield close(f"{name} out_lang_emb", language, obs["out_lang_emb"], EMBEDDING)
    run = golden.base_runtime
    packed = run.encode(run.place(model_inputs(obs))).rows[0]
    yield close(f"{name} out_prefix_emb, packed", packed, obs["out_prefix_emb"][prefix_rows(obs)], EMBEDDING)


def prefix_transformer(golden: Golden, obs: Arrays, tight: Arrays, name: str) -> Rows:
    """K and V with masked slots dropped, and with them kept and masked."""
    w, dims = golden.base
    rows = prefix_rows(obs)
    valid = torch.from_numpy(rows)[None]
    positions = positions_of(valid, 1, rows.size, valid.device)[0].numpy()
    yield same(f"{name} out_prefix_positions", positions[rows].tolist(), obs["out_prefix_positions"][rows].tolist())
    for form, cache in (("packed", packed_cache(golden, obs)), ("masked", masked_cache(golden, obs))):
        keep = slice(None) if form == "packed" else torch.from_numpy(rows)
        yield close(f"{name} out_prefix_k, {form}", cache.k[:, 0, keep, 0], obs["out_prefix_k"][:, rows], KEYS)
        yield close(f"{name} out_prefix_v, {form}", cache.v[:, 0, keep, 0], obs["out_prefix_v"][:, rows], VALUES)
    plain = prefix.prefill(w, dims, torch.from_numpy(obs["out_prefix_emb"][rows])[None], None)
    yield close(
        f"{name} out_prefix_v from golden embeddings", plain.v[:, 0, :, 0], obs["out_prefix_v"][:, rows], VALUES
    )


def packed_cache(golden: Golden, obs: Arrays) -> PrefixCache:
    run = golden.base_runtime
    return run.prefill(run.encode(run.place(model_inputs(obs))))


def masked_cache(golden: Golden, obs: Arrays) -> PrefixCache:
    w, dims = golden.base
    emb = torch.from_numpy(obs["out_prefix_emb"])[None]
    return prefix.prefill(w, dims, emb, torch.from_numpy(prefix_rows(obs))[None])


def velocities(golden: Golden, obs: Arrays, tight: Arrays, name: str) -> Rows:
    w, dims = golden.base
    t = torch.from_numpy(obs["v_times"])
    state, noise = (torch.from_numpy(obs[k])[None] for k in ("state_normalized", "noise"))
    x_t = noise.repeat(len(t), 1, 1)
    cache = packed_cache(golden, obs)
    suffix = expert.prepare_suffix(w, dims, cache, state, len(t))
    tokens = torch.cat((suffix.state_token, expert.embed_actions(w, x_t, expert.time_bias(w, t))), dim=1)
    yield close(f"{name} out_suffix_emb_at_noise", tokens, obs["out_suffix_emb_at_noise"], V_JAX)
    for form, prefix_cache in (("packed", cache), ("masked", masked_cache(golden, obs))):
        v = expert.velocity(w, dims, prefix_cache, state, x_t, t)
        yield close(f"{name} out_v_at_noise, {form}, JAX", v, obs["out_v_at_noise"], V_JAX)
        yield close(f"{name} out_v_at_noise, {form}, torch", v, tight["out_v_at_noise"], V_TIGHT)


def actions(golden: Golden, obs: Arrays, tight: Arrays, name: str) -> Rows:
    """Each Euler step from the reference's own x, the whole loop, and the way to robot units."""
    w, dims = golden.base
    yield close(f"{name} euler_times", expert.euler_times(dims.num_steps), obs["euler_times"], TIMES)
    cache = packed_cache(golden, obs)
    state = torch.from_numpy(obs["state_normalized"])[None]
    before = torch.from_numpy(np.concatenate((obs["noise"][None], obs["out_euler_x"][:-1])))
    v = expert.velocity(w, dims, cache, state, before, torch.from_numpy(obs["euler_times"]))
    yield close(f"{name} out_euler_v, step by step", v, obs["out_euler_v"], V_JAX)
    yield close(f"{name} out_euler_x, step by step", before - v / dims.num_steps, obs["out_euler_x"], V_JAX)
    run = golden.base_runtime
    chunk = run.denoise(cache, run.place(model_inputs(obs)), obs["noise"])
    yield close(f"{name} out_actions_normalized, JAX", chunk, obs["out_actions_normalized"], ACTIONS_JAX)
    yield close(f"{name} out_actions_normalized, torch", chunk, tight["out_actions_normalized"], ACTIONS_TIGHT)
    for folder, key in (("checkpoint", "out_actions_env"), ("norm_stats_padded32", "out_actions_env_padded32_stats")):
        chain: list[transforms.Transform] = [
            transforms.UnnormalizeActions(golden.stats(folder)[1], dims.env_action_dim),
            transforms.AbsoluteActions(),
        ]
        for source, what, atol in (
            (chunk, key, ENV_ACTIONS),
            (obs["out_actions_normalized"], f"{key}, transform", 1e-6),
        ):
            env = transforms.apply(chain, {"actions": source, "raw_state": obs["state_raw"]})["actions"]
            yield close(f"{name} {what}", env, obs[key], atol)
