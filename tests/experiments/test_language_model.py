import dataclasses
import json

import numpy as np
import pytest

from experiments.language_model import Options, Preset, Size, as_numbers, as_text, main, windows
from experiments.shared.datasets import DataError
from experiments.shared.text_datasets import load_shakespeare
from experiments.shared.weights import save_weights

TINY = Size(1, 2, 32, 8, 0.0, 4, 200)


@pytest.fixture(scope="module")
def trained(tiny_texts, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Preset.small, "_value_", TINY)
        options = Options(length=30, output=tmp_path_factory.mktemp("language"))
        yield options, main(options)


def test_the_presets_are_those_of_nanogpt():
    assert Preset.small.value == Size(4, 4, 128, 64, 0.0, 12, 2000)
    assert Preset.large.value == Size(6, 6, 384, 256, 0.2, 64, 5000)


def test_a_text_that_repeats_itself_is_learned(trained):
    options, metrics = trained
    folder = options.output / "small"
    assert json.loads((folder / "results.json").read_text()) == metrics
    losses = metrics["history"]["validation_loss"]
    assert losses[-1] < losses[0] - 0.3
    assert np.mean(metrics["validation_loss_by_position"]) == pytest.approx(losses[-1], rel=0.02)
    assert len(metrics["sample"]) == 31
    names = {"learning_curves.png", "surprise.png", "results.json", "weights.safetensors", "config.json"}
    assert {path.name for path in folder.iterdir()} == names


def test_the_saved_network_goes_on_from_a_text(trained, capsys):
    options = dataclasses.replace(trained[0], sample="To be, or not to b", length=20)
    text = main(options)["sample"]
    assert text.startswith(options.sample)
    assert len(text) == len(options.sample) + 20
    assert capsys.readouterr().out == f"{text}\n"
    assert main(options)["sample"] == text
    assert main(dataclasses.replace(options, seed=1))["sample"] != text


@pytest.mark.parametrize(("text", "problem"), [("", "no text to go on from"), ("Быть", "never saw the character “Б”")])
def test_what_it_cannot_go_on_from_is_refused_in_one_sentence(trained, text, problem):
    with pytest.raises(DataError, match=problem):
        main(dataclasses.replace(trained[0], sample=text))


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(tmp_path / "small", {"weight": np.zeros(2, np.float32)}, {"model": "Dense(1)"})
    with pytest.raises(DataError, match="are no language model's"):
        main(Options(sample="To", output=tmp_path))


def test_windows_follow_each_other_and_targets_are_one_further():
    x, targets = windows(np.arange(10, dtype=np.int32), 3)
    np.testing.assert_array_equal(x, [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    np.testing.assert_array_equal(targets, x + 1)


def test_characters_become_numbers_and_back(tiny_texts):
    text = load_shakespeare()
    characters = "".join(sorted(set(text)))
    assert as_text(as_numbers(text, characters), characters) == text
