"""What is disturbed and what is recorded, without a simulator."""

import numpy as np

from flashtrail.training import demonstrations as d


def test_the_gripper_command_is_never_disturbed_and_the_label_stays_clean():
    noise = d.ActionNoise(0.2, np.random.default_rng(0))
    clean = np.array([0.5, 0, 0, 0, 0, 0, 1.0])
    executed = np.array([noise(clean) for _ in range(300)])
    np.testing.assert_array_equal(clean, [0.5, 0, 0, 0, 0, 0, 1.0])
    np.testing.assert_array_equal(executed[:, 6], 1.0)
    assert 0.1 < executed[:, 1].std() < 0.6
    assert np.abs(executed).max() <= 1.0


def test_no_noise_means_the_clean_action():
    noise = d.ActionNoise(0.0, np.random.default_rng(0))
    clean = np.linspace(-1, 1, 7)
    np.testing.assert_array_equal(noise(clean), clean)


def test_episodes_use_training_inits_only_and_a_share_begins_after_a_miss():
    drawn = [d.Disturbance.draw(k, np.random.default_rng([1, k])) for k in range(240)]
    assert {x.init_state for x in drawn} == set(range(10, 50))
    assert 0.14 < np.mean([x.missed for x in drawn]) < 0.2
    assert not any(x.missed and x.displaced for x in drawn)
    assert 0.05 < np.mean([x.sigma == 0 for x in drawn]) < 0.25


def test_the_stored_view_is_the_policys_view_halved():
    from flashtrail.simulators.observation import resize_with_pad, upright

    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    seen = resize_with_pad(upright(image)).astype(np.float64)
    stored = d.stored_view(image)
    assert stored.dtype == np.uint8
    assert stored.shape == (112, 112, 3)
    expected = (seen[0::2, 0::2] + seen[1::2, 0::2] + seen[0::2, 1::2] + seen[1::2, 1::2]) / 4
    assert np.abs(stored - expected).max() <= 0.5
