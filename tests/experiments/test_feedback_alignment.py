import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from experiments.feedback_alignment import __main__ as feedback_alignment
from experiments.feedback_alignment.__main__ import LENET, TANH, Options, Rule, layer_names, rules_of
from experiments.feedback_alignment.plots import angles, errors
from experiments.feedback_alignment.training import Method, begin, error, train
from jaxbp.credit.direct_feedback import DirectFeedback
from jaxbp.credit.weight_feedback import FeedbackAlignment

SMALL = jaxbp.Serial(jaxbp.Dense(24), jaxbp.Tanh(), jaxbp.Dense(10))


@pytest.fixture(scope="module")
def run(tiny_mnist, tmp_path_factory):
    """An epoch of a few batches by two rules: the metrics, and where they are."""
    options = Options(
        rules=(Rule.backprop, Rule.dfa),
        epochs=1,
        seeds=2,
        examples=2 * TANH.batch_size,
        held_out=20,
        output=tmp_path_factory.mktemp("results"),
    )
    return feedback_alignment.main(options), options.output / "tanh"


def test_a_run_returns_what_it_writes_and_draws(run):
    metrics, folder = run
    assert json.loads((folder / "results.json").read_text()) == metrics
    assert {path.name for path in folder.iterdir()} == {"results.json", "errors.png", "angles.png"}


def test_a_run_measures_each_seed_beside_the_published_figure(run):
    metrics, _ = run
    backprop, dfa = metrics["rules"]["backprop"], metrics["rules"]["dfa"]
    tested = [entry["test_error"] for entry in backprop["runs"]]
    assert backprop["published"] == 1.60
    assert backprop["test_error_mean"] == pytest.approx(np.mean(tested), abs=1e-3)
    assert metrics["test_accuracy"] == pytest.approx(1 - np.mean(tested) / 100, abs=1e-5)
    for result in (backprop, dfa):
        assert [entry["seed"] for entry in result["runs"]] == [0, 1]
        assert [entry["steps"] for entry in result["runs"]] == [[1, 2]] * 2
        assert all(len(entry["held_out_error"]) == len(entry["training_error"]) == 1 for entry in result["runs"])
    assert all(angle == 0 for entry in backprop["runs"] for angle in np.ravel(list(entry["angles"].values())))
    assert all(entry["angles"]["5"] == [0, 0] for entry in dfa["runs"])


def test_direct_feedback_reaches_every_hidden_layer():
    for preset, updated in ((TANH, ["1", "3"]), (LENET, ["0", "3", "7", "9"])):
        rules = rules_of(Rule.dfa, preset.hidden)
        assert [path for path, _ in rules] == list(preset.hidden)
        layers = dict(jaxbp.core.paths.layers(preset.model))
        learning = [path for path, layer in layers.items() if isinstance(layer, jaxbp.Dense | jaxbp.Conv)]
        assert learning[:-1] == updated
        for first, end, above in zip(learning, preset.hidden, learning[1:], strict=False):
            assert int(first) <= int(end) < int(above)
    assert rules_of(Rule.backprop, ("2",)) == ()
    assert rules_of(Rule.fa, ("2",)) == (("", FeedbackAlignment()),)


def test_weights_may_begin_at_zero_and_the_feedback_does_not():
    method = Method(SMALL, jaxbp.BinaryCrossEntropy(), (("", FeedbackAlignment()),), optax.sgd(0.1), from_zero=True)
    ((params, _), _), fixed = begin(method, jax.random.key(0), jnp.ones((1, 4)))
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(params))
    assert all(jnp.all(b != 0) for b in jax.tree.leaves(fixed))


def test_training_sees_every_example_and_watches_at_powers_of_two():
    targets = np.eye(10, dtype=np.float32)[np.arange(40) % 10]
    inputs = targets @ np.random.default_rng(0).normal(size=(10, 4))
    data = jnp.asarray(inputs, jnp.float32), jnp.asarray(targets)
    method = Method(SMALL, jaxbp.SoftmaxCrossEntropy(), (("1", DirectFeedback()),), optax.adam(0.1))
    run = train(method, data, data, epochs=10, batch_size=8, seed=0, watched=10)
    assert run.steps == [1, 2, 4, 8, 16, 32, 50]
    assert run.training_error == run.held_out_error
    assert run.held_out_error[-1] < 10
    assert run.held_out_error[-1] == error(SMALL, run.params, data, batch_size=7)
    assert max(run.angles["0"]) > 10 > max(run.angles["2"])


def test_layers_are_named_in_forward_order():
    named = list(layer_names(LENET.model, ["0", "10", "3", "7", "9"]).items())
    assert [path for path, _ in named] == ["0", "3", "7", "9", "10"]
    assert named[1] == ("3", "Conv 3")


def test_less_than_a_batch_is_refused():
    method = Method(SMALL, jaxbp.SoftmaxCrossEntropy(), (), optax.sgd(0.1))
    few = jnp.ones((7, 4)), jnp.ones((7, 10))
    with pytest.raises(ValueError, match="one batch of 8"):
        train(method, few, few, epochs=1, batch_size=8, seed=0)


def test_bands_reach_from_the_least_to_the_largest_and_rings_mark_what_was_published():
    runs = [
        {
            "training_error": [first, 1.0],
            "held_out_error": [3.0, 2.0],
            "test_error": test_error,
            "steps": [1, 2],
            "angles": {"0": [None, angle], "2": [0.0, 0.0]},
        }
        for first, test_error, angle in ((2.0, 1.0, 80.0), (4.0, 2.0, 40.0))
    ]
    result = {"published": 1.25, "test_error_mean": 1.5, "runs": runs}
    curves, _, tested = errors({"fa": result}, "title").axes
    np.testing.assert_array_equal(curves.lines[0].get_ydata(), [3, 1])
    assert [line.get_xdata()[0] for line in tested.lines[:2]] == [1.5, 1.25]
    (panel,) = angles({"fa": result}, {"0": "first", "2": "last"}, "title").axes
    np.testing.assert_array_equal(panel.lines[1].get_ydata(), [np.nan, 60])
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["first"]
