import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import SoftmaxCrossEntropy
from jaxbp.core.lazy_logits import LazyLogits
from jaxbp.layers.attention.tied_models import LanguageModel
from jaxbp.losses.linear_cross_entropy import LinearCrossEntropy
from tests.support.arrays import labels, normal

HIDDEN, WEIGHT, Y = normal(2, 5, 3), normal(7, 3, seed=1), labels(10, 7).reshape(2, 5)


def whole(loss, outputs, targets, weights=None):
    """The loss with all logits at once."""
    u = jnp.einsum("...f,wf->...w", *outputs)
    z = u if loss.soft_cap is None else loss.soft_cap * jnp.tanh(u / loss.soft_cap)
    plain = SoftmaxCrossEntropy(loss.smoothing, loss.ignored_label)
    losses, share = plain.per_example(z, targets)[0], plain.weigh(z, targets, weights)
    losses = losses + loss.z_loss * jax.nn.logsumexp(z, -1) ** 2
    return jnp.sum(share * losses) / jnp.sum(share)


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (LinearCrossEntropy(tokens=3), None),
        (LinearCrossEntropy(0.1, ignored_label=2, z_loss=0.1, soft_cap=1.5, tokens=4), jnp.array([1.0, 2.0])),
        (LinearCrossEntropy(), None),
    ],
    ids=["parts", "everything", "at once"],
)
def test_value_and_gradients_are_those_of_the_whole_logits(loss, weights):
    with jax.enable_x64(True):
        outputs = LazyLogits(HIDDEN.astype(float), WEIGHT.astype(float))
        value, residuals = jax.jit(loss.forward)(outputs, Y, weights)
        true, gradient = jax.value_and_grad(lambda outputs: whole(loss, outputs, Y, weights))(outputs)
        np.testing.assert_allclose(value, true, rtol=1e-12)
        for a, b in zip(loss.backward(residuals), gradient, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_in_bfloat16_sums_are_taken_in_float32():
    outputs = LazyLogits(HIDDEN.astype("bfloat16"), WEIGHT.astype("bfloat16"))
    value, residuals = LinearCrossEntropy(tokens=2).forward(outputs, Y)
    right = jax.tree.map(lambda a: a.astype("float32"), outputs)
    true, gradient = jax.value_and_grad(lambda outputs: whole(LinearCrossEntropy(), outputs, Y))(right)
    np.testing.assert_allclose(value, true, rtol=1e-2)
    for a, b in zip(residuals, gradient, strict=True):
        assert a.dtype == "bfloat16"
        assert np.linalg.norm(a.astype("float32") - b) <= 2e-2 * np.linalg.norm(b)


def test_a_tied_language_model_has_the_gradients_of_autodiff():
    model = LanguageModel(7, 4, jaxbp.Dense(4), full_logits=False)
    tokens = labels(40, 7).reshape(8, 5)
    x, y = tokens[:, :-1], tokens[:, 1:]
    report = jaxbp.check_gradients(model, LinearCrossEntropy(tokens=3), model.init(jax.random.key(0), x), x[:2], y[:2])
    assert report.ok, report


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused():
    outputs = LazyLogits(HIDDEN, WEIGHT)
    with pytest.raises(TypeError, match=r"expected a LazyLogits\(hidden, weight\), got float32"):
        LinearCrossEntropy().forward(HIDDEN, Y)
    with pytest.raises(ValueError, match="label 7 is out of range"):
        LinearCrossEntropy().forward(outputs, Y.at[0, 0].set(7))
    with pytest.raises(TypeError, match="expected integer labels"):
        LinearCrossEntropy().forward(outputs, Y.astype(float))
    with pytest.raises(ValueError, match=r"one weight for each of 2 examples, or for each label \[2, 5\]"):
        LinearCrossEntropy().forward(outputs, Y, jnp.ones(3))
    with pytest.raises(ValueError, match="no example counts"):
        LinearCrossEntropy(ignored_label=0).forward(outputs, 0 * Y)
    with pytest.raises(ValueError, match="positive soft_cap"):
        LinearCrossEntropy(soft_cap=0.0)


def test_a_label_out_of_range_shows_under_jit():
    value, _ = jax.jit(LinearCrossEntropy().forward)(LazyLogits(HIDDEN, WEIGHT), Y.at[0, 0].set(7))
    assert np.isnan(value)


def test_a_token_of_weight_zero_may_hold_anything():
    weights = jnp.ones((2, 5)).at[1, 2].set(0)
    spoilt = LazyLogits(HIDDEN.at[1, 2].set(jnp.nan), WEIGHT)
    loss = LinearCrossEntropy(tokens=3)
    (value, g), (true, expected) = (loss.forward(o, Y, weights) for o in (spoilt, LazyLogits(HIDDEN, WEIGHT)))
    np.testing.assert_allclose(value, true, rtol=1e-6)
    assert not g.hidden[1, 2].any()
    for a, b in zip(g, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_byte_tokens_over_256_words():
    outputs, y = LazyLogits(HIDDEN, normal(256, 3, seed=1)), Y.at[0, 0].set(255)
    loss = LinearCrossEntropy(ignored_label=-1)
    assert loss.forward(outputs, y.astype("uint8"))[0] == loss.forward(outputs, y)[0]


def test_measures_are_the_mean_and_the_accuracy():
    outputs, loss = LazyLogits(HIDDEN, WEIGHT), LinearCrossEntropy(tokens=3)
    found = loss.summary(loss.measure(outputs, Y))
    np.testing.assert_allclose(found["loss"], loss.forward(outputs, Y)[0], rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], (jnp.argmax(HIDDEN @ WEIGHT.T, -1) == Y).mean(), rtol=1e-6)


def test_curvature_is_refused_by_name():
    _, kept = LinearCrossEntropy().forward(LazyLogits(HIDDEN, WEIGHT), Y)
    for ask in (
        lambda loss: loss.hessian(kept, kept),
        lambda loss: loss.hessian_root(kept, kept),
        lambda loss: loss.empirical_root(kept),
    ):
        with pytest.raises(NotImplementedError, match=r"LinearCrossEntropy\(\) gives no curvature: use Softmax"):
            ask(LinearCrossEntropy())
