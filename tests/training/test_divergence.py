import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import Dense, Diverged, HalfSquaredError, Layer, Serial, SoftmaxCrossEntropy, Tanh, check_layer
from tests.support.arrays import labels, normal

X, Y = normal(10, 3), normal(10, 2)


def fit(model, loss=None, optimizer=None, data=(X, Y), **changes):
    loss, optimizer = loss or HalfSquaredError(), optimizer or optax.sgd(0.1)
    return jaxbp.fit(model, loss, optimizer, data, batch_size=4, progress=False, **changes)


class Logarithm(Layer):
    """log x, which is no number below zero."""

    def forward(self, params, x, rng=None):
        return jnp.log(x), x

    def input_gradient(self, params, x, g):
        return g / x


class Overflow(Layer):
    """The identity, whose gradient overflows."""

    def forward(self, params, x, rng=None):
        return x, ()

    def input_gradient(self, params, residuals, g):
        return g * jnp.inf


def test_the_layer_whose_output_is_no_number_is_named_with_the_step():
    with pytest.raises(
        Diverged, match=r'the loss is nan at step 0. It began in layer "1", Logarithm.*returned numbers'
    ) as caught:
        fit(Serial(Dense(3), Logarithm(), Dense(2)))
    assert caught.value.path == "1"
    assert caught.value.step == 0


def test_the_layer_whose_gradient_is_no_number_is_named_though_the_next_step_shows_it():
    with pytest.raises(Diverged, match=r'at step 1. It began in layer "0".*delta that reached it in step 0') as caught:
        fit(Serial(Dense(3), Overflow(), Dense(2)))
    assert caught.value.path == "0"


def test_a_learning_rate_too_large_is_named_as_the_likely_cause():
    with pytest.raises(Diverged, match="a smaller learning rate") as caught:
        fit(Serial(Dense(3), Dense(2)), optimizer=optax.sgd(1e30), epochs=5)
    assert caught.value.step >= 1


def test_the_step_is_counted_from_the_start_of_training_and_not_of_the_epoch():
    def late(state, metrics):
        assert int(state.step) == 3 * len(epochs) + 3
        epochs.append(metrics)

    epochs = []
    schedule = optax.piecewise_constant_schedule(0.0, {})
    blow_up = optax.sgd(lambda step: jnp.where(step < 4, schedule(step), 1e38))
    with pytest.raises(Diverged) as caught:
        fit(Serial(Dense(3), Dense(2)), optimizer=blow_up, on_epoch=late, epochs=4)
    assert len(epochs) == 1
    assert caught.value.step == 5


def test_a_loss_that_is_no_number_though_all_layers_are_well_points_at_the_targets():
    class Undefined(HalfSquaredError):
        def per_example(self, outputs, targets):
            losses, residuals = super().per_example(outputs, targets)
            return losses + jnp.where(targets[:, 0] > 5, jnp.nan, 0), residuals

    with pytest.raises(
        Diverged, match=r"It began in the loss: all layers returned finite numbers; look at the targets"
    ) as caught:
        fit(Serial(Dense(2)), Undefined(), data=(X, Y.at[3].set(9.0)))
    assert caught.value.path is None


def test_one_layer_alone_can_be_named_too():
    with pytest.raises(Diverged, match=r'layer "", Dense') as caught:
        fit(Dense(2), optimizer=optax.sgd(1e38), epochs=5)
    assert caught.value.path == ""


def test_it_is_a_floating_point_error():
    assert issubclass(Diverged, FloatingPointError)


def test_training_that_goes_well_is_not_stopped():
    _, history = fit(Serial(Dense(3), Tanh(), Dense(2)), SoftmaxCrossEntropy(), data=(X, labels(10, 2)), epochs=2)
    assert np.isfinite(history["loss"]).all()


def test_the_layers_of_these_tests_obey_the_laws_but_for_the_planted_fault():
    check_layer(Logarithm(), 2 + jnp.abs(X))


def test_outputs_that_grew_until_the_loss_overflows_are_named_by_their_layer():
    with pytest.raises(
        Diverged, match=r'layer "1", Dense\(2\): it returned numbers as large as .* overflows'
    ) as caught:
        fit(Serial(Dense(3), Dense(2)), optimizer=optax.sgd(1e12), epochs=5)
    assert caught.value.path == "1"
