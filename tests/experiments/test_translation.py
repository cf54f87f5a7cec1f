import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from experiments.shared.datasets import DataError
from experiments.translation import __main__ as translation
from experiments.translation import translator
from experiments.translation.__main__ import Options, main
from experiments.translation.subwords import BEGIN, END
from experiments.translation.translator import Recipe, Size, attention, batch, batches, load_translator, plainly

SIZE = Size(vocabulary=100, features=16, heads=2, hidden=16, blocks=1, dropout=0.0)
RECIPE = Recipe(epochs=40, subwords=64, peak=0.02, warm_up=10, averaging=0.9)


@pytest.fixture(scope="module")
def trained(tiny_texts, tmp_path_factory):
    """A translator of three-word sentences: its options, and what its test says."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(translator, "LENGTHS", (8,))
        options = Options(size=SIZE, recipe=RECIPE, beams=2, output=tmp_path_factory.mktemp("translation"))
        yield options, main(options)


def test_sentences_that_translate_word_by_word_are_learned(trained):
    options, metrics = trained
    assert metrics["test_bleu_greedy"] > 95
    assert metrics["test_bleu_beam"] >= metrics["test_bleu_greedy"]
    assert json.loads((options.output / "results.json").read_text()) == metrics
    assert metrics["examples"][0]["translation"] == "A dog runs."
    names = {"attention.png", "learning_curves.png", "history.json", "results.json"}
    assert {path.name for path in options.output.iterdir()} == names | {
        "weights.safetensors",
        "config.json",
        "subwords.json",
    }


def test_a_sentence_of_yours_is_translated_by_the_saved_network(trained, capsys):
    options, _ = trained
    assert main(dataclasses.replace(options, translate="Ein Mann schläft.")) == {"translation": "A man sleeps."}
    assert capsys.readouterr().out == "A man sleeps.\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the text is empty"),
        (" \n", "the text is empty"),
        ("Собака бежит.", "no word that the network can read"),
        ("?!", "no word that the network can read"),
        ("Ein Hund läuft. " * 9, "subwords: the network reads up to 7"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_one_sentence(trained, text, problem):
    with pytest.raises(DataError, match=problem) as raised:
        main(dataclasses.replace(trained[0], translate=text))
    assert "\n" not in str(raised.value).strip()


def test_attention_maps_are_weights_over_what_is_read(trained):
    maps, read, written = attention(load_translator(trained[0].output), "Ein Hund läuft.", "A dog runs.")
    assert (read[-1], written[-1]) == ("<end>", "<end>")
    assert [p.shape for p in maps] == [(2, len(written), len(read))]
    np.testing.assert_allclose(maps[0].sum(-1), 1, rtol=1e-5)


def test_weights_of_another_model_are_refused(trained, tmp_path):
    from experiments.shared.weights import save_weights

    save_weights(tmp_path, {"weight": np.zeros(2, np.float32)}, {"model": "Dense(1)"})
    with pytest.raises(DataError, match="are no translator's"):
        load_translator(tmp_path)


def test_without_a_network_one_is_trained_first(trained, monkeypatch, tmp_path):
    calls = []

    def learn(options, training, validation):
        calls.append(len(training.german))
        translator.save_translator(options.output, load_translator(trained[0].output))

    monkeypatch.setattr(translation, "learn", learn)
    options = dataclasses.replace(trained[0], translate="Ein Kind lacht.", output=tmp_path)
    assert main(options)["translation"] == "A child laughs."
    assert calls == [16]


def test_training_stops_when_its_minutes_are_over(monkeypatch):
    monkeypatch.setattr(jaxbp, "make_train_step", lambda *_: lambda state, x, labels: (state, {"loss": 1.0}))
    monkeypatch.setattr(translator, "mean_loss", lambda *_: 2.0)
    epochs, pairs = [], [([5, 6], [7])] * 8
    for minutes in (0.0, 1.0):
        recipe = dataclasses.replace(RECIPE, minutes=minutes, epochs=2)
        note = lambda params, history: epochs.append(history["loss"][:])  # noqa: E731
        translator.train(SIZE.model(), recipe, pairs, pairs, seed=0, on_epoch=note)
    assert epochs == [[1.0], [1.0], [1.0, 1.0]]


def test_a_batch_by_hand():
    x = batch([([5, 6], [7]), ([8], [9, 4])], 4, 3)
    np.testing.assert_array_equal(x.source.values, [[5, 6, END, 0], [8, END, 0, 0], [0] * 4])
    np.testing.assert_array_equal(x.source.lengths, [3, 2, 0])
    np.testing.assert_array_equal(x.target.values, [[BEGIN, 7, 0, 0], [BEGIN, 9, 4, 0], [0] * 4])
    np.testing.assert_array_equal(x.labels, [[7, END, 0, 0], [9, 4, END, 0], [0] * 4])


def test_an_epoch_has_every_pair_once_in_batches_of_few_shapes(monkeypatch):
    monkeypatch.setattr(translator, "LENGTHS", (8, 16, 40))
    rng = np.random.default_rng(0)
    pairs = [([4 + i], [4 + i] * int(rng.integers(1, 40))) for i in range(50)]
    found = list(batches(pairs, 128, rng))
    assert sorted(int(row[0]) - 4 for x in found for row in x.source.values if row[0]) == list(range(50))
    assert {x.labels.shape for x in found} <= {(128 // length, length) for length in translator.LENGTHS}
    again = batches(pairs, 128, np.random.default_rng(1))
    assert [x.source.values.tolist() for x in again] != [x.source.values.tolist() for x in found]


def test_the_model_with_plain_attention_is_the_same():
    model = SIZE.model()
    x = jax.tree.map(jnp.asarray, batch([([5, 6], [7]), ([8], [9, 4])], 4, 3))
    params = jax.jit(model.init)(jax.random.key(0), (x.source, x.target))
    outputs = [jax.jit(m.forward)(params, (x.source, x.target))[0].hidden for m in (model, plainly(model))]
    assert not any(isinstance(layer, jaxbp.Attention) for _, layer in jaxbp.core.paths.layers(plainly(model)))
    np.testing.assert_allclose(*outputs, atol=1e-5)
