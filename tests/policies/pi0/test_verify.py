"""The acceptance rule sentence by sentence; tests/conformance holds it to upstream's own cases."""

import numpy as np
import pytest

from flashtrail.policies.pi0.errors import SettingsError
from flashtrail.policies.pi0.settings import FlashSettings
from flashtrail.policies.pi0.verify import judge

DRAFT = np.zeros((50, 32), np.float32)


def estimates(*steps_off: int, by: float = 1.0, dim: int = 0, times: int = 2) -> np.ndarray:
    x0_hat = np.zeros((times, 50, 32), np.float32)
    for step in steps_off:
        x0_hat[:, step, dim] = by
    return x0_hat


def test_all_that_may_be_executed_is_accepted_and_no_more():
    assert judge(DRAFT, estimates(), 0.0, FlashSettings()).accepted == 12
    assert judge(DRAFT, estimates(12), 0.0, FlashSettings()).accepted == 12
    assert judge(DRAFT, estimates(), 0.0, FlashSettings(max_exec_steps=60)).accepted == 50


def test_a_gap_ends_the_prefix():
    assert judge(DRAFT, estimates(3), 0.0, FlashSettings()).accepted == 3
    assert judge(DRAFT, estimates(0), 0.0, FlashSettings()).accepted == 0


def test_the_strictest_time_decides_and_nothing_is_averaged_first():
    x0_hat = estimates()
    x0_hat[0, 4, 0], x0_hat[1, 4, 0] = 1.0, -1.0
    verdict = judge(DRAFT, x0_hat, 0.0, FlashSettings())
    assert verdict.accepted == 4
    assert verdict.chunk[4, 0] == 0.0  # the tail is the mean


def test_the_radius_is_a_root_mean_square_over_six_dims_and_inclusive():
    tau = 0.25
    at = np.sqrt(6.0).astype(np.float32) * np.float32(tau)
    inside, outside = estimates(2, by=at * np.float32(0.999)), estimates(2, by=at * np.float32(1.001))
    assert judge(DRAFT, inside, 0.0, FlashSettings(tau_radius=tau)).accepted == 12
    assert judge(DRAFT, outside, 0.0, FlashSettings(tau_radius=tau)).accepted == 2
    exact = estimates(2, by=tau)
    assert judge(DRAFT, exact, 0.0, FlashSettings(tau_radius=tau, dist_dims=1)).accepted == 12


def test_the_gripper_is_no_distance():
    off = FlashSettings(enable_gripper_verify=False, enable_gripper_post_verify=False)
    assert judge(DRAFT, estimates(2, by=9.0, dim=6), 0.0, off).accepted == 12
    assert judge(DRAFT, estimates(2, by=9.0, dim=7), 0.0, off).accepted == 12  # padding neither


def test_an_estimate_that_switches_the_gripper_rejects_all_and_returns_the_tail():
    x0_hat = estimates(5, by=-1.0, dim=6)
    x0_hat[:, :, 0] = 0.1
    verdict = judge(DRAFT, x0_hat, 0.5, FlashSettings())
    assert verdict.gripper_stop and verdict.accepted == 0 and not verdict.gripper_cut
    assert verdict.chunk[0, 0] == pytest.approx(0.1)


def test_a_switch_beyond_the_window_is_not_seen():
    assert not judge(DRAFT, estimates(12, by=-1.0, dim=6), 0.0, FlashSettings()).gripper_stop


def test_a_switch_in_the_accepted_prefix_ends_it():
    draft = DRAFT.copy()
    draft[7:, 6] = -1.0
    only_post = FlashSettings(enable_gripper_verify=False)
    verdict = judge(draft, np.stack([draft, draft]), 0.5, only_post)
    assert (verdict.accepted, verdict.gripper_cut) == (7, True)


def test_the_threshold_itself_is_the_upper_side():
    settings = FlashSettings(enable_gripper_verify=False)
    assert not judge(DRAFT, estimates(), 0.0, settings).gripper_cut
    assert judge(DRAFT, estimates(), -0.1, settings).accepted == 0


@pytest.mark.parametrize("bad", [{"t_list": ()}, {"t_list": (0.0,)}, {"tau_radius": -1.0}, {"max_exec_steps": 0}])
def test_settings_out_of_range_are_named(bad):
    with pytest.raises(SettingsError, match=next(iter(bad))):
        FlashSettings(**bad)


def test_an_unknown_setting_is_named():
    with pytest.raises(SettingsError, match="tau_raduis"):
        FlashSettings.from_dict({"tau_raduis": 0.1})
