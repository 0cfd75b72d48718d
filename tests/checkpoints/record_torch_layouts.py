"""Records what the real PyTorch modules make of golden G1: names, shapes and bytes that they save, actions they answer.

Run by hand, never by pytest, in a venv of its own: transformers 4.53.2 with openpi's `transformers_replace` copied over
it, lerobot 0.4.4, torch (CPU). Sources beside each other in one folder, as published:

    openpi/models_pytorch/{gemma,pi0}_pytorch.py   openpi 15a9616
    convert_openpi.py                              openpi 15a9616, examples/convert_jax_model_to_pytorch.py
    convert_lerobot033.py                          lerobot v0.3.3, policies/pi0/conversion_scripts/
    golden.npz                                     G1's leaves, `/` written as `|`

    python tests/checkpoints/record_torch_layouts.py SOURCES tests/golden/G1_pi0_jax tests/golden/G6_torch_layouts

Changed of theirs: sizes (openpi's and LeRobot's modules fix them), and what needs a network or JAX and computes nothing
(tokenizer, image augmentation, imports). Weights are converted by openpi's own functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import shutil
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file, save_model

VISION = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 80, "projection_dim": 64,
}  # fmt: skip
VOCABULARY = 512
STACKS = {
    "gemma_2b": SimpleNamespace(width=64, depth=3, mlp_dim=128, num_heads=4, num_kv_heads=1, head_dim=16),
    "gemma_300m": SimpleNamespace(width=32, depth=3, mlp_dim=64, num_heads=4, num_kv_heads=1, head_dim=16),
}
VIEWS = ("base_0_rgb", "left_wrist_0_rgb")


def stub(name: str, **attributes: Any) -> None:
    module = sys.modules.setdefault(name, ModuleType(name))
    for key, value in attributes.items():
        setattr(module, key, value)


def mock(*names: str) -> None:
    """Stand-ins for packages that are imported and not used here."""
    for name in names:
        module = MagicMock()
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        sys.modules[name] = module


def small(build: Any) -> Any:
    """The transformers class with golden G1's sizes, where the module that builds it fixes others."""

    def built(config: Any) -> Any:
        text = getattr(config, "text_config", config)
        text.vocab_size = VOCABULARY
        if text is not config:
            config._vocab_size = config.image_token_index = config.image_token_id = VOCABULARY
            config.projection_dim = 64
            for key, value in VISION.items():
                setattr(config.vision_config, key, value)
        return build(config=config)

    return built


def converted(sources: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """G1 through openpi's and LeRobot 0.3.3's conversion scripts: the state dicts that they load."""
    scripts = "lerobot.policies.pi0.conversion_scripts"
    mocked = [
        "flax", "flax.nnx", "jax", "jax.sharding", "orbax", "orbax.checkpoint", "tyro", scripts,
        scripts + ".conversion_utils",
        *("openpi." + name for name in (
            "models", "models.gemma", "models.model", "models.pi0_config", "models_pytorch",
            "models_pytorch.pi0_pytorch", "training", "training.config",
        )), "openpi",
    ]  # fmt: skip
    import lerobot.policies.pi0.modeling_pi0  # noqa: F401  (before JAX is mocked: transformers looks for it)

    mock(*mocked)
    leaves = {key.replace("|", "/"): value for key, value in np.load(sources / "golden.npz").items()}
    model = {k.removeprefix("PaliGemma/"): v for k, v in leaves.items() if k.startswith("PaliGemma/")}
    text = STACKS["gemma_2b"]
    config = SimpleNamespace(
        vision_config=SimpleNamespace(**VISION),
        text_config=SimpleNamespace(
            hidden_size=text.width, num_hidden_layers=text.depth, num_attention_heads=text.num_heads, head_dim=16
        ),
    )
    expert = STACKS["gemma_300m"]
    small_expert = SimpleNamespace(
        vocab_size=VOCABULARY, hidden_size=expert.width, num_hidden_layers=expert.depth, head_dim=16,
        num_attention_heads=expert.num_heads,
    )  # fmt: skip
    heads = {}
    for name in ("state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out"):
        heads[name + ".weight"] = torch.from_numpy(leaves[name + "/kernel"]).T
        heads[name + ".bias"] = torch.from_numpy(leaves[name + "/bias"])
    out = []
    for script, more in (("convert_openpi", {"checkpoint_dir": "pi0", "pi05": False}), ("convert_lerobot033", {})):
        module = importlib.import_module(script)
        pali, rest = module.slice_paligemma_state_dict(dict(model), config)
        gemma = module.slice_gemma_state_dict(rest, small_expert, num_expert=1, **more)
        stacks, own = ("model.paligemma_with_expert.", "model.") if script.endswith("033") else ("", "")
        out.append({stacks + k: v for k, v in {**pali, **gemma}.items()} | {own + k: v for k, v in heads.items()})
    for name in mocked:
        del sys.modules[name]
    return out[0], out[1]


def described(path: Path) -> dict[str, Any]:
    """Every tensor of a saved file: dtype, shape, SHA-256 of its bytes."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = file.metadata()
    return {
        "metadata": kept,
        "tensors": {
            name: [str(x.dtype), list(x.shape), hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:16]]
            for name, x in sorted(tensors.items())
        },
    }


def inputs(golden: Path, n: int) -> dict[str, Any]:
    obs = np.load(golden / f"obs{n}.npz")
    pictures = [torch.from_numpy(obs[f"image_{view}"]).permute(2, 0, 1)[None].float() / 255 for view in VIEWS]
    return {
        "pictures": pictures,
        "raw": torch.from_numpy(obs["state_raw"]).float()[None],
        "state": torch.from_numpy(obs["state_normalized"])[None],
        "ids": torch.from_numpy(obs["token_ids"]).long()[None],
        "mask": torch.from_numpy(obs["token_mask"])[None],
        "noise": torch.from_numpy(obs["noise"])[None],
    }


def openpi(sources: Path, golden: Path, weights: dict[str, torch.Tensor], out: Path) -> dict[str, np.ndarray]:
    for name in ("openpi", "openpi.models", "openpi.models.gemma", "openpi.models_pytorch"):
        stub(name, __path__=[])
    stub("openpi.models.gemma", get_config=STACKS.__getitem__)
    stub("openpi.models_pytorch", __path__=[str(sources / "openpi/models_pytorch")])
    stub("openpi.models_pytorch.preprocessing_pytorch")
    gemma = importlib.import_module("openpi.models_pytorch.gemma_pytorch")
    gemma.PaliGemmaForConditionalGeneration = small(gemma.PaliGemmaForConditionalGeneration)
    gemma.GemmaForCausalLM = small(gemma.GemmaForCausalLM)
    module = importlib.import_module("openpi.models_pytorch.pi0_pytorch")
    config = SimpleNamespace(
        pi05=False, paligemma_variant="gemma_2b", action_expert_variant="gemma_300m", dtype="float32", action_dim=32,
        action_horizon=50, pytorch_compile_mode=None,
    )  # fmt: skip
    model = module.PI0Pytorch(config).eval()
    torch.set_float32_matmul_precision("highest")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    print("openpi: missing", missing, "unexpected", unexpected)
    model.paligemma_with_expert.gemma_expert.lm_head.weight.data.zero_()  # random otherwise, and unused
    save_model(model, out / "openpi.safetensors")
    answers = {}
    for n in range(3):
        given = inputs(golden, n)
        empty = torch.full_like(given["pictures"][0], -1.0)
        images = [*(p * 2 - 1 for p in given["pictures"]), empty]
        seen = torch.tensor([[True], [True], [False]])
        model._preprocess_observation = lambda obs, train, i=images, s=seen, g=given: (
            i, list(s), g["ids"], g["mask"], g["state"],
        )  # fmt: skip
        with torch.no_grad():
            actions = model.sample_actions("cpu", SimpleNamespace(state=given["state"]), noise=given["noise"])
        answers[f"openpi/obs{n}/actions"] = actions[0].numpy()
    return answers


def lerobot(golden: Path, weights: dict[str, torch.Tensor], out: Path) -> dict[str, np.ndarray]:
    import transformers
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.pi0 import modeling_pi0, processor_pi0
    from lerobot.policies.pi0.configuration_pi0 import PI0Config

    modeling_pi0.get_gemma_config = STACKS.__getitem__
    modeling_pi0.PaliGemmaForConditionalGeneration = small(modeling_pi0.PaliGemmaForConditionalGeneration)
    modeling_pi0.GemmaForCausalLM = small(modeling_pi0.GemmaForCausalLM)
    transformers.AutoTokenizer.from_pretrained = lambda *args, **kwargs: MagicMock()  # no network; not called
    picture = PolicyFeature(FeatureType.VISUAL, (3, 224, 224))
    config = PI0Config(
        device="cpu", empty_cameras=1,
        input_features={
            "observation.images.image": picture, "observation.images.image2": picture,
            "observation.state": PolicyFeature(FeatureType.STATE, (8,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
    )  # fmt: skip
    policy = modeling_pi0.PI0Policy(config).eval()
    missing, unexpected = policy.model.load_state_dict(weights, strict=False)
    print("lerobot: missing", missing, "unexpected", unexpected)
    policy.model.paligemma_with_expert.gemma_expert.lm_head.weight.data.zero_()
    policy.save_pretrained(out)
    root = json.loads((golden / "checkpoint/assets/physical-intelligence/libero/norm_stats.json").read_bytes())
    theirs = {"observation.state": root["norm_stats"]["state"], "action": root["norm_stats"]["actions"]}
    stats = {key: {k: torch.tensor(v, dtype=torch.float32) for k, v in s.items()} for key, s in theirs.items()}
    before, after = processor_pi0.make_pi0_pre_post_processors(config, stats)
    before.save_pretrained(out)
    after.save_pretrained(out)
    normalize = next(step for step in before.steps if type(step).__name__ == "NormalizerProcessorStep")
    answers = {}
    for n in range(3):
        given = inputs(golden, n)
        state = normalize._normalize_observation({"observation.state": given["raw"]}, inverse=False)
        batch = {f"observation.images.image{k}": p for k, p in zip(("", "2"), given["pictures"], strict=True)} | {
            "observation.language.tokens": given["ids"],
            "observation.language.attention_mask": given["mask"],
            **state,
        }
        chunk = policy.predict_action_chunk(batch, noise=given["noise"])
        answers[f"lerobot/obs{n}/state"] = state["observation.state"][0].numpy()
        answers[f"lerobot/obs{n}/actions"] = chunk[0].numpy()
        answers[f"lerobot/obs{n}/actions_env"] = after(chunk[0]).numpy()
    return answers


def main(sources: Path, golden: Path, target: Path) -> None:
    sys.path.insert(0, str(sources))
    mock("torchvision", "torchvision.transforms", "torchvision.transforms.v2", "torchvision.transforms.functional")
    weights, old = converted(sources)
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        out = Path(scratch)
        answers = openpi(sources, golden, weights, out)
        answers |= lerobot(golden, weights, out)
        save_file({k: v.clone().contiguous() for k, v in old.items()}, out / "old.safetensors")
        files = {"openpi": "openpi.safetensors", "lerobot": "model.safetensors", "lerobot_0.3.3": "old.safetensors"}
        index = {layout: described(out / name) for layout, name in files.items()}
        (target / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
        np.savez_compressed(target / "actions.npz", **answers)
        for path in (out / "config.json", *sorted(out.glob("policy_*"))):
            shutil.copy(path, target / path.name)


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
