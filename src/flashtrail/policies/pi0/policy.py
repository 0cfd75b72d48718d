"""The policy a server serves: observation in, robot actions and the official reply keys out.

Joins transforms and engine; knows no socket. The reply is that of the official server's production driver, key for
key, with a few keys of our own (EXTRA_KEYS).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.policies.pi0 import transforms as tf
from flashtrail.policies.pi0.batch import MAX_BATCH
from flashtrail.policies.pi0.engine import Call, Engine, RoundResult, Session, describe
from flashtrail.policies.pi0.errors import ArtifactError
from flashtrail.policies.pi0.runtime import TorchRuntime
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.spread import spread

# Keys of policy_timing that the official server does not send: whether stage times are those of a synchronised
# device, why a round was full or, on a draft round, why the next one will be (empty: it was not, it will not), and how
# many sessions' rounds shared the pass whose times these are (1: alone).
EXTRA_KEYS = ("synchronized", "fallback_cause", "batch_size")
# A round as `infer` is asked for it: session, observation, executed_steps, reset, noise_seed; and what comes of it.
Asked = tuple[Session, Mapping[str, Any], int | None, bool, Sequence[int] | int | None]
Answer = dict[str, Any] | Exception
# Keys of a request that no official server understands and this policy acts on.
REQUEST_KEYS = (tf.MASK_KEY, "noise_seed")
_ALWAYS_ZERO = (
    "enc_priority_mean",
    "score_delta",
    "score_total",
    "suggest_refresh",
    "gripper_override_rate",
    "gripper_force_rate",
    "gripper_reject_rate",
)


def policy_timing(result: RoundResult, gripper_verify_enabled: bool) -> dict[str, Any]:
    """The official `policy_timing` of a round: floats, except route_type and EXTRA_KEYS.

    As the production driver sends it, draft replies lack did_prefill and full replies lack radius_dist_mean.
    """
    full, ms, verdict = result.route == "full", result.stage_ms, result.verdict
    out: dict[str, Any] = {
        "sample_actions_ms": result.wall_ms,
        "encoder_ms": ms.get("encoder", 0.0),
        "vlm_prefill_ms": ms.get("prefill", 0.0),
        "draft_ms": ms.get("draft", 0.0),
        "action_verify_ms": ms.get("verify", 0.0),
        "full_fallback_ms": ms.get("denoise", 0.0),
        "used_full_fallback": float(full),
        "scheduled_full_fallback": float(result.scheduled is not None),
        "is_full_pipeline_round": float(full),
        "include_in_draft_accept_metrics": float(not full),
        "total_ms": float(sum(ms.values())),
        "radius_dist": math.nan if verdict is None else verdict.radius,
        "verify_mode_random": 0.0,
        "accepted_prefix_len": float(result.accepted),
        "accepted_prefix_len_mean": float(result.accepted),
        "gripper_switch_cut_rate": float(verdict is not None and verdict.gripper_cut),
        "scheduled_full_fallback_gripper": float(verdict is not None and verdict.gripper_event),
        "gripper_verify_stop_rate": float(verdict is not None and verdict.gripper_stop),
        "gripper_verify_enabled": float(gripper_verify_enabled),
        "route_type": result.route,
    }
    out |= dict.fromkeys(_ALWAYS_ZERO, 0.0)
    if verdict is None:
        out["did_prefill"] = 1.0
    else:
        out["radius_dist_mean"] = verdict.radius
    cause = result.cause or result.scheduled or ""
    return out | {"synchronized": result.synchronized, "fallback_cause": cause, "batch_size": result.batch}


def draw_noise(seed: Sequence[int] | int | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise, float32, from numpy's Philox: the same on every device and in every torch version.

    More of it begins with the same numbers. None draws from the operating system's entropy.
    """
    entropy = list(seed) if isinstance(seed, Sequence) else seed
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
    return generator.standard_normal(shape, dtype=np.float64).astype(np.float32)


def artifact_transforms(
    runtime: Any, action_stats: str | Path | None = None
) -> tuple[list[tf.Transform], list[tf.Transform]]:
    """Input and output transforms of the artifact a runtime was loaded from; raises ArtifactError.

    `action_stats`: a file by whose statistics actions are unnormalised instead of the artifact's (a drill). The engine
    and its sessions stay in normalised space, so that only the robot meets the mistake, as with the real bug.
    """
    if not isinstance(runtime, TorchRuntime) or runtime.directory is None:
        raise ArtifactError("this engine was not loaded from an artifact; give its transforms")
    dims, directory = runtime.dims, runtime.directory
    state, actions = tf.read_norm_stats(
        directory / "norm_stats.json", dims.state_dim, dims.env_action_dim, dims.action_dim
    )
    if action_stats is not None:
        actions = tf.read_action_stats(Path(action_stats), dims.env_action_dim, dims.action_dim)
    tokenizer = tf.Tokenizer.load(directory / "tokenizer.model", dims.max_token_len, dims.vocab_size)
    inputs: list[tf.Transform] = [
        tf.PickViews(dims.num_views, dims.state_dim),
        tf.NormalizeState(state),
        tf.ResizeWithPad(dims.vision.image_size),
        tf.ScaleImages(dims.vision.image_size),
        tf.Tokenize(tokenizer),
        tf.PadState(dims.action_dim),
    ]
    outputs: list[tf.Transform] = [tf.UnnormalizeActions(actions, dims.env_action_dim)]
    delta = runtime.manifests["base"].get("transforms", {}).get("delta_actions")
    if delta is None:
        raise ArtifactError(f"{directory}: the manifest does not say delta_actions; convert the checkpoint again")
    if delta:
        outputs.append(tf.AbsoluteActions())
    return inputs, outputs


class FlashPolicy:
    """One engine with its artifact's transforms. Sessions are independent; one call at a time for each.

    Calls for different sessions may come from several threads at once where `reentrant` says so.
    """

    def __init__(
        self,
        engine: Engine,
        inputs: Sequence[tf.Transform] | None = None,
        outputs: Sequence[tf.Transform] | None = None,
    ) -> None:
        """Transforms default to those of the engine's artifact."""
        self.engine = engine
        if inputs is None or outputs is None:
            default_inputs, default_outputs = artifact_transforms(engine.runtime)
        self.inputs = tuple(default_inputs if inputs is None else inputs)
        self.outputs = tuple(default_outputs if outputs is None else outputs)
        self.action_stats: str | None = None  # name of the file of foreign statistics, where some are in force

    @classmethod
    def load(
        cls,
        base_dir: str | Path,
        draft_dir: str | Path | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        settings: FlashSettings | None = None,
        *,
        synchronize: bool = True,
        backend: str = "auto",
        action_stats: str | Path | None = None,
        together: int = 1,
    ) -> FlashPolicy:
        """From artifact directories; raises ArtifactError or DeviceError, each one line. See Engine.load."""
        words = base_dir, draft_dir, device, dtype, settings
        engine = Engine.load(*words, synchronize=synchronize, backend=backend, together=together)
        if action_stats is None:
            return cls(engine)
        policy = cls(engine, *artifact_transforms(engine.runtime, action_stats))
        policy.action_stats = Path(action_stats).name  # anybody may ask for it: no path
        return policy

    @property
    def metadata(self) -> dict[str, Any]:
        """Artifact digests, device, number format, settings, facts, and the request keys beyond the official ones.

        ``action_stats`` is there only where foreign statistics are in force.
        """
        foreign = {} if self.action_stats is None else {"action_stats": self.action_stats}
        own = {"request_keys": list(REQUEST_KEYS), "facts": self._facts()}
        return describe(self.engine) | own | foreign

    def _facts(self) -> dict[str, Any]:
        """What was declared or known of the checkpoint, as it is used."""
        dims = self.engine.runtime.dims  # type: ignore[attr-defined]
        names = ("action_horizon", "num_views", "num_steps", "max_token_len")
        deltas = any(isinstance(transform, tf.AbsoluteActions) for transform in self.outputs)
        return {name: getattr(dims, name) for name in names} | {"delta_actions": deltas}

    @property
    def reentrant(self) -> bool:
        """Whether rounds of different sessions may run in several threads at once."""
        return bool(getattr(self.engine.runtime, "reentrant", False))

    @property
    def workers(self) -> int:
        """How many passes at once are worth while, one core each."""
        return int(getattr(self.engine.runtime, "workers", 1))

    @property
    def max_batch(self) -> int:
        """How many rounds in one pass are worth while."""
        return int(getattr(self.engine.runtime, "max_batch", MAX_BATCH))

    def new_session(self) -> Session:
        return self.engine.new_session()

    def infer(
        self,
        session: Session,
        obs: Mapping[str, Any],
        *,
        executed_steps: int | None = None,
        reset: bool = False,
        noise_seed: Sequence[int] | int | None = None,
    ) -> dict[str, Any]:
        """One round -> actions float64 (horizon, 7), accepted_prefix_len, policy_timing. ObservationError if unfit.

        obs: observation/image and observation/wrist_image uint8 (H, W, 3), observation/state (8,), prompt, and
        optionally __image_mask__ [bool, bool]. executed_steps None counts as max_exec_steps.
        """
        return self.replay(session, obs, self._noise(noise_seed), executed_steps=executed_steps, reset=reset)

    def _noise(self, seed: Sequence[int] | int | None) -> NDArray[np.float32]:
        runtime = self.engine.runtime
        assert isinstance(runtime, TorchRuntime)
        shape = runtime.dims.action_horizon, runtime.dims.action_dim
        count = self.engine.settings.samples
        return draw_noise(seed, shape if count == 1 else (count, *shape))

    def infer_many(self, asked: Sequence[Asked], max_batch: int = MAX_BATCH) -> Iterator[tuple[int, Answer]]:
        """`infer` for rounds of different sessions, those of one route in one pass of the device.

        Yields (index in `asked`, reply or what its round raised) as each pass ends; no round waits for another route's.
        """
        data: dict[int, dict[str, Any]] = {}
        calls: list[Call] = []
        for index, (session, obs, executed, reset, seed) in enumerate(asked):
            try:
                data[index] = tf.apply(self.inputs, obs)
                noise = self._noise(seed)
                calls.append(Call(session, tf.model_inputs(data[index]), noise, executed, reset))
            except Exception as error:
                data.pop(index, None)
                yield index, error
        indices = list(data)
        for number, result in self.engine.infer_many(calls, max_batch):
            index = indices[number]
            yield index, result if isinstance(result, Exception) else self._reply(result, data[index])

    def _reply(self, result: RoundResult, data: Mapping[str, Any]) -> dict[str, Any]:
        actions = self._sent(result.chunk, data)
        timing = policy_timing(result, self.engine.settings.enable_gripper_verify)
        if result.samples is not None:
            sent = [actions, *(self._sent(chunk, data) for chunk in result.samples)]
            timing["sample_spread"] = spread(np.stack(sent)[:, : result.accepted])
        return {"actions": actions, "accepted_prefix_len": result.accepted, "policy_timing": timing}

    def _sent(self, chunk: NDArray[np.float32], data: Mapping[str, Any]) -> NDArray[np.float64]:
        """A chunk in the robot's units, float64 (horizon, 7)."""
        actions: NDArray[np.float64] = tf.apply(self.outputs, {"actions": chunk, "raw_state": data["raw_state"]})[
            "actions"
        ]
        return actions

    def replay(
        self,
        session: Session,
        obs: Mapping[str, Any],
        noise: NDArray[np.float32],
        *,
        executed_steps: int | None = None,
        reset: bool = False,
    ) -> dict[str, Any]:
        """`infer` with the noise (50, 32) itself in place of its seed: for recorded rounds."""
        data = tf.apply(self.inputs, obs)
        result = self.engine.infer(session, tf.model_inputs(data), noise, executed_steps=executed_steps, reset=reset)
        return self._reply(result, data)
