"""Extensions of one's own: a quantity, a rule, a layer, a composite."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from experiments import examples
from experiments.examples.agreement import agreement
from experiments.examples.broken_wires import BrokenWires
from experiments.examples.snake import Snake
from experiments.examples.squeeze_excitation import SqueezeExcitation
from tests.support.arrays import labels, normal
from tests.support.whole_network import gradient_is_that_of_jax, norms_are_those_of_jax

LOSS, KEY = jaxbp.SoftmaxCrossEntropy(), jax.random.key(0)
MODEL = jaxbp.Serial(jaxbp.Dense(4), jaxbp.Repeat(jaxbp.Serial(jaxbp.Tanh(), jaxbp.Dense(4)), 2), jaxbp.Dense(3))
X, Y = normal(5, 4), labels(5, 3)


def test_agreement_is_the_cosine_with_the_mean_gradient():
    params = jax.jit(MODEL.init)(KEY, X)

    def one(params, x, y):
        return LOSS.forward(MODEL.forward(params, x[None])[0], y[None])[0]

    gradients = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(params, X, Y)
    g = np.concatenate([a.reshape(5, -1) for a in jax.tree.leaves(gradients)], 1)
    mean = g.mean(0)
    _, found = jax.jit(jaxbp.value_and_quantities(MODEL, LOSS, {"agreement": agreement}))(params, X, Y)
    expected = g @ mean / (np.linalg.norm(g, axis=1) * np.linalg.norm(mean))
    np.testing.assert_allclose(found["agreement"], expected, rtol=1e-4)


def test_agreement_refuses_layers_that_mix_examples():
    with pytest.raises(jaxbp.LayerError, match=r'layer "1", BatchNorm\(\): mixes'):
        jaxbp.value_and_quantities(jaxbp.Serial(jaxbp.Dense(2), jaxbp.BatchNorm()), LOSS, {"it": agreement})


def test_without_broken_wires_it_is_backprop_and_with_all_broken_nothing_arrives_below():
    params = jax.jit(MODEL.init)(KEY, X)
    backprop = jax.jit(jaxbp.value_and_grad(MODEL, LOSS))(params, X, Y)[1]
    run = jax.jit(jaxbp.feedback_value_and_grad(MODEL, LOSS, {"2": BrokenWires()}))
    whole, broken = ({"2": (jnp.full((4, 3), w),)} for w in (True, False))
    (gradient, _) = run((params, {}), whole, X, Y)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, backprop)
    (gradient, _) = run((params, {}), broken, X, Y)[1]
    assert not any(a.any() for a in jax.tree.leaves(gradient[:2]))
    np.testing.assert_allclose(gradient[2]["weight"], backprop[2]["weight"], atol=1e-6)


def test_as_many_wires_are_broken_as_was_asked_for_at_every_layer():
    rules, params = {"": BrokenWires(0.25)}, jax.jit(jaxbp.Serial(jaxbp.Dense(50)).init)(KEY, normal(2, 40))
    fixed, learned = jaxbp.init_feedback(jaxbp.Serial(jaxbp.Dense(50)), rules, KEY, params, normal(2, 40))
    assert not learned
    assert abs(float(fixed["0"][0].mean()) - 0.75) < 0.03


def with_labels(body):
    """A classifier of images around a layer that keeps their shape."""
    return jaxbp.Serial(jaxbp.Conv(4, (3, 3)), body, jaxbp.Flatten(), jaxbp.Dense(3))


@pytest.mark.parametrize("initial", [0.5, -2.0])
def test_a_snake_obeys_the_layer_laws(initial):
    jaxbp.check_layer(Snake(initial), normal(4, 3, 5))


def test_a_snake_worked_by_hand():
    layer, params, x = Snake(), {"frequency": jnp.array([jnp.pi / 2])}, jnp.array([[0.5], [2.0]])
    y, residuals = layer.forward(params, x)
    np.testing.assert_allclose(y, [[0.5 + 1 / jnp.pi], [2.0]], rtol=1e-6)  # sin² is 1/2 and 0 there
    np.testing.assert_allclose(layer.input_gradient(params, residuals, jnp.ones((2, 1))), [[2], [1]], rtol=1e-6)
    with pytest.raises(ValueError, match="initial frequency other than 0"):
        Snake(0.0)


def test_squeeze_and_excitation_obeys_the_layer_laws_and_gates_every_channel():
    layer, x = SqueezeExcitation(4, reduction=2), normal(2, 3, 3, 4)
    jaxbp.check_layer(layer, x)
    shut = jax.tree.map(jnp.zeros_like, layer.init(KEY, x))
    np.testing.assert_array_equal(layer(shut, x), x / 2)  # σ(0)


@pytest.mark.parametrize("body", [Snake(), SqueezeExcitation(4)], ids=lambda body: type(body).__name__)
def test_new_layers_and_composites_have_every_quantity(body):
    model, x, y = with_labels(body), normal(3, 4, 4, 1), labels(3, 3)
    gradient_is_that_of_jax(model, LOSS, x, y)
    norms_are_those_of_jax(model, LOSS, x, y)


@pytest.mark.parametrize("name", ["agreement", "broken_wires", "snake", "squeeze_excitation"])
def test_each_extension_is_one_file_of_less_than_sixty_lines_that_touches_no_layer(name):
    source = Path(examples.__file__).with_name(f"{name}.py").read_text()
    assert len(source.splitlines()) < 60
    assert "jaxbp.layers" not in source
