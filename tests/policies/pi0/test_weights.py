import json

import pytest
import torch
from policies.pi0.tiny import DIMS, DRAFT_DIMS, write_artifact

from flashtrail.policies.pi0 import expert, prefix, weights
from flashtrail.policies.pi0.errors import ArtifactError, DeviceError
from flashtrail.policies.pi0.runtime import TorchRuntime


def test_an_artifact_gives_back_its_weights(artifact):
    base, dims, manifest = weights.load_base(artifact[0])
    want = weights.init_base(DIMS, 0)
    assert dims == DIMS and manifest["kind"] == "base"
    assert base.keys() == want.keys() and all(torch.equal(base[k], want[k]) for k in want)


def test_initialisation_depends_on_the_seed_alone():
    a, b, c = weights.init_base(DIMS, 3), weights.init_base(DIMS, 3), weights.init_base(DIMS, 4)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["embed.weight"], c["embed.weight"])


def test_fused_weights_compute_the_same():
    w = weights.init_base(DIMS, 0)
    generator = torch.Generator().manual_seed(0)
    emb = torch.randn(1, 9, DIMS.prefix.width, generator=generator)
    state, x_t = torch.randn(1, 32, generator=generator), torch.randn(1, 50, 32, generator=generator)
    out = []
    for form in (w, weights.unbind(w), weights.prepare(w)):
        cache = prefix.prefill(form, DIMS, emb, None)
        out.append(expert.velocity(form, DIMS, cache, state, x_t, torch.tensor([0.3])))
    torch.testing.assert_close(out[1], out[0], rtol=0, atol=0)
    torch.testing.assert_close(out[2], out[0], rtol=0, atol=1e-5)


def test_a_truncated_file_is_one_line(artifact):
    path = artifact[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="truncated") as caught:
        weights.load_base(artifact[0])
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_seen_without_its_record(artifact):
    manifest = json.loads((artifact[0] / "manifest.json").read_text())
    (artifact[0] / "manifest.json").write_text(json.dumps(manifest | {"files": {}}))
    path = artifact[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="truncated or corrupted"):
        weights.load_base(artifact[0])


def test_a_flipped_byte_is_seen(artifact):
    path = artifact[0] / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match="corrupted"):
        weights.load_base(artifact[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("state_proj.weight"), "lacks tensor state_proj.weight"),
        (lambda w: w.update({"extra.weight": torch.zeros(1)}), "unexpected tensor extra.weight"),
        (lambda w: w.update({"state_proj.bias": torch.zeros(3)}), r"state_proj.bias has shape \(3,\)"),
        (lambda w: w.update({"state_proj.bias": torch.zeros(12, dtype=torch.int32)}), "dtype I32"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(artifact, change, message):
    tensors = weights.init_base(DIMS, 0)
    change(tensors)
    write_artifact(artifact[0], "base", tensors, DIMS.to_dict())
    with pytest.raises(ArtifactError, match=message):
        weights.load_base(artifact[0])


def test_a_draft_is_no_base(artifact):
    with pytest.raises(ArtifactError, match="'draft' artifact where a 'base' one is needed"):
        weights.load_base(artifact[1])


def test_no_artifact_at_all(tmp_path):
    with pytest.raises(ArtifactError, match="no artifact directory"):
        weights.load_base(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        weights.load_base(tmp_path)


def test_a_draft_for_another_policy_is_refused_before_the_base_is_read(artifact):
    dims = DRAFT_DIMS.to_dict() | {"width": 24}
    other = weights.DraftDims.from_dict(dims)
    write_artifact(artifact[1], "draft", weights.init_draft(other, 0), dims)
    (artifact[0] / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="made for other dims"):
        TorchRuntime.load(*artifact)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_where_there_is_none(artifact):
    with pytest.raises(DeviceError, match="no CUDA device; use --device cpu"):
        weights.load_base(artifact[0], device="cuda")


@pytest.mark.parametrize("device", ["tpu", "mps"])
def test_an_unknown_device_is_named(device):
    with pytest.raises(DeviceError, match=device):
        weights.resolve_device(device)
