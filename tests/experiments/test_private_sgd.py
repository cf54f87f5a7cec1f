import json

import numpy as np
import pytest

from experiments.private_sgd import Options, event, main, noise_for, poisson_batches, spent


def test_the_noise_is_the_least_that_keeps_the_budget():
    noise = noise_for(2.0, 1e-5, 0.01, 500)
    assert spent(noise, 1e-5, 0.01, 500) <= 2.0
    assert spent(noise - 0.01, 1e-5, 0.01, 500) > 2.0


def test_without_sampling_one_step_is_the_gaussian_mechanism():
    # Balle & Wang, arXiv 1805.06083, theorem 8: δ = Φ(½/σ - ε σ) - e^ε Φ(-½/σ - ε σ) for sensitivity 1.
    from scipy.stats import norm

    sigma = 2.0
    epsilon = spent(sigma, 1e-5, 1.0, 1)
    delta = norm.cdf(0.5 / sigma - epsilon * sigma) - np.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)
    assert delta == pytest.approx(1e-5, rel=0.01)
    assert event(0.5, sigma).sampling_probability == 0.5


def test_examples_join_by_chance_and_padding_weighs_nothing():
    data = np.arange(600), np.arange(600)
    sizes = []
    for x, labels, weights in poisson_batches(data, 0.5, 200, seed=0):
        joined = x[weights > 0]
        assert len(x) in (256, 512)
        assert len(set(joined.tolist())) == len(joined) == weights.sum()
        np.testing.assert_array_equal(x, labels)
        sizes.append(len(joined))
    assert abs(np.mean(sizes) - 300) < 4  # the mean's deviation is 0.87
    assert abs(np.std(sizes) / 150**0.5 - 1) < 0.2


def test_a_small_run_keeps_its_budget_and_draws(tiny_mnist, tmp_path):
    options = Options(epsilon=50.0, compare=(), epochs=6, batch_size=60, validation=60, output=tmp_path)
    metrics = main(options)
    assert metrics["epsilon"] <= 50
    assert metrics["test_accuracy"] > 0.3
    assert json.loads((tmp_path / "results.json").read_text()) == metrics
    assert {path.stem for path in tmp_path.glob("*.png")} == {"accuracy_by_epsilon", "norms"}
    (run,) = metrics["runs"]
    assert run["epsilon"] == sorted(run["epsilon"])
    assert len(run["validation_accuracy"]) == 6


def test_a_batch_has_at_least_one_example_and_at_most_all(tiny_mnist, tmp_path):
    with pytest.raises(ValueError, match="from 1 to 240 examples, not 500"):
        main(Options(batch_size=500, validation=60, output=tmp_path))
