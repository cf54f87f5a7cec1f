import jax
import numpy as np
import pytest
import scipy.fft
import scipy.signal

from experiments.spoken_digits.features import LogMel, mel, mfcc, normalised


def by_loops(samples, front):
    """The log-mel energies written out: every frame, bin and triangle by itself, in NumPy and SciPy."""
    hertz_of = lambda m: 700 * (np.exp(m / 1127) - 1)  # noqa: E731
    size = 2 ** int(np.ceil(np.log2(front.length)))
    window = scipy.signal.windows.hann(front.length)
    corners = np.linspace(mel(front.low), mel(front.rate / 2), front.filters + 2)
    energies = []
    for start in range(0, len(samples) - front.length + 1, front.step):
        power = np.abs(scipy.fft.fft(samples[start : start + front.length] * window, size)[: size // 2 + 1]) ** 2
        row = np.zeros(front.filters)
        for m, (left, middle, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
            for k, p in enumerate(power):
                frequency = k * front.rate / size
                if hertz_of(left) < frequency <= hertz_of(middle):
                    row[m] += p * (mel(frequency) - left) / (middle - left)
                elif hertz_of(middle) < frequency < hertz_of(right):
                    row[m] += p * (right - mel(frequency)) / (right - middle)
        energies.append(row)
    return np.log(np.maximum(energies, front.floor))


@pytest.mark.parametrize("front", [LogMel(), LogMel(16000, 0.02, 0.015, 13, 20.0)], ids=["8kHz", "16kHz"])
def test_log_mels_are_what_the_loops_say(front):
    samples = np.random.default_rng(0).standard_normal(1234)
    with jax.enable_x64(True):
        np.testing.assert_allclose(front(samples), by_loops(samples, front), rtol=1e-10, atol=1e-10)


def test_a_tone_is_loudest_in_the_filter_of_its_pitch():
    front = LogMel()
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    corners = np.linspace(mel(front.low), mel(4000), front.filters + 2)
    nearest = np.argmin(np.abs(corners[1:-1] - mel(1000)))
    assert (np.argmax(front(tone), axis=-1) == nearest).all()


def test_triangles_add_up_to_one_between_the_first_and_the_last_peak():
    front = LogMel(filters=10)
    total = front.triangles(256).sum(axis=1)
    peaks = np.linspace(mel(front.low), mel(4000), 12)[[1, -2]]
    bins = mel(np.arange(129) * 8000 / 256)
    np.testing.assert_allclose(total[(peaks[0] <= bins) & (bins <= peaks[1])], 1)


def test_mfcc_are_the_cosine_transform_and_keep_lengths():
    log_mel = np.random.default_rng(1).standard_normal((3, 5, 20)).astype(np.float32)
    np.testing.assert_allclose(mfcc(log_mel), scipy.fft.dct(log_mel, norm="ortho")[..., :13], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(mfcc(log_mel, 20), axis=-1), np.linalg.norm(log_mel, axis=-1), rtol=1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(199, 0), (200, 1), (279, 1), (280, 2), (8000, 98)])
def test_frames_lie_within_the_samples(samples, frames):
    assert LogMel().frames(samples) == frames
    if frames:
        assert jax.eval_shape(LogMel(), np.zeros(samples, np.float32)).shape == (frames, 40)


def test_too_few_samples_for_a_frame_are_refused():
    with pytest.raises(ValueError, match="a frame takes 200 samples, got only 199"):
        LogMel()(np.zeros(199, np.float32))


def test_normalised_features_know_neither_loudness_nor_padding():
    rng = np.random.default_rng(2)
    log_mel = 3 * rng.standard_normal((2, 9, 4)).astype(np.float32)
    frames = np.array([9, 6])
    plain = np.asarray(normalised(log_mel, frames))
    other = log_mel + np.array([3.0, -2.0], np.float32)[:, None, None]
    other[1, 6:] = 100.0
    np.testing.assert_allclose(normalised(other, frames), plain, atol=1e-5)
    assert (plain[1, 6:] == 0).all()
    for row, count in zip(plain, frames, strict=True):
        assert abs(row[:count].mean()) < 1e-6
        assert abs(row[:count].std() - 1) < 1e-5


def test_noise_alone_is_not_blown_up():
    noise = 0.3 * np.random.default_rng(3).standard_normal((1, 50, 8)).astype(np.float32)
    np.testing.assert_allclose(normalised(noise, np.array([50])), noise - noise.mean(), atol=1e-6)


def test_near_silence_is_lifted_and_silence_stays_finite():
    quiet = np.array([[[0.0, -5.0, -9.0, -20.0]]], np.float32)
    features = np.asarray(normalised(quiet, np.array([1]), reach=8.0))[0, 0]
    assert features[0] > features[1] > features[2] == features[3]
    silence = np.full((1, 3, 4), np.log(1e-10), np.float32)
    np.testing.assert_array_equal(normalised(silence, np.array([3])), np.zeros((1, 3, 4)))
