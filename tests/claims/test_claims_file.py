"""claims.yaml as a user writes it: what is wrong in it is named at planning, in one line."""

import pytest
from claims.test_claims import HURTS, write_claims

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import claims


@pytest.mark.parametrize(
    ("arm", "meant"),
    [
        *[("claen", "clean"), ("wrist_zero_al", "wrist_zero_all"), ("wrist_zero_evry4", "wrist_zero_every4")],
        *[("clean", None), ("guard_wrist_zero_all", None), ("wrist_noise_all", None), ("wrist_zero_every8", None)],
    ],
)
def test_a_misspelt_arm_is_named_and_an_absent_one_is_not(tmp_path, arm, meant):
    path = write_claims(tmp_path, **{**HURTS, "control": arm})
    known = ["fault", "clean", "wrist_zero_all", "wrist_zero_every4"]
    if meant is None:
        return claims.check_arms(path, claims.load(path), known)
    with pytest.raises(UserError, match=f"claim C7: no config has an arm '{arm}'; did you mean '{meant}'"):
        claims.check_arms(path, claims.load(path), known)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"id": True}, "claim True: it has no 'test'"),
        ({"id": "C1", "test": "guess"}, "claim C1: unknown test 'guess'"),
        ({"id": True, "test": "bookkeeping"}, "claim True, id: must be text, not True: quote it"),
    ],
)
def test_a_claim_that_is_none_is_named_in_our_words(tmp_path, entry, said):
    provenance.json_dump({"version": 1, "claims": [entry]}, tmp_path / "claims.yaml")
    with pytest.raises(UserError) as caught:
        claims.load(tmp_path / "claims.yaml")
    assert said in str(caught.value) and "pydantic" not in str(caught.value)
