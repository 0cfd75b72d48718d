"""The source model's own forward pass, in JAX float32, read straight from the Orbax tree and the draft `.pt`.

Exists to be compared with: it shares no code with the engine, the converter or the leaf reader. Everything stays in
JAX's tensor layout (one einsum a leaf), the prefix is padded to its full length and masked as in training, and the
draft head runs over all its rows. Slow and plain on purpose.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flashtrail.checkpoints import facts

MAX_TOKENS = 48
SLOTS = 3  # training reserves three views; LIBERO fills two
ROPE_BASE = 10_000.0
MASKED = -2.3819763e38
_EPS = 1e-6
Tree = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A source checkpoint in memory: nested parameters, the draft head's tensors, and what shapes cannot tell."""

    params: Tree
    draft: dict[str, Any] | None
    draft_heads: tuple[int, int]  # query heads, key/value heads; (0, 0) without a draft
    stem: Tree | None
    num_steps: int
    lora_scaling: dict[str, float]


@dataclass(frozen=True)
class Prefix:
    """The padded prefix: embeddings (S, W), validity (S,), keys after rotation and values (L, S, Hkv, hd)."""

    embeddings: jax.Array
    valid: np.ndarray
    keys: jax.Array
    values: jax.Array


def load_source(source_dir: str | Path, rounded_to: str = "float32") -> Source:
    """Restore params/ with Orbax (and draft.pt, if there is one) as float32 on the CPU.

    With `rounded_to` "bfloat16" every parameter is rounded to that and back: the model that a bfloat16 artifact must
    equal, computed in float32. UserError for a missing fact of the checkpoint.
    """
    source = Path(source_dir)
    tree = _restore(source / "params")
    extra = facts.of_source(source)
    draft, heads = load_draft(source / "draft.pt")
    scaling = extra.get("lora_scaling", {"prefix": 1.0, "expert": 1.0})
    if rounded_to != "float32":
        number, tree = jnp.dtype(rounded_to), _merged(tree, scaling)
        round_leaves(tree, number)
        round_leaves(draft or {}, number)
    return Source(tree, draft, heads, extra.get("stem"), int(extra["num_steps"]), scaling)


def embedding_table(source: Source) -> np.ndarray:
    """Return the vocabulary's rows (V, W)."""
    return np.asarray(source.params["PaliGemma"]["llm"]["embedder"]["input_embedding"])


def _restore(params_dir: Path) -> Tree:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        stored = checkpointer.metadata(params_dir.resolve())
        stored = getattr(stored, "item_metadata", stored)
        stored = getattr(stored, "tree", stored)
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float32), stored)
        tree = checkpointer.restore(params_dir.resolve(), ocp.args.PyTreeRestore(item=stored, restore_args=plain))
    tree = tree.get("params", tree)
    return _unwrap(tree) if _every_leaf_is_wrapped(tree) else tree


def _every_leaf_is_wrapped(tree: Tree) -> bool:
    if set(tree) == {"value"} and not isinstance(tree["value"], dict):
        return True
    return all(isinstance(child, dict) and _every_leaf_is_wrapped(child) for child in tree.values())


def _unwrap(tree: Tree) -> Any:
    if set(tree) == {"value"} and not isinstance(tree["value"], dict):
        return tree["value"]
    return {name: _unwrap(child) for name, child in tree.items()}


def round_leaves(tree: Tree, number: Any) -> None:
    """Round every leaf, one after the other, so that the tree is in memory once."""
    for name, child in tree.items():
        if isinstance(child, dict):
            round_leaves(child, number)
        else:
            tree[name] = np.asarray(child).astype(number).astype(np.float32)


def _merged(tree: Tree, scaling: dict[str, float]) -> Tree:
    """Fold LoRA factors into their weights, for rounding: what is rounded is the weight that is served."""
    layers = dict(tree["PaliGemma"]["llm"]["layers"])
    equations = {"q_einsum": "lnde,lneh->lndh", "kv_einsum": "lckde,lckeh->lckdh", "attn_vec_einsum": "lnhe,lmed->lnhd"}
    attn = {}
    for name, node in layers["attn"].items():
        if "lora_a" in node:
            equation, stack = equations[name.removesuffix("_1")], "expert" if name.endswith("_1") else "prefix"
            node = {"w": node["w"] + scaling[stack] * np.einsum(equation, node["lora_a"], node["lora_b"])}
        attn[name] = node
    layers["attn"] = attn
    for name in ("mlp", "mlp_1"):
        node = layers[name]
        layers[name] = {
            key: node[key] + node[key + "_lora_a"] @ node[key + "_lora_b"] if key + "_lora_a" in node else node[key]
            for key in ("gating_einsum", "linear")
        }
    gemma = {**tree["PaliGemma"], "llm": {**tree["PaliGemma"]["llm"], "layers": layers}}
    return {**tree, "PaliGemma": gemma}


def load_draft(path: Path) -> tuple[dict[str, Any] | None, tuple[int, int]]:
    if not path.is_file():
        return None, (0, 0)
    import torch

    saved = torch.load(path, map_location="cpu", weights_only=True)
    head = {name: np.asarray(tensor.detach().float()) for name, tensor in saved["draft_head"].items()}
    meta = saved.get("meta", {})
    kv = int(meta.get("draft_num_kv_heads", 1))
    default = head["_gemma_block.self_attn.q_proj.weight"].shape[0] // (
        head["_gemma_block.self_attn.k_proj.weight"].shape[0] // kv
    )
    return head, (int(meta.get("draft_num_heads", default)), kv)


# Compiled once, run a few times: LLVM's passes would take longer than they save.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def exact(function: Any) -> Any:
    """Run a function on the CPU with full float32 products."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.default_device(jax.devices("cpu")[0]), jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


# --- vision ---


@exact
def encode_view(source: Source, image: np.ndarray, hidden: list[jax.Array] | None = None) -> jax.Array:
    """One view (224, 224, 3) in [-1, 1] -> (tokens, W); `hidden` gets the embedded patches and each layer's rows."""
    hidden = [] if hidden is None else hidden
    img = source.params["PaliGemma"]["img"]
    x = _stem(source, image) if source.stem else _patches(img["embedding"], image)
    x = x + jnp.asarray(img["pos_embedding"])[0]
    hidden.append(x)
    blocks = img["Transformer"]["encoderblock"]
    for layer in range(blocks["LayerNorm_0"]["scale"].shape[0]):
        x = _vision_block(jax.tree.map(lambda leaf, i=layer: leaf[i], blocks), x)
        hidden.append(x)
    x = _layer_norm(img["Transformer"]["encoder_norm"], x)
    return x @ jnp.asarray(img["head"]["kernel"]) + img["head"]["bias"]


def _patches(embedding: Tree, image: np.ndarray) -> jax.Array:
    kernel = jnp.asarray(embedding["kernel"])
    out = jax.lax.conv_general_dilated(
        jnp.asarray(image, jnp.float32)[None],
        kernel,
        window_strides=kernel.shape[:2],
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out.reshape(-1, kernel.shape[-1]) + embedding["bias"]


def _stem(source: Source, image: np.ndarray) -> jax.Array:
    stem, leaves = source.stem or {}, source.params["PaliGemma"]["img"]["stem"]
    pool = stem["pool"]
    side = image.shape[0] // pool
    x = jnp.asarray(image, jnp.float32).reshape(side, pool, side, pool, 3).mean((1, 3))[None]
    for i, layer in enumerate(stem["layers"]):
        pad = layer["kernel"] // 2
        x = jax.lax.conv_general_dilated(
            x,
            jnp.asarray(leaves[f"conv_{i}"]["kernel"]),
            window_strides=(layer["stride"],) * 2,
            padding=[(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = x + leaves[f"conv_{i}"]["bias"]
        if i + 1 < len(stem["layers"]):
            x = jnp.maximum(x, 0)
    return x.reshape(-1, x.shape[-1])


@_jit
def _vision_block(w: Tree, x: jax.Array) -> jax.Array:
    attn, mlp = w["MultiHeadDotProductAttention_0"], w["MlpBlock_0"]
    y = _layer_norm(w["LayerNorm_0"], x)
    q, k, v = (
        jnp.einsum("nd,dhe->hne", y, attn[name]["kernel"]) + attn[name]["bias"][:, None]
        for name in ("query", "key", "value")
    )
    weights = jax.nn.softmax(jnp.einsum("hne,hme->hnm", q, k) / np.sqrt(q.shape[-1]), axis=-1)
    heads = jnp.einsum("hnm,hme->hne", weights, v)
    x = x + jnp.einsum("hne,hed->nd", heads, attn["out"]["kernel"]) + attn["out"]["bias"]
    y = _layer_norm(w["LayerNorm_1"], x)
    y = jax.nn.gelu(y @ mlp["Dense_0"]["kernel"] + mlp["Dense_0"]["bias"], approximate=True)
    return x + y @ mlp["Dense_1"]["kernel"] + mlp["Dense_1"]["bias"]


def _layer_norm(w: Tree, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + _EPS) * w["scale"] + w["bias"]


# --- the two Gemma stacks ---


@exact
def prefill(
    source: Source, views: list[jax.Array], token_ids: np.ndarray, hidden: list[jax.Array] | None = None
) -> Prefix:
    """View embeddings and the prompt's ids, padded to three views and 48 tokens -> embeddings, keys and values.

    `hidden` gets each layer's rows, padded ones too.
    """
    hidden = [] if hidden is None else hidden
    llm = source.params["PaliGemma"]["llm"]
    table = llm["embedder"]["input_embedding"]
    width, per_view = table.shape[1], views[0].shape[0]
    padded_ids = np.zeros(MAX_TOKENS, np.int64)
    padded_ids[: len(token_ids)] = token_ids
    empty = [jnp.zeros((per_view, width), jnp.float32)] * (SLOTS - len(views))
    prompt = jnp.asarray(table[padded_ids]) * np.float32(np.sqrt(width))
    x = jnp.concatenate([*views, *empty, prompt])
    valid = np.concatenate([np.repeat(np.arange(SLOTS) < len(views), per_view), np.arange(MAX_TOKENS) < len(token_ids)])
    tables = rope_tables(np.cumsum(valid) - 1, llm["layers"]["attn"]["q_einsum"]["w"].shape[-1])
    allowed = jnp.asarray(valid[:, None] & valid[None, :])
    keys, values, embeddings = [], [], x
    for layer in range(llm["layers"]["attn"]["q_einsum"]["w"].shape[0]):
        w = gemma_layer(source, "", layer)
        q, k, v = _project(w, x, tables)
        keys.append(k)
        values.append(v)
        x = _finish(w, x, q, k, v, allowed)
        hidden.append(x)
    return Prefix(embeddings, valid, jnp.stack(keys), jnp.stack(values))


def gemma_layer(source: Source, suffix: str, index: int) -> Tree:
    """Return one layer's leaves of the stack with that suffix, under plain names; LoRA factors as name_a, name_b."""
    layers = source.params["PaliGemma"]["llm"]["layers"]
    attn, mlp = layers["attn"], layers["mlp" + suffix]
    attn_scale = source.lora_scaling["expert" if suffix else "prefix"]
    out = {
        "pre": layers["pre_attention_norm" + suffix]["scale"][index],
        "post": layers["pre_ffw_norm" + suffix]["scale"][index],
    }
    for name, node, weight, factor, scale in (
        ("q", attn["q_einsum" + suffix], "w", "lora", attn_scale),
        ("kv", attn["kv_einsum" + suffix], "w", "lora", attn_scale),
        ("out", attn["attn_vec_einsum" + suffix], "w", "lora", attn_scale),
        ("gating", mlp, "gating_einsum", "gating_einsum_lora", 1.0),
        ("linear", mlp, "linear", "linear_lora", 1.0),
    ):
        out[name] = node[weight][index]
        if factor + "_a" in node:
            out[name + "_a"] = node[factor + "_a"][index] * np.float32(scale)
            out[name + "_b"] = node[factor + "_b"][index]
    return out


def rope_tables(positions: np.ndarray, head_dim: int) -> tuple[jax.Array, jax.Array]:
    """Return cosine and sine (S, 1, head_dim/2); angles in float64."""
    half = head_dim // 2
    angles = positions[:, None] / ROPE_BASE ** (np.arange(half) / half)[None]
    return jnp.asarray(np.cos(angles)[:, None], jnp.float32), jnp.asarray(np.sin(angles)[:, None], jnp.float32)


def _rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    cos, sin = tables
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _rms(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + _EPS) * (1 + scale)


@_jit
def _project(w: Tree, x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    y = _rms(x, w["pre"])
    q = jnp.einsum("td,ndh->tnh", y, w["q"])
    kv = jnp.einsum("sd,ckdh->cskh", y, w["kv"])
    if "q_a" in w:
        q += jnp.einsum("tnr,nrh->tnh", jnp.einsum("td,ndr->tnr", y, w["q_a"]), w["q_b"])
    if "kv_a" in w:
        kv += jnp.einsum("cskr,ckrh->cskh", jnp.einsum("sd,ckdr->cskr", y, w["kv_a"]), w["kv_b"])
    k, v = kv
    return _rotate(q, tables), _rotate(k, tables), v


@_jit
def _finish(w: Tree, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, allowed: jax.Array) -> jax.Array:
    rows, heads, size = q.shape
    grouped = q.reshape(rows, k.shape[1], -1, size) * size**-0.5
    scores = jnp.where(allowed, jnp.einsum("tkgh,skh->kgts", grouped, k), MASKED)
    mixed = jnp.einsum("kgts,skh->tkgh", jax.nn.softmax(scores, axis=-1), v).reshape(rows, heads, size)
    x = x + jnp.einsum("tnh,nhd->td", mixed, w["out"])
    if "out_a" in w:  # openpi contracts the heads with each factor
        x += jnp.einsum("tr,nrd->td", jnp.einsum("tnh,nhr->tr", mixed, w["out_a"]), w["out_b"])
    y = _rms(x, w["post"])
    hidden = jnp.einsum("td,cdm->ctm", y, w["gating"])
    if "gating_a" in w:
        hidden += jnp.einsum("ctr,crm->ctm", jnp.einsum("td,cdr->ctr", y, w["gating_a"]), w["gating_b"])
    gate, up = hidden
    y = jax.nn.gelu(gate, approximate=True) * up
    if "linear_a" in w:
        x += (y @ w["linear_a"]) @ w["linear_b"]
    return x + y @ w["linear"]


# --- the action expert ---


def time_embedding(t: float, width: int) -> np.ndarray:
    """Return (width,): sine then cosine of 2 pi t / period, periods geometric from 4e-3 to 4, in float64."""
    periods = 4e-3 * 1000.0 ** np.linspace(0.0, 1.0, width // 2)
    angles = 2 * np.pi * float(np.float32(t)) / periods
    return np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32)


@exact
def velocity(
    source: Source,
    prefix: Prefix,
    state: np.ndarray,
    x_t: np.ndarray | jax.Array,
    t: float,
    hidden: list[jax.Array] | None = None,
) -> jax.Array:
    """State (32,), noisy actions (50, 32) and flow time -> velocity (50, 32).

    `hidden` gets the suffix tokens and each expert layer's rows.
    """
    hidden = [] if hidden is None else hidden
    p = source.params
    actions = _dense(p["action_in_proj"], jnp.asarray(x_t, jnp.float32))
    moment = jnp.broadcast_to(time_embedding(t, actions.shape[1]), actions.shape)
    tokens = _dense(p["action_time_mlp_in"], jnp.concatenate([actions, moment], axis=-1))
    tokens = _dense(p["action_time_mlp_out"], jax.nn.silu(tokens))
    x = jnp.concatenate([_dense(p["state_proj"], jnp.asarray(state, jnp.float32)[None]), tokens])
    hidden.append(x)
    rows = x.shape[0]
    own = np.ones((rows, rows), bool)
    own[0, 1:] = False  # the state token does not see the actions
    allowed = jnp.asarray(np.concatenate([np.broadcast_to(prefix.valid, (rows, len(prefix.valid))), own], axis=1))
    tables = rope_tables(prefix.valid.sum() + np.arange(rows), prefix.keys.shape[-1])
    for layer in range(prefix.keys.shape[0]):
        w = gemma_layer(source, "_1", layer)
        q, k, v = _project(w, x, tables)
        k, v = jnp.concatenate([prefix.keys[layer], k]), jnp.concatenate([prefix.values[layer], v])
        x = _finish(w, x, q, k, v, allowed)
        hidden.append(x)
    x = _rms(x, jnp.asarray(p["PaliGemma"]["llm"]["final_norm_1"]["scale"]))
    return _dense(p["action_out_proj"], x[1:])


def _dense(w: Tree, x: jax.Array) -> jax.Array:
    return x @ jnp.asarray(w["kernel"]) + w["bias"]


@exact
def denoise(
    source: Any, prefix: Prefix, state: np.ndarray, noise: np.ndarray, flow: Any = velocity
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Return velocity and x of each Euler step from t = 1; the last x is the action chunk (50, 32).

    `flow` is the source's `velocity`, this module's or `reference_torch`'s.

    Times are 1 - i/n rounded once, as upstream's torch model has them; its JAX model accumulates the step in float32,
    which the fastest time frequency turns into 6e-5 of an action.
    """
    x, velocities, steps = jnp.asarray(noise, jnp.float32), [], []
    for i in range(source.num_steps):
        t = float(np.float32(1 - i / source.num_steps))
        velocities.append(flow(source, prefix, state, x, t))
        x = x - np.float32(1 / source.num_steps) * velocities[-1]
        steps.append(x)
    return velocities, steps


# --- speculation ---


@exact
def draft(source: Any, prefix: Prefix, state: np.ndarray) -> jax.Array:
    """The draft head on the prefix embeddings and state (32,) -> chunk (50, 7), through one whole Gemma layer."""
    if source.draft is None:
        raise ValueError("the source has no draft.pt")
    head, (heads, kv) = {k: jnp.asarray(v) for k, v in source.draft.items()}, source.draft_heads
    block, queries = "_gemma_block.", head["_action_queries.weight"]
    state_row = head["_state_token.weight"] @ jnp.asarray(state, jnp.float32) + head["_state_token.bias"]
    x = jnp.concatenate([prefix.embeddings, state_row[None], queries])
    valid = np.concatenate([prefix.valid, np.ones(1 + len(queries), bool)])
    is_query = np.arange(len(valid)) >= len(valid) - len(queries)
    allowed = valid[:, None] & valid[None, :] & (is_query[:, None] | ~is_query[None, :])
    proj = {n: head[f"{block}self_attn.{n}_proj.weight"] for n in "qkvo"}
    size = proj["q"].shape[0] // heads
    w = {
        "pre": head[block + "input_layernorm.weight"],
        "q": proj["q"].reshape(heads, size, -1).transpose(0, 2, 1),
        "kv": jnp.stack([proj[n].reshape(kv, size, -1).transpose(0, 2, 1) for n in "kv"]),
        "out": proj["o"].T.reshape(heads, size, -1),
        "post": head[block + "post_attention_layernorm.weight"],
        "gating": jnp.stack([head[f"{block}mlp.{n}_proj.weight"].T for n in ("gate", "up")]),
        "linear": head[block + "mlp.down_proj.weight"].T,
    }
    q, k, v = _project(w, x, rope_tables(np.cumsum(valid) - 1, size))
    out = _finish(w, x, q, k, v, jnp.asarray(allowed))[-len(queries) :]
    return out @ head["_action_head.weight"].T + head["_action_head.bias"]


@exact
def verify(
    source: Any,
    prefix: Prefix,
    state: np.ndarray,
    draft_chunk: np.ndarray,
    noise: np.ndarray,
    t: float,
    flow: Any = velocity,
) -> tuple[jax.Array, jax.Array]:
    """Return velocity and x0_hat (50, 32) for a draft (50, <= 32; zeros beyond) mixed with noise at flow time t."""
    x0 = np.zeros_like(noise)
    x0[:, : draft_chunk.shape[1]] = draft_chunk
    moment = np.float32(t)
    x_t = moment * noise + (1 - moment) * x0
    v = flow(source, prefix, state, x_t, float(moment))
    return v, x_t - moment * v


def decide(
    draft_chunk: np.ndarray,
    x0_hats: np.ndarray,
    last_gripper: float,
    tau: float,
    threshold: float,
    gripper_verify: bool = True,
    steps: int = 12,
) -> tuple[int, bool, bool]:
    """Accepted steps, whether a gripper switch rejected all, whether one shortened the prefix: step by step.

    draft_chunk (H, 7), x0_hats (K, H, >= 7); the distance is the RMS over the six dimensions before the gripper.
    """
    accepted = 0
    while accepted < steps:
        gaps = [np.sqrt(np.mean((x0[accepted, :6] - draft_chunk[accepted, :6]) ** 2)) for x0 in x0_hats]
        if max(gaps) > tau:
            break
        accepted += 1
    for x0 in x0_hats if gripper_verify else ():
        before = last_gripper
        for value in x0[:steps, 6]:
            if (before < threshold) != (value < threshold):
                return 0, True, False
            before = value
    before = last_gripper
    for step in range(accepted):
        if (before < threshold) != (draft_chunk[step, 6] < threshold):
            return step, False, True
        before = draft_chunk[step, 6]
    return accepted, False, False
