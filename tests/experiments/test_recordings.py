import numpy as np
import pytest
import soundfile

from experiments.shared.datasets import DataError
from experiments.spoken_digits.recordings import (
    Recordings,
    centred,
    clipped,
    digit_strings,
    pause,
    read_recording,
    spoken_digits,
    trimmed,
    windows,
)


def test_recordings_are_named_after_digit_speaker_and_take(tiny_spoken_digits):
    recordings = spoken_digits()
    assert len(recordings.samples) == 120
    assert set(recordings.speakers) == {"anna", "bert"}
    np.testing.assert_array_equal(np.bincount(recordings.digits), np.full(10, 12))
    np.testing.assert_array_equal(np.bincount(recordings.takes), np.full(6, 20))
    assert recordings.samples[0].dtype == np.float32
    anna = recordings.chosen(recordings.speakers == "anna")
    assert len(anna.samples) == 60
    assert set(anna.speakers) == {"anna"}
    assert windows(anna).shape == (60, 8000)


def test_a_window_holds_the_recording_in_its_middle_or_its_loudest_stretch():
    np.testing.assert_array_equal(centred(np.array([1, 2, 3], np.float32), 6), [0, 1, 2, 3, 0, 0])
    np.testing.assert_array_equal(centred(np.array([6, 0, 0, 3, 4, 5, 1], np.float32), 3), [3, 4, 5])


def said(speaker, digit):
    """Recordings of constant samples, to be found again: 100 and 10 times the digit, or its negative for bert."""
    return np.full(100 + 10 * digit, digit + 1, np.float32) * (1 if speaker == "anna" else -1)


def constant_recordings():
    pairs = [(speaker, digit) for speaker in ("anna", "bert") for digit in range(10)]
    speakers, digits = zip(*pairs, strict=True)
    return Recordings([said(*pair) for pair in pairs], np.array(digits), np.array(speakers), np.zeros(20, int))


def test_a_string_is_one_speakers_digits_in_order_with_pauses_around():
    strings = digit_strings(np.random.default_rng(0), constant_recordings(), 70)
    np.testing.assert_array_equal(np.bincount([len(digits) for digits in strings.digits]), [0, *[10] * 7])
    for samples, digits in zip(strings.samples, strings.digits, strict=True):
        assert len(set(np.sign(samples[samples != 0]))) == 1
        heard = np.abs(np.pad(samples, (1, 1)))
        starts = np.flatnonzero((heard[1:] != 0) & (heard[:-1] == 0))
        ends = np.flatnonzero((heard[:-1] != 0) & (heard[1:] == 0))
        np.testing.assert_array_equal(heard[starts + 1] - 1, digits)
        gaps = np.concatenate([starts, [len(samples)]]) - np.concatenate([[0], ends])
        assert gaps.min() >= 0.03 * 8000 - 1
        assert gaps.max() <= 0.3 * 8000 + 1


def test_every_take_is_heard_before_one_is_heard_again():
    strings = digit_strings(np.random.default_rng(1), constant_recordings().chosen(np.arange(10)), 4, most=4)
    assert sorted(digit for digits in strings.digits for digit in digits) == list(range(10))


def test_a_string_ends_where_the_next_digit_has_no_room():
    strings = digit_strings(np.random.default_rng(2), constant_recordings(), 7, longest=0.5)
    assert max(map(len, strings.samples)) <= 4000
    assert max(map(len, strings.digits)) < 7


def test_silent_strings_are_a_pause():
    strings = digit_strings(np.random.default_rng(2), constant_recordings(), 5, silent=1.0)
    assert strings.digits == [[]] * 5
    assert min(map(len, strings.samples)) > 1600
    assert not np.concatenate(strings.samples).any()


def test_the_ends_without_a_voice_are_cut_off():
    voice = np.sin(np.arange(4000)).astype(np.float32)
    whole = np.concatenate([np.zeros(4000), voice, 0.001 * voice]).astype(np.float32)
    np.testing.assert_array_equal(trimmed(whole), whole[4000 - 800 : 8000 + 800])
    np.testing.assert_array_equal(trimmed(voice), voice)
    np.testing.assert_array_equal(trimmed(np.zeros(1000, np.float32)), np.zeros(1000))


def test_a_pause_is_as_loud_as_the_quietest_moment():
    rng = np.random.default_rng(3)
    before = np.concatenate([0.5 * rng.standard_normal(800), 0.01 * rng.standard_normal(800)]).astype(np.float32)
    assert pause(rng, before, 0.2, 0.3).std() == pytest.approx(0.008, abs=0.004)
    assert 1600 <= len(pause(rng, before, 0.2, 0.3)) <= 2400
    assert not pause(rng, before[:3]).any()


@pytest.mark.parametrize(("rate", "channels", "kind"), [(8000, 1, "wav"), (44100, 2, "wav"), (48000, 1, "flac")])
def test_a_users_file_of_any_rate_and_channels_becomes_one_of_8000(rate, channels, kind, tmp_path):
    t = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    soundfile.write(tmp_path / f"tone.{kind}", np.stack([tone] * channels, axis=1), rate)
    samples, share = read_recording(tmp_path / f"tone.{kind}")
    assert share < 0.02
    assert (samples.dtype, samples.shape) == (np.float32, (8000,))
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=2e-3)


def write(path, samples, subtype=None):
    soundfile.write(path, samples, 8000, subtype=subtype)


def write_half(path, kind):
    write(path, np.sin(np.arange(8000)), kind)
    path.write_bytes(path.read_bytes()[:-8000])


BAD = {
    "no_audio": (lambda path: path.write_text("Dear Sir or Madam"), "can't be read as audio"),
    "missing": (lambda path: None, "there is no such file"),
    "empty_file": (lambda path: path.write_bytes(b""), "can't be read as audio"),
    "no_samples": (lambda path: write(path, np.zeros(0)), "is empty"),
    "too_short": (lambda path: write(path, np.zeros(700)), "shorter than 0.1 seconds"),
    "cut_off": (lambda path: write_half(path, "PCM_16"), "is cut off: its header announces more"),
    "cut_off_floats": (lambda path: write_half(path, "FLOAT"), "is cut off: its header announces more"),
    "nan": (lambda path: write(path, np.full(8000, np.nan), "FLOAT"), "no finite numbers"),
}


@pytest.mark.parametrize(("make", "problem"), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_heard_is_named_in_one_sentence(make, problem, tmp_path):
    path = tmp_path / "voice.wav"
    make(path)
    with pytest.raises(DataError, match=problem) as raised:
        read_recording(path)
    assert str(raised.value).startswith(str(path))
    assert str(raised.value).count("\n") == 0


def test_a_file_out_of_a_pipe_that_never_knew_its_length_is_heard(tmp_path):
    path = tmp_path / "voice.wav"
    write(path, np.sin(np.arange(8000)))
    content = path.read_bytes()
    path.write_bytes(content[:4] + 4 * b"\xff" + content[8:40] + 4 * b"\xff" + content[44:])
    assert len(read_recording(path)[0]) == 8000


def test_clipping_is_noticed_and_loudness_is_not():
    voice = np.sin(np.arange(8000) / 7).astype(np.float32)
    assert clipped(voice) < 0.01
    assert clipped(np.clip(2 * voice, -1, 1)) > 0.3
    assert clipped(np.zeros(8000, np.float32)) == 0
