import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxbp
from jaxbp import Dense, HalfSquaredError
from tests.support.inspected import BOTH, MODEL, PAIR, TARGETS, TREES, X, Y


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), X)


def test_sizes_are_root_mean_squares_by_layer():
    model, params = Dense(1, bias=False), {"weight": jnp.array([[2.0]])}
    x, y = jnp.array([[3.0], [4.0]]), jnp.zeros((2, 1))  # outputs 6, 8; δ = 3, 4 after the mean; ∂J/∂W = 9 + 16
    sizes = jaxbp.signal_sizes(model, HalfSquaredError(), params, x, y)[""]
    assert sizes == pytest.approx({"activation": 50**0.5, "delta": 50**0.5, "gradient": 25})


def test_layers_without_parameters_have_no_gradient_size(params):
    sizes = jaxbp.signal_sizes(MODEL, HalfSquaredError(), params, X, Y)
    assert set(sizes["1.body.body"]) == {"activation", "delta"}
    assert set(sizes["0"]) == {"activation", "delta", "gradient"}
    assert all(np.isfinite(list(at.values())).all() for at in sizes.values())


def test_sizes_of_a_shared_layer_are_taken_over_all_its_uses():
    params = TREES.init(jax.random.key(0), PAIR)
    sizes = jaxbp.signal_sizes(TREES, BOTH, params, PAIR, TARGETS)
    seen = jaxbp.trace(TREES, BOTH, params, PAIR, TARGETS)
    both = np.concatenate(seen.layers["0.body.0"].output)
    assert sizes["0.body.0"]["activation"] == pytest.approx(np.sqrt(np.mean(both**2)), rel=1e-5)
    both = np.concatenate(seen.layers["0.body.0"].delta)
    assert sizes["0.body.0"]["delta"] == pytest.approx(4 * np.sqrt(np.mean(both**2)), rel=1e-5)
    assert all(np.isfinite(list(at.values())).all() for at in sizes.values())
    assert isinstance(jaxbp.plot_flow([sizes]), Figure)
