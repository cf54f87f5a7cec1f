import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import (
    BinaryCrossEntropy,
    Dense,
    HalfSquaredError,
    Huber,
    LayerError,
    MeanSquaredError,
    Repeat,
    Serial,
    SoftmaxCrossEntropy,
    Tanh,
)
from jaxbp.kfac import best_step, kfac
from jaxbp.layers.batch_normalization import BatchNorm
from jaxbp.layers.convolution import Conv
from jaxbp.layers.normalization import LayerNorm
from jaxbp.layers.pooling import GlobalAvgPool
from jaxbp.quantities.columns import Empirical, Exact, MonteCarlo
from jaxbp.quantities.curvature import ggn_products
from jaxbp.quantities.ekfac import ekfac, kronecker_eigenbasis, precondition, solve
from jaxbp.quantities.kronecker import (
    Factors,
    as_matrix,
    damped_inverse,
    from_matrix,
    kfac_expand,
    kfac_reduce,
    kronecker_factors,
)
from tests.quantities.networks import CONVOLUTIONAL, MLP, SEQUENCE, batch, brute_force, relative_error

KEY = jax.random.key(3)
LINEAR = Serial(Dense(3), Dense(4, bias=False), Dense(2))


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def factors_of(model, loss, fisher, params, x, y, share=kfac_expand, **arguments):
    run = jax.jit(kronecker_factors(model, loss, fisher, share))
    return jaxbp.leaves(model, run(params, x, y, **arguments)[2])


def ggn_block(model, loss, params, path, x, y, weights=None):
    """The dense GGN of one layer, over its gradient matrix: Jᵀ (∂²J/∂outputs²) J by jax."""
    by_path = jaxbp.leaves(model, params)

    def outputs(matrix):
        own = by_path | {path: from_matrix(matrix, by_path[path])}
        return model.forward(jaxbp.reverse.from_leaves(model, own), x)[0]

    @jax.jit
    def block(matrix):
        z = outputs(matrix)
        jacobian = jax.jacrev(outputs)(matrix).reshape(z.size, -1)
        hessian = jax.hessian(lambda z: loss.forward(z, y, weights)[0])(z).reshape(z.size, z.size)
        return jacobian.T @ hessian @ jacobian

    return block(as_matrix(by_path[path], 0))


LOSSES = [
    (HalfSquaredError(), normal(4, 3, seed=1)),
    (MeanSquaredError(), normal(4, 3, seed=1)),
    (Huber(0.7), normal(4, 3, seed=1)),
    (BinaryCrossEntropy(), np.random.default_rng(0).uniform(size=(4, 3))),
    (SoftmaxCrossEntropy(), jnp.array([0, 2, 1, 1])),
    (SoftmaxCrossEntropy(smoothing=0.2), np.random.default_rng(0).uniform(size=(4, 3))),
    (SoftmaxCrossEntropy(ignored_label=1), jnp.array([0, 2, 1, 1])),
]


@pytest.mark.parametrize(("loss", "y"), LOSSES, ids=lambda v: str(v) if isinstance(v, jaxbp.Loss) else "")
def test_the_hessian_of_a_loss_and_its_root_are_those_of_jax(loss, y):
    z, y, weights = normal(4, 3), jnp.asarray(y), jnp.array([1.0, 2.0, 0.5, 0.0])
    _, kept = loss.forward(z, y, weights)
    true = jax.jit(jax.hessian(lambda z: loss.forward(z, y, weights)[0]))(z).reshape(12, 12)
    units = jnp.eye(12).reshape(12, 4, 3)
    hessian = jax.vmap(lambda v: loss.hessian(kept, v))(units).reshape(12, 12)
    root = jax.vmap(lambda v: loss.hessian_root(kept, v))(units).reshape(12, 12).T
    np.testing.assert_allclose(hessian, true, atol=1e-12)
    np.testing.assert_allclose(root @ root.T, true, atol=1e-12)


def test_a_loss_without_curvature_says_so():
    class Mine(jaxbp.Loss):
        def per_example(self, outputs, targets):
            return outputs.sum(1), outputs

        def scaled_gradient(self, residuals, scale):
            return scale * residuals

    params, x, _ = batch(MLP)
    with pytest.raises(NotImplementedError, match="define curvature"):
        kronecker_factors(MLP, Mine(), Exact())(params, x, jnp.zeros((4, 3)))


@pytest.mark.parametrize("loss", [HalfSquaredError(), SoftmaxCrossEntropy()], ids=str)
def test_factors_are_exact_for_one_example(loss):
    params, x, y = batch(MLP)
    y = y[:1] if isinstance(loss, SoftmaxCrossEntropy) else normal(1, 3)
    found = factors_of(MLP, loss, Exact(), params, x[:1], y)
    for path in ("0", "2"):
        true = ggn_block(MLP, loss, params, path, x[:1], y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_factors_are_exact_for_deep_linear_networks():
    x, y = normal(5, 4), normal(5, 2)
    params = jax.jit(LINEAR.init)(KEY, x)
    found = factors_of(LINEAR, HalfSquaredError(), Exact(), params, x, y)
    for path in ("0", "1", "2"):
        true = ggn_block(LINEAR, HalfSquaredError(), params, path, x, y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_expand_is_exact_where_each_position_has_its_own_loss():
    x, y = normal(3, 4, 3), normal(3, 4, 2)
    model = Serial(Dense(3), Dense(2))
    params = jax.jit(model.init)(KEY, x)
    found = factors_of(model, HalfSquaredError(), Exact(), params, x, y)
    for path in ("0", "1"):
        true = ggn_block(model, HalfSquaredError(), params, path, x, y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_reduce_is_exact_where_positions_are_averaged():
    x, y = normal(3, 5, 5, 1), normal(3, 2)
    model = Serial(Conv(2, (3, 3), padding="VALID"), GlobalAvgPool(), Dense(2))
    params = jax.jit(model.init)(KEY, x)
    found = factors_of(model, HalfSquaredError(), Exact(), params, x, y, share=kfac_reduce)
    for path in ("0", "2"):
        true = ggn_block(model, HalfSquaredError(), params, path, x, y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_factors_of_a_dense_layer_worked_by_hand():
    # Inputs 1 and 3, ½ squared error: A = mean of x² and x with the bias's 1, B = 1.
    params, x = ({"weight": jnp.array([[2.0]]), "bias": jnp.zeros(1)},), jnp.array([[1.0], [3.0]])
    value, gradient, (f,) = kronecker_factors(Serial(Dense(1)), HalfSquaredError(), Exact())(params, x, 2 * x + 1)
    np.testing.assert_allclose(f.inputs, [[5, 2], [2, 1]])
    np.testing.assert_allclose(f.outputs, [[1]])
    np.testing.assert_allclose((value, gradient[0]["weight"][0, 0], gradient[0]["bias"][0]), (0.5, -2, -1))


def test_monte_carlo_factors_tend_to_the_exact_ones():
    params, x, y = batch(CONVOLUTIONAL)
    exact = factors_of(CONVOLUTIONAL, SoftmaxCrossEntropy(), Exact(), params, x, y)
    drawn = factors_of(CONVOLUTIONAL, SoftmaxCrossEntropy(), MonteCarlo(4000), params, x, y, key=KEY)
    for path in ("0", "3", "5"):
        assert relative_error(drawn[path].inputs, exact[path].inputs) < 1e-12
        assert relative_error(drawn[path].outputs, exact[path].outputs) < 0.1


def test_empirical_factors_are_made_of_the_gradients_of_single_examples():
    params, x, y = batch(MLP)
    found = factors_of(MLP, SoftmaxCrossEntropy(), Empirical(), params, x, y)
    bias = brute_force(MLP, params, x, y)[0]["bias"]  # G_n of a bias is its g
    assert relative_error(found["0"].outputs, bias.T @ bias / 4) < 1e-9


def test_the_gradient_that_comes_with_the_factors_is_the_gradient():
    params, x, y = batch(CONVOLUTIONAL)
    value, gradient, _ = jax.jit(kronecker_factors(CONVOLUTIONAL, SoftmaxCrossEntropy(), Empirical()))(params, x, y)
    expected = jax.jit(jaxbp.value_and_grad(CONVOLUTIONAL, SoftmaxCrossEntropy()))(params, x, y)
    assert relative_error((value, gradient), expected) < 1e-12


def test_factors_of_a_part_of_the_batch_come_with_the_gradient_of_the_whole():
    params, x, y = batch(MLP)
    loss, weights = SoftmaxCrossEntropy(), jnp.array([1.0, 2.0, 0.5, 3.0])
    part = jax.jit(kronecker_factors(MLP, loss, Exact(), examples=2))(params, x, y, weights=weights)
    alone = jax.jit(kronecker_factors(MLP, loss, Exact()))(params, x[:2], y[:2], weights=weights[:2])
    assert relative_error(part[:2], jax.jit(jaxbp.value_and_grad(MLP, loss))(params, x, y, weights=weights)) < 1e-12
    assert relative_error(part[2], alone[2]) < 1e-12
    with pytest.raises(ValueError, match="at least one example for the factors"):
        kronecker_factors(MLP, loss, Exact(), examples=0)


@pytest.mark.parametrize("model", [CONVOLUTIONAL, SEQUENCE], ids=["conv", "sequence"])
def test_ekfac_values_are_the_ggn_in_the_basis_of_the_factors(model):
    params, x, y = batch(model)
    loss, last = SoftmaxCrossEntropy(), str(len(model.layers) - 1)
    tree = jax.jit(kronecker_factors(model, loss, Exact()))(params, x, y)[2]
    found = jaxbp.leaves(model, jax.jit(ekfac(model, loss, Exact()))(params, kronecker_eigenbasis(tree), x, y))
    assert [path for path, f in found.items() if f] == [p for p, f in jaxbp.leaves(model, tree).items() if f]
    for path in ("0", last):
        basis = jnp.kron(found[path].inputs, found[path].outputs)
        # One loss an example and position here, so the rows of different examples never mix in the GGN.
        true = jnp.diag(basis.T @ ggn_block(model, loss, params, path, x, y) @ basis)
        if model is not SEQUENCE:
            assert relative_error(found[path].values.ravel(), true) < 1e-9
        else:
            assert relative_error(found[path].values.sum(), jnp.sum(true)) < 1e-9


def test_ekfac_inside_a_repeat_has_values_for_each_turn():
    once = Serial(Dense(3), Tanh())
    model, x, y = Repeat(once, 2), normal(4, 3), jnp.array([0, 2, 1, 1])
    params = jax.jit(model.init)(KEY, x)
    loss = SoftmaxCrossEntropy()
    eigen = kronecker_eigenbasis(jax.jit(kronecker_factors(model, loss, Exact()))(params, x, y)[2])
    repeated = jax.jit(ekfac(model, loss, Exact()))(params, eigen, x, y)["body"][0]
    flat_params = tuple(jax.tree.map(lambda p, i=i: p[i], params["body"]) for i in range(2))
    flat_eigen = tuple(jax.tree.map(lambda p, i=i: p[i], eigen["body"]) for i in range(2))
    unrolled = jax.jit(ekfac(Serial(once, once), loss, Exact()))(flat_params, flat_eigen, x, y)
    for i in range(2):
        assert relative_error(repeated.values[i], unrolled[i][0].values) < 1e-9


def test_damped_inverses_and_solves_are_those_of_dense_matrices():
    a, b = normal(6, 3), normal(7, 2)
    f = Factors(a.T @ a / 6, b.T @ b)
    matrix, damping = normal(3, 2), 0.3
    pi = jnp.sqrt((jnp.trace(f.inputs) / 3) / (jnp.trace(f.outputs) / 2))
    split = damped_inverse(f, damping)
    np.testing.assert_allclose(split.inputs, jnp.linalg.inv(f.inputs + pi * damping**0.5 * jnp.eye(3)))
    np.testing.assert_allclose(split.outputs, jnp.linalg.inv(f.outputs + damping**0.5 / pi * jnp.eye(2)))
    whole = jnp.linalg.solve(jnp.kron(*f) + damping * jnp.eye(6), matrix.ravel()).reshape(3, 2)
    np.testing.assert_allclose(solve(kronecker_eigenbasis(f), matrix, damping), whole)
    # And of a whole model: the bias is the last row, a layer without factors keeps its gradient.
    model, gradient = Serial(Tanh(), Dense(2)), ((), {"weight": matrix[:2], "bias": matrix[2]})
    _, exact = precondition(model, ((), kronecker_eigenbasis(f)), gradient, damping)
    np.testing.assert_allclose(as_matrix(exact, 0), whole)
    _, shared = precondition(model, ((), f), gradient, damping)
    np.testing.assert_allclose(as_matrix(shared, 0), split.inputs @ matrix @ split.outputs)


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


def test_a_layer_without_factors_is_refused_by_name_before_anything_runs():
    model, x = Serial(Dense(3), Serial(LayerNorm())), normal(4, 3)
    params = jax.jit(model.init)(KEY, x)
    for call in (
        lambda: kronecker_factors(model, SoftmaxCrossEntropy(), Exact())(params, x, jnp.zeros(4, int)),
        lambda: kfac(model, 0.1).init(params),
    ):
        with pytest.raises(LayerError, match=r'layer "1.0", LayerNorm\(\): has parameters but no Kronecker factors'):
            call()


def test_a_grouped_convolution_is_refused_by_name():
    model, x = Serial(Conv(4, (2,), groups=2), jaxbp.Flatten()), normal(2, 3, 2)
    params = jax.jit(model.init)(KEY, x)
    with pytest.raises(LayerError, match=r'layer "0", Conv.*no Kronecker factors'):
        kronecker_factors(model, SoftmaxCrossEntropy(), Exact())(params, x, jnp.zeros(2, int))


def test_a_layer_that_mixes_examples_is_refused_by_name():
    model = Serial(Dense(3), BatchNorm())
    for call in (lambda: kfac(model, 0.1), lambda: kronecker_factors(model, SoftmaxCrossEntropy(), Exact())):
        with pytest.raises(LayerError, match=r'layer "1", BatchNorm\(\): mixes'):
            call()


def test_monte_carlo_needs_a_key_and_a_sample():
    params, x, y = batch(MLP)
    with pytest.raises(ValueError, match="give key"):
        kronecker_factors(MLP, SoftmaxCrossEntropy(), MonteCarlo())(params, x, y)
    with pytest.raises(ValueError, match="at least one sample"):
        MonteCarlo(0)


@pytest.mark.parametrize(
    "wrong",
    [{"damping": 0.0}, {"norm_constraint": -1.0}, {"decay": 1.0}, {"momentum": 1.0}, {"inverse_every": 0}],
    ids=str,
)
def test_kfac_refuses_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match="expected"):
        kfac(MLP, 0.1, **wrong)
