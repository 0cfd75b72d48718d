"""Pages say at which times the verifier was conditioned, for each arm and for the profile; silence is not "true"."""

import pytest
from claims.simulated import inputs, profile, write_campaign

from flashtrail.claims.campaign import Campaign
from flashtrail.report import chapters, overview
from flashtrail.tables import schemas


@pytest.mark.parametrize(("said", "words"), [
    ("true", "clamped at 0.10, as official"), ("false", "verification times true"), (None, None),
])  # fmt: skip
def test_the_profile_says_which_times_verified(tmp_path, said, words):
    path = tmp_path / "rounds.parquet"
    metadata = {} if said is None else {"official_time_bias": said}
    schemas.write_table(path, profile(20), schemas.PROFILE, metadata)
    text = chapters.latency_profile(Campaign({"profile": [str(path)]}))
    assert ("verification times" in text) == (words is not None)
    assert words is None or words in text


def test_each_arm_says_which_times_verified(tmp_path):
    write_campaign(tmp_path, ["clean", "full_only"], episodes=2)
    found = inputs(tmp_path, ["clean", "full_only"])
    path = found["episodes"][0]
    rows = schemas.read_table(path, schemas.EPISODES)
    schemas.write_table(path, rows, schemas.EPISODES, schemas.read_metadata(path) | {"official_time_bias": "true"})
    text = overview.provenance_table(Campaign(found))
    assert text.count("clamped at 0.10, as official") == 1  # the other arm's tables do not say
