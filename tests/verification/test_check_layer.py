"""Whoever breaks a law of layers is told which one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import BatchNorm, Dense, Identity, Layer, Parallel, Recompute, Serial, Tanh, check_layer
from tests.support.arrays import normal

X = normal(4, 3)


class WrongInput(Tanh):
    def input_gradient(self, params, y, g):
        return -super().input_gradient(params, y, g)


class WrongParameters(Dense):
    def param_gradient(self, params, x, g):
        gradient = super().param_gradient(params, x, g)
        return {**gradient, "weight": gradient["weight"] / len(x)}


class WrongForwardUnderOnes(Identity):
    """Its gradient is right for a cotangent of ones alone."""

    def forward(self, params, x, rng=None):
        return x - x.mean(-1, keepdims=True), ()

    def input_gradient(self, params, residuals, g):
        return jnp.zeros_like(g)


class KeepsParameters(Dense):
    def forward(self, params, x, rng=None):
        y, _ = super().forward(params, x, rng)
        return y, (x, params["weight"])

    def input_gradient(self, params, residuals, g):
        x, weight = residuals
        return super().input_gradient({"weight": weight}, x, g)

    def param_gradient(self, params, residuals, g):
        return super().param_gradient(params, residuals[0], g)


class KeepsAFlag(Identity):
    def forward(self, params, x, rng=None):
        return x, "flag"


class MixesExamples(Layer):
    def forward(self, params, x, rng=None):
        return x - x.mean(0), ()

    def input_gradient(self, params, residuals, g):
        return g - g.mean(0)


class MissingLeaf(Dense):
    def param_gradient(self, params, x, g):
        return {"weight": super().param_gradient(params, x, g)["weight"]}


class SinglePrecision(Identity):
    def forward(self, params, x, rng=None):
        return x.astype(jnp.float32), x[:0]

    def input_gradient(self, params, no_x, g):
        return g.astype(no_x.dtype)


class Widens(Identity):
    def forward(self, params, x, rng=None):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)), x[:0]

    def input_gradient(self, params, no_x, g):
        return g.astype(no_x.dtype)


class GradientOfTokens(Layer):
    def forward(self, params, x, rng=None):
        return x.astype(float), x

    def input_gradient(self, params, x, g):
        return g


class TrainsDifferently(Identity):
    """Right in evaluation, wrong in training."""

    def forward(self, params, x, rng=None):
        return (x, ()) if rng is None else (2 * x, ())


@pytest.mark.parametrize(
    ("layer", "x", "law"),
    [
        (WrongInput(), X, r"breaks law 1 of a layer \(evaluation\): the input gradient differs .* wrong sign"),
        (WrongParameters(2), X, "law 1 .*: the gradient of weight differs .* divided by N = 4"),
        (WrongForwardUnderOnes(), X, "law 1 .*: the input gradient differs"),
        (KeepsParameters(2), X, r"law 2 .*: the residual float64\[3, 2\] is made of parameters alone"),
        (KeepsAFlag(), X, "law 2 .*: outputs and residuals must be trees of arrays, found str"),
        (MixesExamples(), X, "law 3 .*: an example's output depends on the others"),
        (MissingLeaf(2), X, r"law 5 .*: params are \{bias.*, but their gradient is \{weight: float64\[3, 2\]\}"),
        (GradientOfTokens(), jnp.array([1, 2]), r"law 6 .*: the input gradient should be None, but is float64\[2\]"),
        (Widens(), X, "law 7 .*: of bfloat16 the output .* is float32"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Layer) else "",
)
def test_a_broken_law_is_named(layer, x, law):
    with pytest.raises(AssertionError, match=law):
        check_layer(layer, x)


def test_a_layer_that_is_wrong_in_training_alone_is_caught_by_a_key():
    check_layer(TrainsDifferently(), X)
    with pytest.raises(AssertionError, match=r"law 1 of a layer \(training\): .*c = 0.5"):
        check_layer(TrainsDifferently(), X, rng=jax.random.key(0))


def test_a_layer_that_says_it_mixes_examples_may():
    class Honest(MixesExamples):
        mixes_examples = True

    check_layer(Honest(), X)


def test_a_lawful_layer_is_given_its_largest_errors():
    errors = check_layer(Dense(2), np.asarray(X))
    assert set(errors) == {"float64", "float32", "bfloat16", "finite differences"}
    assert errors["float64"] <= 1e-10
    assert errors["float32"] <= 1e-5
    assert errors["bfloat16"] <= 2e-2


def test_a_layer_without_its_functions_says_which_one_it_lacks():
    class Empty(Layer):
        pass

    with pytest.raises(ValueError, match=r"doesn't define forward\(params, x, rng\) -> \(y, residuals\)"):
        Empty().forward((), X)
    with pytest.raises(ValueError, match=r"doesn't define input_gradient"):
        Empty().input_gradient((), (), X)


class Crossed(Layer):
    """Takes and returns a dict, with tokens beside the numbers."""

    def forward(self, params, x, rng=None):
        return {"sum": x["a"] + x["b"], "product": x["a"] * x["b"], "tokens": x["tokens"]}, (x["a"], x["b"])

    def input_gradient(self, params, residuals, g):
        a, b = residuals
        return {"a": g["sum"] + g["product"] * b, "b": g["sum"] + g["product"] * a, "tokens": None}


class Straight(Crossed):
    def input_gradient(self, params, residuals, g):
        right = super().input_gradient(params, residuals, g)
        return right | {"b": right["a"]}


def test_layers_of_trees_are_held_to_the_laws():
    x = {"a": X, "b": normal(4, 3, seed=1), "tokens": jnp.arange(4)}
    check_layer(Crossed(), x)
    with pytest.raises(AssertionError, match=r"law 1 .*: the input gradient b differs"):
        check_layer(Straight(), x)


def test_composites_are_held_to_the_laws_but_not_their_running_statistics():
    body = Serial(BatchNorm(), Parallel(left=Dense(2), right=Recompute(Tanh())))
    check_layer(body, X, rng=jax.random.key(0))
