"""``flashtrail serve`` as a user meets it: its refusals, and a tiny random artifact served from end to end."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from flashtrail import cli
from flashtrail.base.errors import UserError
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.serving import TOKEN_VARIABLE
from flashtrail.serving import command as serving_command
from flashtrail.serving.client import PolicyClient
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import PolicyServerProcess, free_port
from flashtrail.serving.server import reserve_port

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def stage(monkeypatch):
    """A stage that joined the command line by one line in the registry."""
    module = types.ModuleType("flashtrail_test_stage")

    def run(arguments) -> int | None:
        if arguments.word == "bad":
            raise UserError("word is bad:\n  give another")
        return 3 if arguments.word == "three" else None

    module.add_arguments = lambda parser: parser.add_argument("word")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "stage", ("try a stage", module.__name__))


@pytest.mark.parametrize(("word", "code"), [("good", 0), ("three", 3), ("bad", 2)])
def test_exit_code_is_the_stages(stage, capsys, word, code) -> None:
    assert cli.main(["stage", word]) == code
    assert capsys.readouterr().err == ("error: word is bad: give another\n" if word == "bad" else "")


def test_a_reader_that_leaves_early_ends_a_command_quietly() -> None:
    """As in ``flashtrail ledger | head -1``: no traceback, and the exit code that a shell gives for SIGPIPE."""
    code = (
        "import sys, types, flashtrail.cli as cli;"
        "stage = types.ModuleType('stage'); stage.add_arguments = lambda parser: None;"
        "stage.run = lambda arguments: print('line\\n' * 100_000);"
        "sys.modules['stage'] = stage; cli.COMMANDS['stage'] = ('try', 'stage');"
        "sys.exit(cli.main(['stage']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr and process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.wait(60) == 128 + 13 and process.stderr.read() == ""
    process.stderr.close()


def test_other_commands_are_not_imported(monkeypatch, stage, capsys) -> None:
    monkeypatch.setitem(cli.COMMANDS, "broken", ("has a missing module", "flashtrail_no_such_module"))
    assert cli.main(["stage", "good"]) == 0
    assert cli.main(["--help"]) == 0 and "has a missing module" in capsys.readouterr().out


def test_serving_and_its_command_line_import_no_torch() -> None:
    code = (
        "import sys, flashtrail.cli, flashtrail.serving.server, flashtrail.serving.launch;"
        "assert not {'torch', 'flashtrail.policies.pi0'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--artifact", "nowhere", "--port", "0"], "no artifact directory nowhere"),
        (["--artifact", "nowhere", "--host", "0.0.0.0"], "needs a token"),
        (["--artifact", "nowhere", "--port", "0", "--token-file", "nowhere"], "--token-file nowhere"),
        (["--artifact", "nowhere", "--idle-timeout", "nan"], "'nan' is not a positive number of seconds"),
        (["--artifact", "nowhere", "--idle-timeout", "-1"], "'-1' is not a positive number of seconds"),
        (["--artifact", "nowhere", "--idle-timeout", "soon"], "'soon' is not a positive number of seconds"),
        (["--artifact", "nowhere", "--allow-host", ""], "--allow-host: the name is empty"),
        (["--artifact", "nowhere", "--workers", "2", "--device", "cuda"], "--workers 2: only PyTorch on a CPU"),
        (["--artifact", "nowhere", "--workers", "2", "--backend", "triton"], "--workers 2: only PyTorch on a CPU"),
    ],
)
def test_mistake_is_one_line_and_exit_2(capsys, monkeypatch, words, message) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert cli.main(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_cuda_where_there_is_none_is_one_line(capsys, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["serve", "--artifact", "nowhere", "--port", "0", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_setting_out_of_range_is_one_line(capsys) -> None:
    assert cli.main(["serve", "--artifact", "nowhere", "--port", "0", "--tau", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error: tau_radius -1.0 must be")


def test_taken_port_is_told_before_the_model_is_loaded(capsys) -> None:
    with reserve_port("127.0.0.1", 0) as other:
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", "--artifact", "nowhere", "--port", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"error: port {port} on 127.0.0.1 is taken")


@pytest.mark.parametrize(
    ("words", "worth_while", "workers", "threads"),
    [
        ([], 4, 4, 1),  # a small policy: a worker for each of 8 cores, up to what is worth while
        (["--threads", "4"], 4, 2, 6),
        (["--max-sessions", "1"], 4, 1, 1),
        (["--workers", "1"], 4, 1, 1),
        ([], 1, 1, 6),  # a large one: as it was, and --threads was set before it was loaded
        (["--workers", "2"], 1, 2, 4),
        (["--workers", "16"], 1, 16, 1),
    ],
)
def test_cores_are_shared_among_workers(monkeypatch, words, worth_while, workers, threads) -> None:
    import torch

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    words, before = ["serve", "--artifact", "a", *words], torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        assert serving_command._share_cores(cli._parser(words).parse_args(words), worth_while) == workers
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_every_setting_of_the_engine_has_a_flag() -> None:
    words = ["serve", "--artifact", "a", "--tau", "0.15", "--t-list", "0.2", "0.1", "--no-full-fallback"]
    words += ["--force-full-each-round", "--periodic-full-every-n-draft-rounds", "4", "--gripper-switch-threshold=-0.5"]
    settings = serving_command._settings(cli._parser(words).parse_args(words))
    assert (settings.tau_radius, settings.t_list, settings.full_fallback) == (0.15, (0.2, 0.1), False)
    assert settings.force_full_each_round and settings.periodic_full_every_n_draft_rounds == 4
    assert settings.gripper_switch_threshold == -0.5
    plain = serving_command._settings(cli._parser(words[:3]).parse_args(words[:3]))
    assert plain == FlashSettings()


def write_artifact(directory: Path, kind: str, dims: dict, tensors: dict, files: dict[str, bytes]) -> Path:
    from safetensors.torch import save

    directory.mkdir()
    files = {"model.safetensors": save(tensors), **files}
    records = {}
    for name, data in files.items():
        (directory / name).write_bytes(data)
        records[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest = {"format": "flashtrail-artifact", "version": 1, "kind": kind, "dtype": "float32", "dims": dims}
    manifest |= {
        "files": records,
        "digest": "tiny",
        "source": {},
        "converter": {},
        "transforms": {"delta_actions": True},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


@pytest.fixture(scope="module")
def tiny_artifact(tmp_path_factory) -> tuple[Path, Path]:
    """A random policy of a few thousand weights and a draft head that fits it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from flashtrail.policies.pi0.dims import DraftDims, GemmaDims, Pi0Dims, VisionDims
    from flashtrail.policies.pi0.weights import init_base, init_draft

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["put the bowl on the plate"] * 4),
        model_writer=model,
        vocab_size=24,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    stats = {part: {"mean": [0.0] * n, "std": [1.0] * n} for part, n in (("state", 8), ("actions", 7))}
    dims = Pi0Dims(
        vision=VisionDims(width=16, depth=1, mlp_dim=16, num_heads=2, head_dim=8, patch=56),
        prefix=GemmaDims(width=16, depth=1, mlp_dim=16, num_heads=2, num_kv_heads=1, head_dim=8),
        expert=GemmaDims(width=8, depth=1, mlp_dim=16, num_heads=2, num_kv_heads=1, head_dim=8),
        vocab_size=64,
    )
    head = DraftDims(width=16, mlp_dim=16, num_heads=2, num_kv_heads=1, head_dim=8)
    files = {"norm_stats.json": json.dumps({"norm_stats": stats}).encode(), "tokenizer.model": model.getvalue()}
    root = tmp_path_factory.mktemp("artifact")
    base = write_artifact(root / "base", "base", dims.to_dict(), init_base(dims, 0), files)
    draft = write_artifact(root / "draft", "draft", head.to_dict(), init_draft(head, 1), {})
    return base, draft


def test_engine_is_served_from_end_to_end(tiny_artifact, tmp_path, observation, golden_replies) -> None:
    base, draft = tiny_artifact
    port = free_port()
    # A radius that accepts everything, so that the second round is a draft round.
    settings = {"tau_radius": 1e9, "enable_gripper_verify": False, "enable_gripper_post_verify": False}
    command = serve_command(base, draft=draft, port=port, threads=1, settings=settings)
    log = tmp_path / "log"
    with PolicyServerProcess(command, log, port, 120, env=ENVIRONMENT) as server:
        with PolicyClient(server.url) as one, PolicyClient(server.url) as other:
            replies = [one.infer(observation, executed_steps=0, reset=True, noise_seed=[7, 0])]
            alone = other.infer(observation, reset=True, noise_seed=[7, 0])
            replies.append(one.infer(observation, executed_steps=12, noise_seed=[7, 1]))
            metadata = one.metadata
        assert [reply.policy_timing["route_type"] for reply in replies] == ["full", "draft"]
        for reply, golden in zip(replies, golden_replies, strict=False):
            assert set(golden["policy_timing"]) <= set(reply.policy_timing)
            assert reply.accepted_prefix_len == 12
        np.testing.assert_array_equal(alone.actions, replies[0].actions)  # the noise is the seed's
        assert metadata["settings"]["tau_radius"] == 1e9 and str(tmp_path.parent) not in json.dumps(metadata)
    text = log.read_text()
    assert "stopping" in text and "Traceback" not in text and "Warning" not in text


def test_artifact_that_is_no_artifact_stops_the_launch_with_its_line(tmp_path) -> None:
    from flashtrail.serving.launch import ServerError

    port = free_port()
    command = serve_command(tmp_path, port=port)
    with (
        pytest.raises(ServerError, match=r"exit code 2.*error: .* is not an artifact \(no manifest.json\)"),
        PolicyServerProcess(command, tmp_path / "log", port, 120, env=ENVIRONMENT),
    ):
        pass
