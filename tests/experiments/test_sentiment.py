import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from experiments.sentiment import __main__ as sentiment
from experiments.sentiment.__main__ import Options, joined, main
from experiments.sentiment.models import (
    PADDING,
    UNKNOWN,
    Recipe,
    Vocabulary,
    by_word,
    in_its_words,
    leave_out,
    log_odds,
    models,
)
from experiments.shared.datasets import DataError
from experiments.shared.text_datasets import Labelled
from experiments.shared.weights import save_weights

RECIPE = Recipe(epochs=12, batch=8, rate=0.02, averaging=0.5, words_left_out=0.05)


@pytest.fixture(scope="module")
def trained(tiny_texts, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        small = lambda words: models(words, features=8, hidden=4, dropout=0.1)  # noqa: E731
        monkeypatch.setattr(sentiment, "models", small)
        output = tmp_path_factory.mktemp("sentiment")
        options = Options(networks=("convolutional",), seeds=(0, 1), recipe=RECIPE, output=output)
        yield options, main(options)


def test_praise_is_told_from_dislike(trained):
    options, metrics = trained
    assert json.loads((options.output / "results.json").read_text()) == json.loads(json.dumps(metrics))
    rows = {"naive Bayes", "logistic regression", "convolutional", "convolutional + naive Bayes"}
    assert set(metrics["table"]) == rows | {"all networks + naive Bayes"}
    assert metrics["table"]["convolutional"]["test_accuracy"] == 1
    assert len(metrics["table"]["convolutional"]["runs"]) == 2
    names = {"accuracies.png", "words.png", "results.json", "weights.safetensors", "config.json"}
    assert {path.name for path in options.output.iterdir()} == names


def test_a_sentence_of_yours_is_classified_by_the_saved_network(trained, capsys):
    found = main(dataclasses.replace(trained[0], classify="A lovely film!"))
    assert found["praise"] > 0.5
    assert max(found["words"], key=found["words"].get) == "lovely"
    assert "Praise" in capsys.readouterr().out
    assert main(dataclasses.replace(trained[0], classify="an awful plot"))["praise"] < 0.5
    assert (trained[0].output / "classified.png").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  ", "the text is empty"),
        ("прекрасный фильм", "no word that the network knows"),
        ("fine " * 65, "65 words is too long"),
    ],
)
def test_what_cannot_be_classified_is_refused_in_one_sentence(trained, text, problem):
    with pytest.raises(DataError, match=problem):
        main(dataclasses.replace(trained[0], classify=text))


def test_networks_that_do_not_exist_are_refused(tiny_texts, tmp_path):
    with pytest.raises(DataError, match="no network “quantum”: there are convolutional, recurrent, transformer"):
        main(Options(networks=("quantum",), output=tmp_path))


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(tmp_path, {"weight": np.zeros(2, np.float32)}, {"model": "Dense(1)"})
    with pytest.raises(DataError, match="are no classifier's"):
        main(Options(classify="fine", output=tmp_path))


@pytest.mark.parametrize("name", ["convolutional", "recurrent", "transformer"])
def test_a_word_counts_as_its_vector_times_the_gradient_that_jax_finds(name):
    model = models(9, features=4, hidden=3)[name]
    x = Vocabulary(("a", "fine", "dull", "film"))(["a fine film", "dull"])
    x = jax.tree.map(lambda a: jnp.asarray(a[:, :5] if a.ndim == 2 else a), x)
    params = jax.jit(model.init)(jax.random.key(0), x)
    head, tail = jaxbp.Serial(*model.layers[:1]), jaxbp.Serial(*model.layers[1:])
    vectors = head.forward(params[:1], x)[0]

    def odds(values):
        logits = tail.forward(params[1:], vectors._replace(values=values))[0]
        return jnp.sum(logits[:, 1] - logits[:, 0])

    expected = jnp.sum(jax.jit(jax.grad(odds))(vectors.values) * vectors.values, -1)
    np.testing.assert_allclose(by_word(model, params, x), expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-6
    longer = x._replace(values=jnp.pad(x.values, ((0, 0), (0, 2))))
    np.testing.assert_allclose(log_odds(model, params, longer), log_odds(model, params, x), atol=1e-6)


def test_words_that_occur_once_are_unknown():
    words = Vocabulary.of(["good film", "good plot film"])
    assert len(words) == 4
    x = words(["good plot", ""])
    np.testing.assert_array_equal(x.values[:, :3], [[2, UNKNOWN, PADDING], [PADDING] * 3])
    np.testing.assert_array_equal(x.lengths, [2, 0])


def test_words_are_left_out_but_never_padding():
    x = Vocabulary(("a",))(["a a a", "a"])
    out = leave_out(1.0, jax.random.key(0), x)
    np.testing.assert_array_equal(out.values, np.where(x.values == PADDING, PADDING, UNKNOWN))


def test_a_text_becomes_words_as_the_data_set_has_them():
    assert in_its_words("I didn’t like it, but it's fine!") == "i did n't like it , but it 's fine !"
    assert in_its_words("A well-made film.") == "a well-made film ."


def test_joining_leans_on_the_log_odds_that_are_right():
    parts = {name: Labelled([""] * 4, np.array([0, 1, 0, 1], np.int32)) for name in ("validation", "test")}
    right, noise = np.array([-1.0, 1, -2, 2]), np.array([3.0, -3, -3, 3])
    z = joined([dict.fromkeys(parts, right), dict.fromkeys(parts, noise)], parts)
    np.testing.assert_array_equal(z["test"] > 0, [False, True, False, True])
