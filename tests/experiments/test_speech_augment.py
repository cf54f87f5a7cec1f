import jax
import numpy as np
import pytest

from experiments.speech_augment import masks, noise, resampled, speed

KEY = jax.random.key(0)


def tone(hertz, n=1000):
    return np.sin(2 * np.pi * hertz * np.arange(n) / 8000).astype(np.float32)


@pytest.mark.parametrize("rate", [0.85, 1.0, 1.15])
def test_a_tone_read_faster_is_a_higher_tone(rate):
    read = resampled(tone(900), rate * np.arange(800), min(1, 1 / rate))
    expected = np.sin(2 * np.pi * 900 * rate * np.arange(800) / 8000)
    np.testing.assert_allclose(read[20:-20], expected[20:-20], atol=0.02)


def test_what_would_be_folded_back_is_taken_away():
    assert np.std(resampled(tone(3900), 1.3 * np.arange(700), 1 / 1.3)[20:-20]) < 0.05


def test_speed_changes_lengths_and_keeps_the_middle_of_a_window():
    samples, lengths = np.tile(tone(500), (8, 1)), np.full(8, 800)
    samples[:, 800:] = 0
    read, new = speed(KEY, samples, lengths, 1.2)
    assert len(set(np.asarray(new))) > 4
    assert (new >= 800 / 1.2 - 1).all()
    assert (new <= 960).all()
    for row, length in zip(np.asarray(read), new, strict=True):
        assert np.abs(row[length - 20 : length]).max() > 0.1
        np.testing.assert_allclose(row[length + 20 :], 0, atol=0.02)
    click = np.zeros((4, 1001), np.float32)
    click[:, 500] = 1
    read, _ = speed(KEY, click, np.full(4, 1001), 1.2, centred=True)
    np.testing.assert_array_equal(np.argmax(read, axis=1), 500)


def test_noise_has_the_ratio_asked_for_and_ends_with_the_recording():
    samples, lengths = np.tile(tone(500, 8000), (4, 1)), np.array([8000, 8000, 4000, 4000])
    samples[2:, 4000:] = 0
    added = np.asarray(noise(KEY, samples, lengths, 20.0, 20.0)) - samples
    for row, length in zip(added, lengths, strict=True):
        ratio = 0.5 / np.mean(row[:length] ** 2)
        assert 10 * np.log10(ratio) == pytest.approx(20, abs=0.6)
        assert (row[length:] == 0).all()


def test_masks_take_whole_stretches_and_bands_and_leave_the_rest():
    features = np.ones((20, 50, 40), np.float32)
    masked = np.asarray(masks(KEY, features, times=1, longest=10, bands=1, widest=5))
    assert set(np.unique(masked)) == {0, 1}
    lost_times, lost_bands = (masked == 0).all(axis=2), (masked == 0).all(axis=1)
    np.testing.assert_array_equal(masked == 0, lost_times[:, :, None] | lost_bands[:, None, :])
    assert lost_times.sum(axis=1).max() <= 10
    assert lost_bands.sum(axis=1).max() <= 5
    assert len({row.tobytes() for row in masked}) > 10


def test_the_same_key_changes_the_same():
    samples, lengths = np.tile(tone(500), (2, 1)), np.full(2, 1000)
    for change in (lambda key: speed(key, samples, lengths)[0], lambda key: noise(key, samples, lengths)):
        np.testing.assert_array_equal(change(KEY), change(KEY))
        assert (np.asarray(change(KEY)) != np.asarray(change(jax.random.key(1)))).any()
