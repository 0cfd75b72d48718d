"""What the probe makes of PyTorch folders of pi0: usable, or one line that names file and remedy; fuzzed too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub
import pytest
import torch
from checkpoints import torch_layouts as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from flashtrail.base.errors import UserError
from flashtrail.checkpoints import artifact, facts, fetch, identity, lerobot, probe, stores, torch_tree

FACTS = {"delta_actions": True}  # all else is in LeRobot's config.json
PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
NORMALIZER = "policy_preprocessor_step_5_normalizer_processor"
UNNORMALIZER = "policy_postprocessor_step_0_unnormalizer_processor"
Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tl.write(tmp_path_factory.mktemp("lerobot") / "mine", tl.LEROBOT)


@pytest.fixture
def mine(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "mine"))


def test_lerobot_s_own_files_state_the_facts(mine: Path) -> None:
    found = probe.probe_candidate(str(mine), FACTS, "mine")
    assert (found["class"], found["family"], found["format"]) == (probe.TORCH_ONLY, identity.PI0, identity.LEROBOT)
    assert found["usable"] and found["dims_used"] == {"state": "0-7 of 8", "actions": "0-6 of 7"}
    assert found["norm_stats"] == [NORMALIZER + ".safetensors"]
    said = {name: (fact["value"], fact["said_by"]) for name, fact in found["facts"].items()}
    config = {"horizon": 50, "action_dim": 32, "views": 2, "steps": 10, "max_token_len": 48}
    assert said == {name: (value, "config.json") for name, value in config.items()} | {
        "delta_actions": (True, "policies.mine.delta_actions")
    }
    assert found["model"]["vision_heads"] == tl.HEADS


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers, small files, and the eight vectors of statistics that lie among an older LeRobot's weights."""
    mine = tl.write(tmp_path / "mine", tl.OLD)
    size, read = (mine / "model.safetensors").stat().st_size, []
    real = stores.Location.blocks

    def counted(self: stores.Location, *args: Any) -> Iterator[bytes]:
        for block in real(self, *args):
            read.append(len(block))
            yield block

    monkeypatch.setattr(stores.Location, "blocks", counted)
    assert probe.probe_candidate(str(mine), tl.DECLARED, "mine")["usable"]
    with (mine / "model.safetensors").open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
    assert sum(read) < 3 * header + 2000 < size / 10


def test_a_repository_of_the_hub_is_probed_and_fetched(
    mine: Path, tmp_path: Path, tokenizer_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.relative_to(mine).as_posix(): path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    files |= {"README.md": b"# a policy", "training_state/optimizer_state.safetensors": b"x" * 1000}
    (tmp_path / "tok").write_bytes(tokenizer_bytes)
    with hub.serve({"someone/pi0": files}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        found = probe.probe_candidate("hf://someone/pi0", FACTS, "mine")
        assert (found["usable"], found["class"]) == (True, probe.TORCH_ONLY)
        fetched = fetch.fetch(found, tmp_path / "out", str(tmp_path / "tok"), None, lambda line: None)
    wanted = {name for name in files if name not in ("README.md", "training_state/optimizer_state.safetensors")}
    assert set(fetched["files"]) == wanted | {"tokenizer.model", "facts.json"}
    assert (tmp_path / "out/source/model.safetensors").read_bytes() == files["model.safetensors"]


def edit(name: str, **changes: Any) -> Change:
    def change(root: Path) -> None:
        (root / name).write_text(json.dumps({**json.loads((root / name).read_bytes()), **changes}))

    return change


def step(name: str, index: int, **changes: Any) -> Change:
    def change(root: Path) -> None:
        content = json.loads((root / name).read_bytes())
        content["steps"][index] |= changes
        (root / name).write_text(json.dumps(content))

    return change


def state(**values: list[float]) -> Change:
    """Other values in the normaliser's state file; `_` for the dot of a key."""

    def change(root: Path) -> None:
        tensors = {key.replace("_", "."): torch.tensor(x) for key, x in values.items()}
        save_file(tensors, root / f"{NORMALIZER}.safetensors")

    return change


def without(*names: str) -> Change:
    return lambda root: [(root / name).unlink() for name in names]


def chain(*changes: Change) -> Change:
    return lambda root: [change(root) for change in changes]


def header(**changes: Any) -> Change:
    """Other words of the first tensor's entry in the weights' header."""

    def change(root: Path) -> None:
        file = root / "model.safetensors"
        content = file.read_bytes()
        length = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:length])
        entries[min(name for name in entries if name != "__metadata__")] |= changes
        own = json.dumps(entries).encode()
        file.write_bytes(len(own).to_bytes(8, "little") + own + content[length:])

    return change


def cut(root: Path) -> None:
    """The end of the weights is missing, as after a copy that was broken off."""
    file = root / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def model_json(**said: Any) -> Change:
    return edit(facts.MODEL_JSON, **said)


EIGHT, SEVEN = [0.5] * 8, [0.5] * 7
WHOLE = {"observation_state_mean": EIGHT, "observation_state_std": EIGHT, "action_mean": SEVEN, "action_std": SEVEN}
NONE = without(PRE, POST, f"{NORMALIZER}.safetensors", f"{UNNORMALIZER}.safetensors")
REFUSED: dict[str, tuple[Change, str, str]] = {
    "no statistics": (NONE, probe.TORCH_ONLY, "has no statistics, looked for in assets/*/norm_stats.json"),
    "another robot's": (
        chain(state(**WHOLE | {"observation_state_mean": [0.5] * 14, "observation_state_std": [0.5] * 14})),
        probe.PI0_BASE, "another robot's statistics",
    ),
    "no deviations": (state(observation_state_mean=EIGHT), probe.TORCH_ONLY, "lacks observation.state.std"),
    "never set": (
        state(**WHOLE | {"observation_state_mean": [float("inf")] * 8}), probe.TORCH_ONLY, "not finite"
    ),
    "a constant dim": (
        state(**WHOLE | {"observation_state_std": [*[0.5] * 7, 0.0]}), probe.TORCH_ONLY, "deviation below 1e-06"
    ),
    "a state file elsewhere": (step(PRE, 5, state_file="../../etc/passwd"), probe.TORCH_ONLY, "is not beside it"),
    "quantiles": (
        step(PRE, 5, config={"norm_map": {"STATE": "QUANTILES", "ACTION": "MEAN_STD"}}), probe.TORCH_ONLY,
        "normalises STATE by QUANTILES, not MEAN_STD",
    ),
    "an eps of its own": (step(PRE, 5, config={"eps": 0.1}), probe.TORCH_ONLY, "eps is 0.1"),
    "quantiles in the config": (
        edit("config.json", normalization_mapping={"ACTION": "MIN_MAX"}), probe.TORCH_ONLY, "ACTION by MIN_MAX"
    ),
    "Aloha": (edit("config.json", adapt_to_pi_aloha=True), probe.TORCH_ONLY, "adapt_to_pi_aloha is True"),
    "joints by name": (
        edit("config.json", use_relative_actions=True), probe.TORCH_ONLY, "use_relative_actions is True"
    ),
    "three cameras": (
        edit("config.json", input_features={f"observation.images.{n}": {} for n in "abc"}), probe.TORCH_ONLY,
        "config.json: num_views is 3",
    ),
    "another horizon": (edit("config.json", chunk_size=10), probe.TORCH_ONLY, "config.json says 10"),
    "no chunk": (edit("config.json", chunk_size=0), probe.TORCH_ONLY, "config.json: chunk_size is 0: Input should"),
    "no steps": (
        edit("config.json", num_inference_steps=0), probe.TORCH_ONLY, "config.json: num_inference_steps is 0: Input"
    ),
    "no actions": (edit("config.json", max_action_dim="7"), probe.TORCH_ONLY, "config.json: max_action_dim is '7'"),
    "a prompt without end": (
        edit("config.json", tokenizer_max_length=10**9), probe.TORCH_ONLY,
        "config.json: tokenizer_max_length is 1000000000: Input should be less than or equal to 1000",
    ),
    "digits without end": (
        edit("config.json", tokenizer_max_length=10**400), probe.TORCH_ONLY, "tokenizer_max_length is 1000"
    ),
    "heads that are none": (model_json(vision_heads=True), probe.TORCH_ONLY, "vision_heads is True, not a number"),
    "no heads": (model_json(vision_heads=0), probe.TORCH_ONLY, "model.json: vision_heads is 0, not a number of heads"),
    "cut off": (cut, probe.TORCH_ONLY, "does not lie in the file"),
    "another dtype": (header(dtype="F8_E4M3"), probe.TORCH_ONLY, "save it as float32, bfloat16 or float16"),
    "another shape": (header(shape=[3, 5]), probe.TORCH_ONLY, "does not lie in the file"),
    "an offset beyond": (header(data_offsets=[10**12, 10**12 + 4]), probe.TORCH_ONLY, "does not lie in the file"),
    "no object": (lambda root: (root / "config.json").write_text("[]"), probe.TORCH_ONLY, "must hold an object"),
    "stats.json of nothing": (
        chain(NONE, lambda root: (root / "stats.json").write_text("{}")), probe.TORCH_ONLY,
        "stats.json lacks observation.state",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_line(mine: Path, case: str) -> None:
    change, expected, words = REFUSED[case]
    change(mine)
    found = probe.probe_candidate(str(mine), {**FACTS, "horizon": 50, "views": 2}, "mine")
    assert (found["class"], found["family"], found["usable"]) == (expected, identity.PI0, False)
    assert words in found["reason"] and "\n" not in found["reason"]
    with pytest.raises(UserError, match="no checkpoint candidate can be used"):
        probe.select({"candidates": [found]})


def test_delta_actions_are_stated_or_told_by_newer_configs(mine: Path) -> None:
    untold = probe.probe_candidate(str(mine), {}, "mine")
    assert "under policies.mine (openpi's pi0_libero: delta_actions: true)" in untold["reason"]
    edit("config.json", use_relative_actions=False)(mine)
    assert probe.probe_candidate(str(mine), {}, "mine")["usable"]
    assert "config.json says false" in probe.probe_candidate(str(mine), {"delta_actions": True}, "mine")["reason"]


def test_the_folder_of_a_training_run_says_which_to_give(mine: Path) -> None:
    target = mine.parent / "run/checkpoints/020000/pretrained_model"
    shutil.copytree(mine, target)
    found = probe.probe_candidate(str(mine.parent / "run"), FACTS, "mine")
    assert not found["usable"] and "give checkpoints/020000/pretrained_model below it" in found["reason"]
    assert probe.probe_candidate(str(target), FACTS, "mine")["usable"]


def test_nothing_in_the_files_is_looked_up(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that names a class or a module by it is data like any other."""
    step(PRE, 0, registry_name="os.system", **{"class": "os.system"})(mine)
    edit("config.json", type="pi0", pretrained_path="/etc/passwd", device="cuda:9")(mine)
    monkeypatch.setattr("importlib.import_module", lambda *a, **k: pytest.fail("something was imported"))
    assert lerobot.norm_stats(*torch_tree.local(mine)) is not None
    assert probe.probe_candidate(str(mine), FACTS, "mine")["usable"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_changed_anywhere_end_in_a_record_or_a_line(written: Path, data: st.DataObject) -> None:
    """Of the files beside the weights and of the header, each byte; what comes out is read again at conversion."""
    files, read = torch_tree.local(written)
    contents = {name: read(name, size) for name, size in files.items()}
    name = data.draw(st.sampled_from(sorted(contents)))
    at = data.draw(st.integers(0, min(len(contents[name]), 20_000) - 1))
    piece = data.draw(st.sampled_from([b"", b"}", b"[", b'"', b"\n", b"-1", b"1e999", b"9" * 400, b"\xff", b"null"]))
    contents[name] = contents[name][:at] + piece + contents[name][at + data.draw(st.integers(0, 3)) :]

    def changed(name: str, size: int, start: int = 0) -> bytes:
        return contents[name][start : start + size]

    sizes = {name: len(content) for name, content in contents.items()}
    for use in (
        lambda: lerobot.described(identity.read_json(changed, "config.json", sizes["config.json"])),
        lambda: artifact.use_of_stats((lerobot.norm_stats(sizes, changed) or ("", None))[1], "here"),
        lambda: [torch_tree.stored_in(n, sizes[n], changed) for n in identity.weights_of(sizes)],
        lambda: facts.read_model_json(identity.read_json(changed, facts.MODEL_JSON, sizes[facts.MODEL_JSON])),
    ):
        try:
            use()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 800
