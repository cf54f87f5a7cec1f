import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import Dense, HalfSquaredError, Repeat, Serial, SoftmaxCrossEntropy, Tanh
from jaxbp.curvature.fisher import Exact
from jaxbp.curvature.kfac import best_step, kfac
from jaxbp.curvature.kronecker import Factors, as_matrix, damped_inverse, kronecker_factors
from jaxbp.curvature.operators import ggn_products
from jaxbp.layers.spatial.convolution import Conv
from tests.support.networks import MLP, batch, normal, relative_error

KEY = jax.random.key(3)


def kfac_step(model, loss, optimizer, fisher):
    @jax.jit
    def step(params, state, x, y):
        value, gradient, factors = kronecker_factors(model, loss, fisher)(params, x, y)
        updates, state = optimizer.update(gradient, state, params, factors=factors)
        return value, optax.apply_updates(params, updates), state

    return step


def test_kfac_solves_a_linear_regression_in_one_step():
    x, true = normal(20, 3), normal(4, 2, seed=5)
    y = x @ true[:3] + true[3]
    model = Serial(Dense(2))
    params = jax.jit(model.init)(KEY, x)
    optimizer = kfac(model, 1.0, damping=1e-20, momentum=0.0)
    _, params, _ = kfac_step(model, HalfSquaredError(), optimizer, Exact())(params, optimizer.init(params), x, y)
    np.testing.assert_allclose(as_matrix(params[0], 0), true, atol=1e-8)


def test_kfac_averages_factors_keeps_inverses_and_has_momentum():
    model, x = Serial(Dense(2, bias=False)), normal(6, 3)
    params = jax.jit(model.init)(KEY, x)
    optimizer = kfac(model, 0.1, damping=0.01, momentum=0.5, decay=0.9, inverse_every=2)
    state, gradient = optimizer.init(params), ({"weight": normal(3, 2)},)
    first, second = ((Factors(jnp.diag(jnp.arange(1.0, 4)) * s, jnp.eye(2) * s),) for s in (1.0, 4.0))
    one, state = optimizer.update(gradient, state, params, factors=first)
    kept = damped_inverse(first[0], 0.01)
    u = kept.inputs @ gradient[0]["weight"] @ kept.outputs
    np.testing.assert_allclose(one[0]["weight"], -0.1 * u)
    two, state = optimizer.update(gradient, state, params, factors=second)  # the inverses are still the first
    np.testing.assert_allclose(two[0]["weight"], -0.1 * (0.5 * u + u))
    _, state = optimizer.update(gradient, state, params, factors=second)
    mean = (0.9**2 * 0.1 * 1 + 0.9 * 0.1 * 4 + 0.1 * 4) / (1 - 0.9**3)
    expected = damped_inverse(jax.tree.map(lambda f: f * mean, first[0]), 0.01)
    np.testing.assert_allclose(state.inverses["0"].inputs, expected.inputs)


def test_kfac_goes_on_without_factors_but_does_not_begin_without():
    model, gradient = Serial(Dense(2, bias=False)), ({"weight": normal(3, 2)},)
    optimizer = kfac(model, 0.1, momentum=0.0)
    state = optimizer.init(gradient)
    with pytest.raises(ValueError, match="needs factors at its first step"):
        optimizer.update(gradient, state)
    one, state = optimizer.update(gradient, state, factors=(Factors(jnp.eye(3), jnp.eye(2)),))
    two, state = optimizer.update(gradient, state)
    assert relative_error(two, one) < 1e-12


def test_the_best_step_is_the_least_of_the_quadratic_model():
    root, gradient, damping = normal(4, 4), {"0": normal(2, 2, seed=1)}, 0.3
    directions = [{"0": normal(2, 2, seed=seed)} for seed in (2, 3)]
    rows = jnp.stack([d["0"].ravel() for d in directions])
    matrix = rows @ (root @ root.T + damping * jnp.eye(4)) @ rows.T
    found = best_step(gradient, directions, rows @ root @ root.T @ rows.T, damping)
    np.testing.assert_allclose(found, -jnp.linalg.solve(matrix, rows @ gradient["0"].ravel()), rtol=1e-9)


def test_a_direction_that_adds_nothing_is_left_out_of_the_best_step():
    gradient, u = {"0": jnp.array([[3.0]])}, {"0": jnp.array([[2.0]])}
    for v, expected in (({"0": jnp.array([[0.0]])}, [-1.5, 0.0]), (u, [-0.75, -0.75])):
        # ⟨g, u⟩ = 6 and curvature 0: with λ = 1 the least is at -6 / ⟨u, u⟩ = -1.5, shared by equal directions.
        found = best_step(gradient, [u, v], jnp.zeros((2, 2)), jnp.ones(()))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_kfac_without_a_learning_rate_takes_the_best_step_in_the_plane_of_two():
    x, y = normal(20, 3), normal(20, 2, seed=1)
    model, loss, damping = Serial(Dense(4), Tanh(), Dense(2)), HalfSquaredError(), 0.1
    params = model.init(KEY, x)
    optimizer = kfac(model, None, damping=damping)
    state, last = optimizer.init(params), None
    for _ in range(2):
        _, gradient, factors = kronecker_factors(model, loss, Exact())(params, x, y)
        products = ggn_products(model, loss, params, x, y)
        updates, state = optimizer.update(gradient, state, params, factors=factors, curvature=products)

        def model_of(step, gradient=gradient, products=products):
            slope, square = (
                sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(other), strict=True))
                for other in (gradient, step)
            )
            return float(slope + products([step])[0, 0] / 2 + damping * square / 2)

        least = model_of(updates)
        assert least < 0
        assert model_of(jax.tree.map(lambda u: 1.01 * u, updates)) > least
        assert model_of(jax.tree.map(lambda u: 0.99 * u, updates)) > least
        if last is not None:
            for nudge in (-0.01, 0.01):
                assert model_of(jax.tree.map(lambda u, v, nudge=nudge: u + nudge * v, updates, last)) > least
        params, last = optax.apply_updates(params, updates), updates


def test_curvature_and_a_learning_rate_exclude_each_other():
    params, x, y = batch(MLP)
    products = ggn_products(MLP, SoftmaxCrossEntropy(), params, x, y)
    for rate, curvature in ((None, None), (0.1, products)):
        optimizer = kfac(MLP, rate)
        with pytest.raises(ValueError, match="needs curvature=ggn_products"):
            optimizer.update(params, optimizer.init(params), params, curvature=curvature)
    with pytest.raises(ValueError, match="needs a learning_rate"):
        kfac(MLP, None, norm_constraint=1.0)


def test_a_step_may_donate_a_fresh_state():
    state = kfac(MLP, 0.1).init(batch(MLP)[0])
    jax.jit(lambda state: jax.tree.map(lambda a: a + 1, state), donate_argnums=0)(state)
    assert all(array.is_deleted() for array in jax.tree.leaves(state))


def test_the_norm_constraint_bounds_the_step():
    params, x, y = batch(MLP)
    optimizer = kfac(MLP, 1.0, damping=0.1, momentum=0.0, norm_constraint=1e-4)
    _, gradient, factors = jax.jit(kronecker_factors(MLP, SoftmaxCrossEntropy(), Exact()))(params, x, y)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params, factors=factors)
    free = kfac(MLP, 1.0, damping=0.1, momentum=0.0)
    long, _ = free.update(gradient, free.init(params), params, factors=factors)
    length = -sum(jnp.vdot(u, g) for u, g in zip(*map(jax.tree.leaves, (updates, gradient)), strict=True))
    before = -sum(jnp.vdot(u, g) for u, g in zip(*map(jax.tree.leaves, (long, gradient)), strict=True))
    ratio = jnp.sqrt(1e-4 / before)
    assert ratio < 0.5
    assert relative_error(updates, jax.tree.map(lambda u: u * ratio, long)) < 1e-9
    np.testing.assert_allclose(length, before * ratio)


def test_kfac_trains_convolutions_and_repeats_under_jit():
    convolution = Conv(2, (2, 2), padding="VALID", bias=False)
    model = Serial(convolution, jaxbp.Flatten(), Repeat(Serial(Tanh(), Dense(8)), 2), Dense(3))
    x, y = normal(16, 3, 3, 1), jnp.arange(16) % 3
    params = jax.jit(model.init)(KEY, x)
    optimizer = kfac(model, lambda count: 0.3 / (1 + count / 20), lambda count: 0.03, momentum=0.5, inverse_every=3)
    step, state = kfac_step(model, SoftmaxCrossEntropy(), optimizer, Exact()), optimizer.init(params)
    values = []
    for _ in range(25):
        value, params, state = step(params, state, x, y)
        values.append(float(value))
    assert values[-1] < values[0] / 2


@pytest.mark.parametrize(
    "wrong",
    [{"damping": 0.0}, {"norm_constraint": -1.0}, {"decay": 1.0}, {"momentum": 1.0}, {"inverse_every": 0}],
    ids=str,
)
def test_kfac_refuses_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match="expected"):
        kfac(MLP, 0.1, **wrong)
