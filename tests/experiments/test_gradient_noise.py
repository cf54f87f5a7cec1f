import json

import jax
import numpy as np
import pytest

import jaxbp
from experiments import gradient_noise
from experiments.gradient_noise import LOSS, MODEL, Options, flip, main, scores, smooth


def test_a_share_of_the_labels_is_replaced_by_others():
    labels = np.arange(1000) % 10
    given = flip(labels, 0.1, np.random.default_rng(0))
    changed = given != labels
    assert changed.sum() == 100
    assert set(given[changed]) == set(range(10))
    np.testing.assert_array_equal(labels, np.arange(1000) % 10)


def test_scores_are_the_norms_and_losses_of_single_examples():
    x, t = np.random.default_rng(0).random((3, 28, 28, 1), np.float32), np.array([1, 2, 3])
    params = MODEL.init(jax.random.key(0), x)
    sizes, losses = scores(params, x, t)
    one = jax.jit(jaxbp.value_and_grad(MODEL, LOSS))
    for n in range(3):
        value, gradient = one(params, x[n : n + 1], t[n : n + 1])
        size = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
        np.testing.assert_allclose((sizes[n], losses[n]), (size, value), rtol=1e-4)


def test_means_over_neighbours_are_shorter_at_the_ends():
    np.testing.assert_allclose(smooth(np.array([0.0, 3, 6, 9, 12]), 3), [1.5, 3, 6, 9, 10.5])


def test_a_window_wider_than_the_values_gives_as_many_means():
    np.testing.assert_allclose(smooth(np.array([0.0, 3, 6]), 9), [3, 3, 3])


def test_a_small_run_finds_wrong_labels_and_draws(tiny_mnist, tmp_path):
    options = Options(flipped=0.05, epochs=8, batch_size=30, examples=300, moments=5, measured=100, output=tmp_path)
    metrics = main(options)
    assert metrics["wrong_labels"] == 15
    assert metrics["found"][1]["recall"] > 0.6
    assert metrics["test_accuracy"] > 0.9
    assert json.loads((tmp_path / "results.json").read_text()) == metrics
    assert {path.stem for path in tmp_path.glob("*.png")} == {"found", "largest_gradients", "hardest", "noise_scale"}


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_there_must_be_labels_to_replace(tiny_mnist, tmp_path, share):
    with pytest.raises(ValueError, match="at least one, at most all"):
        gradient_noise.main(Options(flipped=share, output=tmp_path))
