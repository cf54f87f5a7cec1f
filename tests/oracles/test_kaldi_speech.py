import kaldi_native_fbank as kaldi
import numpy as np
import pytest

from experiments.spoken_digits.features import LogMel, mfcc

SAMPLES = np.random.default_rng(0).standard_normal(3000).astype(np.float32)


def plain(options, rate, filters):
    """Kaldi without dither, pre-emphasis and lifter, under Hann's window."""
    frames = options.frame_opts
    frames.samp_freq, frames.dither, frames.preemph_coeff, frames.remove_dc_offset = rate, 0, 0, False
    frames.window_type = "hanning"
    options.mel_opts.num_bins, options.mel_opts.low_freq = filters, 60
    return options


def features(stream, rate):
    stream.accept_waveform(rate, SAMPLES.tolist())
    stream.input_finished()
    return np.stack([stream.get_frame(t) for t in range(stream.num_frames_ready)])


@pytest.mark.parametrize(("rate", "filters"), [(8000, 40), (16000, 23)])
def test_log_mels_are_those_of_kaldi(rate, filters):
    expected = features(kaldi.OnlineFbank(plain(kaldi.FbankOptions(), rate, filters)), rate)
    np.testing.assert_allclose(LogMel(rate, filters=filters)(SAMPLES), expected, atol=2e-4)


def test_mfcc_are_those_of_kaldi():
    options = plain(kaldi.MfccOptions(), 8000, 40)
    options.use_energy, options.cepstral_lifter, options.num_ceps = False, 0, 13
    expected = features(kaldi.OnlineMfcc(options), 8000)
    np.testing.assert_allclose(mfcc(LogMel()(SAMPLES)), expected, atol=5e-4)
