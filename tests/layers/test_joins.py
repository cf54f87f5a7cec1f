import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import (
    Add,
    Concatenate,
    Dense,
    LayerError,
    Multiply,
    Parallel,
    Select,
    Serial,
    SiLU,
    Split,
    Tanh,
    check_gradients,
    check_layer,
)
from jaxbp.losses import HalfSquaredError
from tests.support.arrays import normal

A, B = normal(4, 2, 3), normal(4, 5, seed=1)

JOINING = {
    "add": Add(),
    "multiply": Multiply(),
    "concatenate": Concatenate(),
    "concatenate times": Concatenate(axis=-2),
}


@pytest.mark.parametrize("layer", JOINING.values(), ids=JOINING)
@pytest.mark.parametrize(
    "kind", [tuple, list, lambda terms: dict(zip("ba", terms, strict=True))], ids=["()", "[]", "{}"]
)
def test_layers_that_join_arrays_obey_the_layer_laws(layer, kind):
    check_layer(layer, kind([normal(4, 2, 3), normal(4, 2, 3, seed=1)]))


def test_arrays_of_unequal_widths_are_joined():
    check_layer(Concatenate(), (normal(4, 3), normal(4, 1), normal(4, 2)))


BROADCAST = [
    [(4, 2, 3)],
    [(4, 3), (4, 1)],
    [(4, 1), (4, 3)],
    [(4,), (4, 3)],
    [(4, 2, 3), (4, 3)],
    [(4, 2, 1), (4, 1, 3)],
    [(4, 2, 3), (4, 1, 3), (4,)],
    [(4, 3), (4, 5, 2, 3), (4, 2, 1), (4, 5, 1, 1)],
]


@pytest.mark.parametrize("layer", [Add(), Multiply()], ids=str)
@pytest.mark.parametrize("shapes", BROADCAST, ids=str)
def test_sums_and_products_broadcast_and_obey_the_layer_laws(layer, shapes):
    check_layer(layer, tuple(normal(*shape, seed=i) for i, shape in enumerate(shapes)))


def test_each_example_is_broadcast_as_numpy_does_it():
    a, b = normal(4, 2, 3), normal(4, 3, seed=1)
    for layer, operation in ((Add(), np.add), (Multiply(), np.multiply)):
        y, _ = layer.forward((), (a, b))
        np.testing.assert_array_equal(y, np.stack([operation(*pair) for pair in zip(a, b, strict=True)]))


def test_add_sends_the_same_gradient_to_each_and_sums_it_where_an_array_was_repeated():
    y, residuals = Add().forward((), (jnp.array([[1.0, 2.0]]), jnp.array([[10.0]])))
    chex.assert_trees_all_equal(y, jnp.array([[11.0, 12.0]]))
    g = jnp.array([[3.0, 4.0]])
    chex.assert_trees_all_equal(Add().input_gradient((), residuals, g), (g, jnp.array([[7.0]])))


def test_multiply_sends_each_the_gradient_times_all_other_factors():
    x = {"a": jnp.array([[2.0, 3.0]]), "b": jnp.array([[5.0]]), "c": jnp.array([[7.0, 11.0]])}
    y, residuals = Multiply().forward((), x)
    chex.assert_trees_all_equal(y, jnp.array([[70.0, 165.0]]))
    dx = Multiply().input_gradient((), residuals, jnp.array([[1.0, 10.0]]))
    expected = {
        "a": jnp.array([[35.0, 550.0]]),
        "b": jnp.array([[14.0 + 330.0]]),
        "c": jnp.array([[10.0, 150.0]]),
    }
    chex.assert_trees_all_equal(dx, expected)


def test_products_have_the_right_gradient_where_factors_are_zero():
    x = jnp.array([[0.0, 0.0, 2.0]]), jnp.array([[3.0, 0.0, 0.0]]), jnp.array([[5.0, 7.0, 0.0]])
    y, residuals = Multiply().forward((), x)
    chex.assert_trees_all_equal(y, jnp.zeros((1, 3)))
    one_zero, two_zeros = 3.0 * 5.0, 0.0
    expected = jnp.array([[one_zero, two_zeros, two_zeros]]), jnp.zeros((1, 3)), jnp.zeros((1, 3))
    chex.assert_trees_all_equal(Multiply().input_gradient((), residuals, jnp.ones((1, 3))), expected)
    check_layer(Multiply(), x)


def test_sums_over_repeated_axes_are_exact_in_bfloat16():
    a, b = jnp.zeros((1, 1000, 1), jnp.bfloat16), jnp.ones((1, 1), jnp.bfloat16)
    for layer in (Add(), Multiply()):
        y, residuals = layer.forward((), (a + 1, b))
        _, db = layer.input_gradient((), residuals, jnp.ones_like(y))
        assert db.dtype == jnp.bfloat16
        assert db == 1000


def test_concatenate_joins_and_sends_each_its_part():
    y, residuals = Concatenate().forward((), (jnp.array([[1.0]]), jnp.array([[2.0, 3.0]])))
    chex.assert_trees_all_equal(y, jnp.array([[1.0, 2.0, 3.0]]))
    g = Concatenate().input_gradient((), residuals, jnp.array([[4.0, 5.0, 6.0]]))
    chex.assert_trees_all_equal(g, (jnp.array([[4.0]]), jnp.array([[5.0, 6.0]])))


def test_what_these_layers_keep_holds_no_numbers():
    for layer, x in [(Add(), (A, A)), (Concatenate(), (A, A)), (Select(0), (A, B)), (Split(3), A)]:
        _, residuals = layer.forward((), x)
        assert sum(leaf.size for leaf in jax.tree.leaves(residuals)) == 0


def test_a_network_that_divides_and_meets_again_has_the_gradients_of_jax():
    gate = Serial(Split(2), Parallel(Serial(Select(0), SiLU()), Select(1)), Multiply())
    model = Serial(Dense(6), Parallel(gate, Serial(Dense(1), Tanh())), Add(), Dense(2))
    x, y = normal(4, 5), normal(4, 2, seed=1)
    params = model.init(jax.random.key(0), x)
    assert check_gradients(model, HalfSquaredError(), params, x, y).ok


def test_concatenate_refuses_arrays_that_differ_elsewhere():
    with pytest.raises(LayerError, match=r"alike but for axis -1, got \(float32\[4, 2, 3\], float32\[4, 5\]\)"):
        Concatenate().forward((), (A, B))


@pytest.mark.parametrize("axis", [0, -2, 5])
def test_the_axis_of_examples_and_axes_that_are_not_there_are_refused(axis):
    expected = rf"expected axis {axis} to be a feature axis of \[examples, ...\], got float32\[4, 5\]"
    with pytest.raises(LayerError, match=expected):
        Concatenate(axis).forward((), (B, B))
    with pytest.raises(LayerError, match=expected):
        Split(1, axis).forward((), B)


@pytest.mark.parametrize("layer", [Add(), Multiply()], ids=str)
def test_sums_and_products_refuse_shapes_that_do_not_broadcast(layer):
    expected = r"broadcast behind the examples, got \(float32\[4, 2, 3\], float32\[4, 5\]\)"
    with pytest.raises(LayerError, match=expected):
        layer.forward((), (A, B))


@pytest.mark.parametrize("layer", [Add(), Multiply(), Concatenate()], ids=str)
def test_joining_never_broadcasts_examples(layer):
    with pytest.raises(LayerError, match=r"of equally many examples, got \(float32\[4, 5\], float32\[1, 5\]\)"):
        layer.forward((), (B, B[:1]))
    with pytest.raises(LayerError, match=r"of equally many examples, got \(float32\[\], float32\[\]\)"):
        layer.forward((), (jnp.ones(()), jnp.ones(())))


@pytest.mark.parametrize("layer", [Add(), Multiply(), Concatenate()], ids=str)
def test_joining_needs_a_tuple_of_floating_point_arrays_of_one_dtype(layer):
    with pytest.raises(LayerError, match=r"expected a tuple of arrays, as Parallel returns it, got float32\[4, 5\]"):
        layer.forward((), B)
    for empty in ((), {}):
        with pytest.raises(LayerError, match="expected a tuple of arrays"):
            layer.forward((), empty)
    with pytest.raises(LayerError, match="floating-point input, got int32"):
        layer.forward((), (jnp.ones((2, 2), jnp.int32),))
    with pytest.raises(LayerError, match=r"equal dtype, got .*; convert them with astype"):
        layer.forward((), (B, B.astype(jnp.bfloat16)))


def test_layers_are_position_wise_where_they_cannot_mix_times():
    assert all(
        layer.position_wise for layer in (Select(0), Add(), Multiply(), Split(2), Concatenate(), Split(2, axis=2))
    )
    assert not any(layer.position_wise for layer in (Split(2, axis=1), Split(2, axis=-2), Concatenate(axis=-2)))
