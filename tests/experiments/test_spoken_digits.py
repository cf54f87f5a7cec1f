import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxbp
from experiments.shared.datasets import DataError
from experiments.spoken_digits import __main__ as spoken_digits
from experiments.spoken_digits import connected as connected_digits
from experiments.spoken_digits import isolated as isolated_digits
from experiments.spoken_digits.__main__ import Options, Split, What, held_out
from experiments.spoken_digits.connected import JOINED, features, joined, padded, transcripts
from experiments.spoken_digits.recordings import Recordings
from experiments.spoken_digits.recordings import spoken_digits as recorded

SMALL = jaxbp.Serial(
    jaxbp.MapValues(jaxbp.Conv(4, (3,))),
    jaxbp.MapValues(jaxbp.ReLU()),
    jaxbp.MapValues(jaxbp.Identity()),
    jaxbp.Bidirectional(jaxbp.GRU(3)),
    jaxbp.DropLengths(),
    jaxbp.Dense(11),
)


@pytest.fixture(scope="module")
def small_networks():
    """The same code with networks that compile fast."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(connected_digits, "MODEL", SMALL)
        few = lambda rng, recordings: connected_digits.plain(rng, recordings, 14)  # noqa: E731
        strings = dataclasses.replace(connected_digits.TASK, model=SMALL, plain=few)
        monkeypatch.setattr(connected_digits, "TASK", strings)
        flat = jaxbp.Serial(jaxbp.AvgPool((14, 8)), jaxbp.Flatten(), jaxbp.Dense(10))
        isolated = dataclasses.replace(isolated_digits.TASK, model=flat)
        monkeypatch.setattr(What.strings, "_value_", strings)
        monkeypatch.setattr(What.isolated, "_value_", isolated)
        yield


def recordings(speakers=("anna", "bert"), takes=20):
    labels = [(digit, name, take) for name in speakers for digit in range(10) for take in range(takes)]
    digits, names, numbers = (np.array(column) for column in zip(*labels, strict=True))
    return Recordings([np.zeros(1, np.float32)] * len(labels), digits, names, numbers)


def test_a_random_tenth_holds_out_of_each_speaker_and_digit_alike():
    everything = recordings()
    first, second = (held_out(everything, Options(split_seed=seed))["random"] for seed in (0, 1))
    assert first.sum() == second.sum() == 40
    assert (first != second).any()
    chosen = everything.chosen(first)
    for name in ("anna", "bert"):
        np.testing.assert_array_equal(np.bincount(chosen.digits[chosen.speakers == name]), np.full(10, 2))


def test_the_official_test_is_takes_0_to_4():
    everything = recordings()
    test = held_out(everything, Options(split=Split.official))["official"]
    assert set(everything.takes[test]) == {0, 1, 2, 3, 4}
    assert test.sum() == 100


def test_each_speaker_is_held_out_whole():
    everything = recordings()
    splits = held_out(everything, Options(split=Split.speaker))
    assert list(splits) == ["anna", "bert"]
    assert set(everything.speakers[splits["anna"]]) == {"anna"}
    assert "anna" not in everything.speakers[~splits["anna"]]
    assert list(held_out(everything, Options(split=Split.speaker, speakers=("bert",)))) == ["bert"]
    with pytest.raises(ValueError, match="nobody is called carl: the speakers are anna, bert"):
        held_out(everything, Options(split=Split.speaker, speakers=("carl",)))


def test_padding_changes_nothing_of_what_the_network_hears():
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal(n).astype(np.float32) for n in (1300, 2000)]
    short = joined(*features(*padded(samples)))
    params = jax.jit(SMALL.init)(jax.random.key(0), short)
    long = joined(*features(*padded(samples, 0.5)))
    assert long.values.shape[1] > short.values.shape[1]
    np.testing.assert_array_equal(short.lengths, long.lengths)
    outputs = [np.asarray(jax.jit(SMALL.forward)(params, x)[0]) for x in (short, long)]
    for row in range(2):
        length = int(short.lengths[row])
        np.testing.assert_allclose(outputs[0][row, :length], outputs[1][row, :length], atol=1e-5)


def test_joined_frames_lie_side_by_side():
    frames = jnp.arange(2 * 6 * 3.0).reshape(2, 6, 3)
    x = joined(frames, jnp.array([6, 5]))
    assert x.values.shape == (2, 2, JOINED * 3)
    np.testing.assert_array_equal(x.values[0, 0], np.arange(12))
    np.testing.assert_array_equal(x.values[0, 1], [*range(12, 18), *[0] * 6])
    np.testing.assert_array_equal(x.lengths, [2, 2])


def test_digits_become_classes_and_back():
    x = jaxbp.Sequences(jnp.zeros((2, 5, 1)), jnp.array([5, 4]))
    targets = transcripts([[0, 9, 9], []], x, 4)
    np.testing.assert_array_equal(targets.labels, [[1, 10, 10, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(targets.label_lengths, [3, 0])
    path = np.array([[1, 10, 0, 10, 0], [0, 0, 0, 0, 0]])
    logits = 20.0 * np.eye(11, dtype=np.float32)[path]
    assert connected_digits.heard(logits, np.array([5, 4])) == [[0, 9, 9], []]
    assert connected_digits.mistakes(logits, targets) == (0, 3)
    wrong = 20.0 * np.eye(11, dtype=np.float32)[np.array([[1, 0, 0, 10, 0], [3, 0, 0, 0, 0]])]
    assert connected_digits.mistakes(wrong, targets) == (2, 3)


@pytest.fixture(scope="module")
def isolated(tiny_spoken_digits, small_networks, tmp_path_factory):
    output = tmp_path_factory.mktemp("isolated")
    return spoken_digits.main(Options(split=Split.speaker, epochs=2, output=output)), output / "isolated_speaker"


def test_isolated_digits_are_heard_speaker_by_speaker(isolated):
    metrics, folder = isolated
    assert json.loads((folder / "results.json").read_text()) == metrics
    assert [run["held_out"] for run in metrics["runs"]] == ["anna", "bert"]
    assert [run["digits"] for run in metrics["runs"]] == [60, 60]
    assert metrics["error_rate"] == pytest.approx(np.mean([run["mistakes"] / 60 for run in metrics["runs"]]))
    assert (folder / "errors_by_speaker.png").exists()
    names = {"confusion_matrix.png", "spectrograms.png", "weights.safetensors", "config.json"}
    assert {path.name for path in (folder / "anna").iterdir()} == names


@pytest.fixture(scope="module")
def strings(tiny_spoken_digits, small_networks, tmp_path_factory):
    output = tmp_path_factory.mktemp("strings")
    return spoken_digits.main(Options(What.strings, epochs=1, output=output)), output


def test_strings_are_heard_and_drawn(strings):
    metrics, output = strings
    folder = output / "strings_random"
    assert json.loads((folder / "results.json").read_text()) == metrics
    assert metrics["runs"][0]["digits"] == 2 * sum(range(1, 8))
    names = {"alignment.png", "gradient_through_time.png", "weights.safetensors", "config.json"}
    assert {path.name for path in (folder / "random").iterdir()} == names


def test_a_recording_is_transcribed_by_the_network_that_was_kept(strings, tmp_path, capsys):
    _, output = strings
    path = tmp_path / "voice.wav"
    soundfile.write(path, 2 * np.stack([np.sin(np.arange(22050) / 9)] * 2, axis=1), 22050)
    options = Options(What.strings, transcribe=path, output=output)
    first = spoken_digits.main(options)
    captured = capsys.readouterr()
    assert first["clipped"] > 0.3
    assert captured.err.startswith(f"{path} is clipped")
    assert captured.err.count("\n") == 1
    assert captured.out.startswith("Heard")
    assert spoken_digits.main(options) == first
    soundfile.write(path, np.zeros(8000), 8000)
    assert spoken_digits.main(options) == {"heard": [], "clipped": 0}
    assert capsys.readouterr().out.endswith("Heard no digit.\n")


def test_the_gradient_through_time_is_the_gradient(strings, tiny_spoken_digits):
    """The saliency against autodiff, and the deltas on both sides of the moment."""
    everything = recorded()
    x, targets = connected_digits.plain(np.random.default_rng(0), everything, 7)
    params = jax.jit(SMALL.init)(jax.random.key(1), x)
    seen = connected_digits.look(params, x, targets, 4)
    length = int(x.lengths[4])
    assert seen.digits == [int(label) - 1 for label in targets.labels[4, :5]]
    np.testing.assert_allclose(seen.occupancy.sum(1), 1, rtol=1e-4)

    def logit(values):
        y, _ = SMALL.forward(params, jaxbp.Sequences(values, jnp.array([length])))
        return y[0, seen.moment, seen.digit + 1]

    gradient = jax.jit(jax.grad(logit))(x.values[4:5, :length])
    np.testing.assert_allclose(seen.saliency, gradient.reshape(-1, 32), rtol=1e-3, atol=1e-6)
    assert (seen.deltas["forward in time"][seen.moment + 1 :] == 0).all()
    assert (seen.deltas["back in time"][: seen.moment] == 0).all()


def test_a_file_that_is_no_audio_ends_the_command(tmp_path):
    path = tmp_path / "letter.wav"
    path.write_text("Dear Sir or Madam")
    with pytest.raises(DataError, match=r"letter\.wav can't be read as audio"):
        spoken_digits.main(Options(transcribe=path))
