from dataclasses import replace

import pytest
from policies.pi0.tiny import DIMS, DRAFT_DIMS

from flashtrail.policies.pi0.dims import Pi0Dims, Stem, StemLayer, VisionDims
from flashtrail.policies.pi0.errors import ArtifactError

STEM = Stem(layers=(StemLayer(5, 2, 8), StemLayer(3, 2, 16)), pool=2)


def test_dims_survive_the_manifest():
    stemmed = replace(DIMS, vision=replace(DIMS.vision, patch=None, stem=STEM))
    for dims in (DIMS, stemmed):
        assert Pi0Dims.from_dict(dims.to_dict()) == dims


def test_tokens_of_patches_and_of_a_stem():
    assert DIMS.vision.tokens == (224 // 56) ** 2
    # 224 pooled to 112, then halved twice.
    assert VisionDims(16, 1, 16, 2, 8, patch=None, stem=STEM).tokens == 28**2


def test_an_unknown_key_is_named():
    with pytest.raises(ArtifactError, match="pathc"):
        Pi0Dims.from_dict(DIMS.to_dict() | {"pathc": 1})


def test_a_missing_key_is_named():
    values = DIMS.to_dict()
    del values["expert"]["mlp_dim"]
    with pytest.raises(ArtifactError, match=r"dims\.expert lacks \['mlp_dim'\]"):
        Pi0Dims.from_dict(values)


def test_prefix_and_expert_must_share_heads():
    values = DIMS.to_dict()
    values["expert"]["num_heads"] = 2
    with pytest.raises(ArtifactError, match="num_heads"):
        Pi0Dims.from_dict(values)


def test_a_draft_for_other_dims_is_refused():
    with pytest.raises(ArtifactError, match="its width is 32, the base policy needs 16"):
        replace(DRAFT_DIMS, width=32).check_fits(DIMS)
