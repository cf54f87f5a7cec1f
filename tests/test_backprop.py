import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import jaxbp
from jaxbp import Dense, HalfSquaredError, LayerError, Quantity, ReLU, Repeat, Residual, Serial, Sigmoid, Tanh
from tests.support.arrays import labels, normal
from tests.support.random_models import architectures, batch_for

MODEL = Serial(Dense(3), Residual(Serial(Dense(3), Tanh())), Repeat(Dense(3), 2), Dense(2))
LOSS = jaxbp.SoftmaxCrossEntropy()
X, Y = normal(4, 3), labels(4, 2)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), X)


def autodiff(model, loss, rng=None, weights=None):
    """The same by jax.value_and_grad."""

    def value(params, x, targets):
        return loss.forward(model.forward(params, x, rng)[0], targets, weights)[0]

    return jax.value_and_grad(value)


@pytest.mark.usefixtures("unchecked")
def test_200_random_networks_agree_with_jax_grad_and_raise_no_false_alarm():
    # The same networks every time, and no search for a smaller one that fails: it would take minutes.
    @seed(0)
    @settings(
        max_examples=200,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(architectures())
    def agrees(architecture):
        case = batch_for(*architecture)
        value, gradient = jaxbp.value_and_grad(case.model, case.loss)(
            case.params, case.x, case.targets, case.rng, case.weights
        )
        true_value, true = autodiff(case.model, case.loss, case.rng, case.weights)(case.params, case.x, case.targets)
        np.testing.assert_allclose(value, true_value, rtol=1e-12)
        ours, theirs = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)]) for tree in (gradient, true))
        assert np.linalg.norm(ours - theirs) <= 1e-9 * np.linalg.norm(theirs)
        report = jaxbp.check_gradients(case.model, case.loss, case.params, case.x, case.targets, case.rng, case.weights)
        assert report.ok, str(report)
        assert report.first_wrong is None

    with jax.enable_x64(True):
        agrees()
    jax.clear_caches()  # hundreds of compiled programs that nobody needs again


def test_the_textbook_network_matches_a_case_worked_by_hand():
    """1-1-1 with sigmoids: z₁ = 0, a₁ = ½, z₂ = 0, a₂ = ½; y = 1; δ₂ = (a₂ - y) σ' = -⅛, δ₁ = δ₂ w₂ σ' = -1/16."""
    model = Serial(Dense(1), Sigmoid(), Dense(1), Sigmoid())
    first = {"weight": jnp.array([[1.0]]), "bias": jnp.array([-1.0])}
    second = {"weight": jnp.array([[2.0]]), "bias": jnp.array([-1.0])}
    x, y = jnp.array([[1.0]]), jnp.array([[1.0]])
    value, gradient = jaxbp.value_and_grad(model, HalfSquaredError())((first, (), second, ()), x, y)
    assert value == 0.125
    chex.assert_trees_all_equal(
        gradient,
        (
            {"weight": jnp.array([[-0.0625]]), "bias": jnp.array([-0.0625])},
            (),
            {"weight": jnp.array([[-0.0625]]), "bias": jnp.array([-0.125])},
            (),
        ),
    )


def test_gradients_have_the_structure_shapes_and_dtypes_of_the_parameters(params):
    for dtype in ("float32", "bfloat16"):
        low = jax.tree.map(lambda a: a.astype(dtype), params)  # noqa: B023
        value, gradient = jaxbp.value_and_grad(MODEL, LOSS)(low, X.astype(dtype), Y)
        chex.assert_trees_all_equal_shapes_and_dtypes(gradient, low)
        assert value.dtype == jnp.float32


def test_weights_of_zero_take_examples_out(params):
    weighted = jaxbp.value_and_grad(MODEL, LOSS)(params, X, Y, weights=jnp.array([1.0, 0.0, 1.0, 0.0]))
    chex.assert_trees_all_close(
        weighted, jaxbp.value_and_grad(MODEL, LOSS)(params, X[::2], Y[::2]), rtol=1e-5, atol=1e-7
    )


def test_it_works_under_jit_vmap_and_scan(params):
    gradient = jaxbp.value_and_grad(MODEL, LOSS)
    one = gradient(params, X, Y)
    chex.assert_trees_all_close(jax.jit(gradient)(params, X, Y), one, rtol=1e-5, atol=1e-7)
    each = jax.vmap(gradient, (None, 0, 0))(params, X[:, None], Y[:, None])
    chex.assert_trees_all_close(jax.tree.map(lambda a: a.mean(0), each), one, rtol=1e-5, atol=1e-7)
    _, twice = jax.lax.scan(lambda _, y: (None, gradient(params, X, y)), None, jnp.stack([Y, Y]))
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[1], twice), one, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("unchecked")
def test_numpy_arrays_are_arrays(params):
    chex.assert_trees_all_close(
        jaxbp.value_and_grad(MODEL, LOSS)(jax.tree.map(np.asarray, params), np.asarray(X), np.asarray(Y)),
        jaxbp.value_and_grad(MODEL, LOSS)(params, X, Y),
        rtol=1e-6,
    )


def test_many_quantities_are_taken_in_one_sweep(params):
    quantities = {
        "gradient": jaxbp.param_gradient,
        "delta": jaxbp.delta,
        "largest": Quantity(
            lambda site: jnp.max(jnp.abs(site.g)),
            gather=lambda tree: max(float(a.max()) for a in jax.tree.leaves(tree)),
        ),
    }
    value, out = jaxbp.value_and_quantities(MODEL, LOSS, quantities)(params, X, Y)
    true_value, gradient = jaxbp.value_and_grad(MODEL, LOSS)(params, X, Y)
    assert value == true_value
    chex.assert_trees_all_close(out["gradient"], gradient, rtol=1e-6)
    deltas = jaxbp.leaves(MODEL, out["delta"])
    assert list(deltas) == ["0", "1.body.0", "1.body.1", "2.body", "3"]
    assert out["largest"] == max(float(jnp.abs(d).max()) for d in deltas.values())


def test_a_quantity_may_return_any_tree_or_nothing(params):
    _, out = jaxbp.value_and_quantities(
        MODEL, LOSS, {"a": lambda site: {"n": site.g.shape[0], "t": ()}, "b": lambda _: None}
    )(params, X, Y)
    assert out["a"][0] == {"n": 4, "t": ()}
    assert out["b"][0] is None


def test_edits_pass_through_value_and_grad(params):
    _, gradient = jaxbp.value_and_grad(MODEL, LOSS, edits={"2.body": lambda site: 0 * site.g})(params, X, Y)
    assert not any(a.any() for a in jax.tree.leaves(gradient[:3]))
    assert gradient[3]["weight"].any()


def test_an_empty_batch_is_refused(params):
    with pytest.raises(ValueError, match=r"at least one example, got an empty batch float32\[0, 3\]"):
        jaxbp.value_and_grad(MODEL, LOSS)(params, X[:0], Y[:0])


def test_a_number_in_place_of_a_batch_is_refused(params):
    with pytest.raises(ValueError, match=r"expected inputs \[examples, ...\], got float32\[\]"):
        jaxbp.value_and_grad(MODEL, LOSS)(params, jnp.float32(1), Y)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_data_that_are_no_numbers_are_refused_and_the_example_named(params, bad):
    with pytest.raises(
        ValueError, match=r"float32\[4, 3\] holds NaN or infinity in 2 of its 4 examples, first in example 1"
    ):
        jaxbp.value_and_grad(MODEL, LOSS)(params, X.at[1:3, 0].set(bad), Y)


def test_labels_of_another_number_of_examples_are_refused(params):
    with pytest.raises(ValueError, match=r"outputs float32\[4, 2\] expected labels \[4\].*got targets int32\[3\]"):
        jaxbp.value_and_grad(MODEL, LOSS)(params, X, Y[:3])


def test_parameters_of_another_model_are_refused(params):
    with pytest.raises(LayerError, match="do they come from this model's init"):
        jaxbp.value_and_grad(Serial(Dense(3), ReLU(), Dense(2)), LOSS)(params, X, Y)


def test_wrong_input_is_refused_under_jit_too(params):
    with pytest.raises(LayerError, match=r'layer "0", Dense\(3\): expected 3 input features'):
        jax.jit(jaxbp.value_and_grad(MODEL, LOSS))(params, normal(4, 5), Y)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "loss", "problem"),
    [
        (Dense, LOSS, r"expected a Layer, got .*with brackets, as in Dense\(\)"),
        (MODEL, "mse", "expected a Loss, got 'mse'"),
    ],
    ids=["class", "text"],
)
@pytest.mark.parametrize(
    "user",
    [jaxbp.value_and_grad, lambda model, loss: jaxbp.make_train_step(model, loss, None)],
    ids=["gradient", "step"],
)
def test_what_is_no_layer_or_no_loss_is_refused(user, model, loss, problem):
    with pytest.raises(TypeError, match=problem):
        user(model, loss)


@pytest.mark.usefixtures("unchecked")
def test_weights_may_be_a_list(params):
    listed = jaxbp.value_and_grad(MODEL, LOSS)(params, X, Y, weights=[1.0, 2.0, 0.0, 1.0])
    chex.assert_trees_all_equal(
        listed, jaxbp.value_and_grad(MODEL, LOSS)(params, X, Y, weights=jnp.array([1.0, 2.0, 0.0, 1.0]))
    )
