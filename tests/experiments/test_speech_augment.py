import jax
import numpy as np
import pytest

from experiments.spoken_digits.augmentation import masks, noise, speed


def tone(hertz, n=1000):
    return np.sin(2 * np.pi * hertz * np.arange(n) / 8000).astype(np.float32)


def pitch(samples):
    """The loudest frequency, in Hz."""
    return np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 2**16))) * 8000 / 2**16


def test_a_tone_said_faster_is_shorter_and_higher():
    rng = np.random.default_rng(0)
    for _ in range(10):
        samples = speed(rng, tone(900, 1009), 1.2)
        assert samples.dtype == np.float32
        assert 1009 / 1.25 <= len(samples) <= 1009 * 1.25
        assert pitch(samples) == pytest.approx(900 * 1009 / len(samples), rel=0.01)
    assert len({len(speed(rng, tone(900), 1.2)) for _ in range(10)}) > 4


def test_what_is_too_high_for_the_rate_is_taken_away_and_not_folded_back():
    rng = np.random.default_rng(1)
    for _ in range(10):
        faster = speed(rng, tone(3900), 1.2)
        if len(faster) < 970:
            assert np.std(faster[50:-50]) < 0.05


def test_noise_has_the_ratio_asked_for_and_every_colour():
    rng = np.random.default_rng(2)
    brightness = []
    for _ in range(8):
        added = noise(rng, tone(500, 8000), 20.0, 20.0) - tone(500, 8000)
        assert 10 * np.log10(0.5 / np.mean(added**2)) == pytest.approx(20, abs=0.6)
        brightness.append(np.mean(added[1:] * added[:-1]) / np.mean(added**2))
    assert min(brightness) < 0 < max(brightness)


def test_silence_stays_silent():
    assert not noise(np.random.default_rng(3), np.zeros(100, np.float32)).any()


def test_masks_take_whole_stretches_and_bands_and_leave_the_rest():
    features = np.ones((20, 50, 40), np.float32)
    masked = np.asarray(masks(jax.random.key(0), features, times=1, longest=10, bands=1, widest=5))
    assert set(np.unique(masked)) == {0, 1}
    lost_times, lost_bands = (masked == 0).all(axis=2), (masked == 0).all(axis=1)
    np.testing.assert_array_equal(masked == 0, lost_times[:, :, None] | lost_bands[:, None, :])
    assert lost_times.sum(axis=1).max() <= 10
    assert lost_bands.sum(axis=1).max() <= 5
    assert len({row.tobytes() for row in masked}) > 10
    np.testing.assert_array_equal(masked, masks(jax.random.key(0), features, times=1, longest=10, bands=1, widest=5))
