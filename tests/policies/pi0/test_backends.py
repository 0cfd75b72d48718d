"""Which backend computes, and what is said where it cannot."""

import importlib.util
import json
import warnings
from dataclasses import replace

import pytest
import torch
from policies.pi0.tiny import DIMS

from flashtrail.policies.pi0 import backends
from flashtrail.policies.pi0.engine import Engine, describe
from flashtrail.policies.pi0.errors import ArtifactError, DeviceError, SettingsError
from flashtrail.policies.pi0.runtime import TorchRuntime


@pytest.fixture(autouse=True)
def no_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA device as far as one can be asked about: 4 GB free, capability 8.9."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a device")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (4 * 10**9, 8 * 10**9))
    monkeypatch.setattr(backends, "missing_build_tool", lambda: None)


@pytest.fixture
def no_triton(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else find(name, *rest)
    )


def test_a_cpu_takes_torch_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("auto", "cpu", "float32").name == "torch"
        assert backends.choose("torch", "cpu", "float32").name == "torch"


def test_triton_without_cuda_is_one_line():
    with pytest.raises(DeviceError, match="backend triton cannot be used: it needs a CUDA device and device is cpu"):
        backends.choose("triton", "cpu", "float32")


def test_without_a_c_compiler_triton_could_not_start_a_kernel(monkeypatch, tmp_path):
    (tmp_path / "gcc").touch(mode=0o755)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(backends.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    assert "no Python.h" in backends.missing_build_tool()
    (tmp_path / "Python.h").touch()
    assert backends.missing_build_tool() is None
    (tmp_path / "gcc").unlink()
    assert "there is none (apt-get install gcc, or set CC)" in backends.missing_build_tool()
    # A server is started by its interpreter's path, from another environment: its own compiler is on no PATH.
    own = tmp_path / "bin/x86_64-conda-linux-gnu-cc"
    own.parent.mkdir()
    own.touch(mode=0o755)
    monkeypatch.setattr(backends.sys, "prefix", str(tmp_path))
    assert backends.missing_build_tool() is None and backends.c_compiler() == str(own)
    monkeypatch.setenv("CC", "tcc")
    assert backends.missing_build_tool() is None


def test_a_device_takes_triton_by_name_only(cuda):
    """Kernels have to show on the device that they are right and faster: the workflow asks for it, then by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = backends.choose("auto", "cuda", "bfloat16")
    assert found.name == "torch" and "have not been examined here" in found.why and backends.EXAMINE in found.why
    assert backends.choose("triton", "cuda", "bfloat16").name == "triton"
    assert backends.choose("torch", "cuda", "bfloat16").name == "torch"


def test_triton_that_is_not_installed(cuda, no_triton):
    with pytest.raises(DeviceError, match=r"package triton is not installed.*backend torch"):
        backends.choose("triton", "cuda", "bfloat16")
    with pytest.warns(UserWarning, match="auto takes torch: the package triton"):
        assert backends.choose("auto", "cuda", "bfloat16").name == "torch"


def test_an_old_device(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    with pytest.raises(DeviceError, match=r"older than compute capability 8\.0"):
        backends.choose("triton", "cuda", "float32")
    with pytest.raises(DeviceError, match="does not compute in bfloat16; use --dtype float32"):
        backends.check_device("cuda", "bfloat16")


def test_the_interpreter_is_not_for_devices_nor_for_bfloat16(cuda, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(DeviceError, match="unset it"):
        backends.choose("triton", "cuda", "bfloat16")
    with pytest.raises(DeviceError, match="wrong in bfloat16"):
        backends.choose("triton", "cpu", "bfloat16")
    assert backends.choose("triton", "cpu", "float32").name == "triton"
    assert backends.choose("auto", "cpu", "float32").name == "torch"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with 6 GB to be had."""
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal:       16000000 kB\nMemFree:          200000 kB\nMemAvailable:    6000000 kB\n")
    monkeypatch.setattr(backends, "MEMORY", memory)
    return memory


def test_weights_without_room_say_what_would_fit(cuda, host):
    backends.check_device("cuda", "float32", DIMS)
    for device, dtype, pieces, message in (
        ("cuda", "float32", 60, r"cuda has 4\.0 GB free; 0\.96 .* float32 need about 5\.8 GB: bfloat16 would fit"),
        ("cuda", "bfloat16", 100, r"cuda has 4\.0 GB free; .* bfloat16 need about 4\.8 GB: cpu would fit it, slowly"),
        ("cuda", "bfloat16", 600, r"need about 28\.8 GB: free some, or use a machine with that much$"),
        ("cpu", "float32", 100, r"cpu has 6\.1 GB free; .* float32 need about 9\.6 GB: bfloat16 would fit"),
        ("cpu", "float32", 600, r"57\.6 GB: free some, or use a machine with that much, or 28\.8 GB in bfloat16"),
    ):
        with pytest.raises(DeviceError, match=message):
            backends.check_device(device, dtype, replace(DIMS, vocab_size=pieces * 10**6))


def test_a_host_that_does_not_say_what_is_free_is_tried(host):
    host.unlink()
    assert backends.free_memory(torch.device("cpu")) is None
    backends.check_device("cpu", "float32", replace(DIMS, vocab_size=10**9))


def test_a_policy_without_room_is_refused_before_it_is_read(artifact, host, monkeypatch):
    host.write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(TorchRuntime, "load", lambda *words: pytest.fail("it was read"))
    with pytest.raises(DeviceError, match=r"cpu has 0\.0 GB free"):
        Engine.load(*artifact)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nlong story"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2415919104 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_on_the_way_is_one_line(artifact, monkeypatch, error):
    def full(*words, **more):
        raise error

    monkeypatch.setattr(TorchRuntime, "load", full)
    said = "cpu ran out of memory while the policy was loaded in float32: end what else runs there, or use bfloat16$"
    with pytest.raises(DeviceError, match=said):
        Engine.load(*artifact)
    with pytest.raises(DeviceError, match=r"loaded in bfloat16: .*, or let fewer than 8 sessions share a pass"):
        Engine.load(*artifact, dtype="bfloat16", together=8)


def test_what_is_no_shortage_of_memory_keeps_its_traceback(artifact, monkeypatch):
    def broken(*words, **more):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(TorchRuntime, "load", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Engine.load(*artifact)


def test_an_artifact_of_another_architecture_is_named(artifact):
    """Its manifest says what this engine has no part for, or lacks what it needs."""
    manifest = json.loads((artifact[0] / "manifest.json").read_text())
    for change, message in (
        ({"adaptive_norm": True}, r"dims has unknown keys \['adaptive_norm'\]"),
        ({"expert": manifest["dims"]["expert"] | {"depth": 3}}, "prefix and expert differ in depth"),
        ({"vision": {"kind": "vit"}}, "dims.vision has unknown keys"),
    ):
        changed = manifest | {"dims": manifest["dims"] | change}
        (artifact[0] / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(
            ArtifactError, match=f"base is not a policy that this engine computes .*{message}"
        ) as caught:
            Engine.load(*artifact)
        assert "\n" not in str(caught.value)


def test_a_draft_of_another_architecture_is_named(artifact):
    path = artifact[1] / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"dims": manifest["dims"] | {"layers": 2}}))
    with pytest.raises(ArtifactError, match=r"draft is not a policy that this engine computes .* keys \['layers'\]"):
        Engine.load(*artifact)


def test_an_unknown_name():
    with pytest.raises(SettingsError, match="backend 'tensorrt' is not known; use one of auto, torch, triton"):
        backends.choose("tensorrt", "cpu", "float32")


def test_an_engine_says_what_computes(artifact):
    engine = Engine.load(*artifact, backend="torch")
    assert type(engine.runtime) is TorchRuntime
    assert describe(engine)["backend"] == "torch"
    assert describe(engine)["backend_why"] == "asked for by name"
    assert describe(Engine.load(*artifact))["backend_why"] == "auto: the device is a CPU"


@pytest.mark.parametrize(
    ("words", "together"),
    [([], 16), (["--max-batch", "6"], 6), (["--max-sessions", "3"], 3), (["--max-batch", "1"], 1)],
)
def test_a_server_prepares_for_as_many_as_may_share_a_pass(artifact, monkeypatch, words, together):
    """What a server's flags allow reaches the runtime's warm-up before a client is let in."""
    from flashtrail import cli
    from flashtrail.serving import command

    asked = []

    class Recording(TorchRuntime):
        device = property(lambda self: torch.device("cuda"), lambda self, value: None)  # warm-up is for devices

        def warm_up(self, settings, together):
            asked.append((settings.tau_radius, together))

    monkeypatch.setattr(backends, "runtime_class", lambda name: Recording)
    words = ["serve", "--artifact", str(artifact[0]), "--draft", str(artifact[1]), "--tau", "0.25", *words]
    command._load_policy(cli._parser(words).parse_args(words))
    assert asked == [(0.25, together)]
