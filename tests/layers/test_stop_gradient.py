from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbp
from jaxbp import Dense, HalfSquaredError, Parallel, Select, Serial, StopGradient, check_gradients
from tests.support.arrays import labels, normal


@pytest.mark.parametrize(
    "x", [normal(4, 3), normal(4, 2, 3), {"table": normal(4, 3), "ids": labels(4, 5)}], ids=["2d", "3d", "tree"]
)
def test_its_gradient_is_the_vector_jacobian_product_of_jax(x):
    y, residuals = StopGradient().forward((), x)
    chex.assert_trees_all_equal(y, x)
    g = jax.tree.map(lambda a: jnp.ones_like(a) if jnp.issubdtype(a.dtype, jnp.floating) else None, y)
    dx = StopGradient().input_gradient((), residuals, g)
    _, pull_back = jax.vjp(lambda x: StopGradient()((), x), x)
    cotangents = jax.tree.map(
        lambda a: jnp.ones_like(a) if jnp.issubdtype(a.dtype, jnp.floating) else np.zeros(a.shape, jax.dtypes.float0), x
    )
    (true,) = pull_back(cotangents)
    for ours, theirs in zip(
        jax.tree.leaves(dx), [a for a in jax.tree.leaves(true) if a.dtype == jnp.float32], strict=True
    ):
        chex.assert_trees_all_equal(ours, theirs)


def test_it_passes_values_and_sends_zeros():
    x = {"table": normal(4, 3), "ids": labels(4, 5)}
    y, residuals = StopGradient().forward((), x)
    chex.assert_trees_all_equal(y, x)
    dx = StopGradient().input_gradient((), residuals, {"table": normal(4, 3), "ids": None})
    assert dx["ids"] is None
    chex.assert_trees_all_equal(dx["table"], jnp.zeros((4, 3)))


def test_what_lies_below_it_does_not_learn():
    model = Parallel(Serial(Dense(3), StopGradient()), Dense(3))
    x, y = normal(4, 2), normal(4, 3)
    model = Serial(model, jaxbp.Add())
    params = model.init(jax.random.key(0), x)
    _, gradient = jaxbp.value_and_grad(model, HalfSquaredError())(params, x, y)
    assert not gradient[0][0][0]["weight"].any()
    assert gradient[0][1]["weight"].any()
    assert check_gradients(model, HalfSquaredError(), params, x, y).ok


@dataclass(frozen=True)
class Mix(jaxbp.Layer):
    """y[n] = A[n] h[n]: neighbours are added up. The adjacency matrix A is fixed."""

    def forward(self, params, x, rng=None):
        h, adjacency = x
        adjacency = lax.stop_gradient(adjacency)
        return jnp.einsum("nij,njf->nif", adjacency, h), adjacency

    def input_gradient(self, params, adjacency, g):
        return jnp.einsum("nij,nif->njf", adjacency, g), jnp.zeros_like(adjacency)


def test_a_layer_may_declare_an_input_fixed_by_itself():
    nodes, adjacency = normal(2, 4, 3), jnp.abs(normal(2, 4, 4))
    model = Serial(Parallel(Serial(Select("nodes"), Dense(3)), Select("adjacency")), Mix(), Dense(1))
    x, y = {"nodes": nodes, "adjacency": adjacency}, normal(2, 4, 1)
    params = model.init(jax.random.key(0), x)
    assert check_gradients(model, HalfSquaredError(), params, x, y).ok
