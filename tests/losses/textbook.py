"""Every loss in a textbook's words, and where `hessian` is not the loss's own, what it is the Hessian of."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp import SumOfLosses
from tests.support.arrays import labels, normal
from tests.support.loss_oracle import Case, mean
from tests.support.transcripts import LABELS, LOGITS

Z, Y, SOFT = normal(4, 3), normal(4, 3, seed=1), np.asarray(jax.nn.softmax(normal(4, 3, seed=2)))
BITS = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]], float)
TOKENS = np.array([[0, 2], [1, 1], [2, 0], [1, 0]])
COUNTS = np.array([[0, 1, 2], [3, 0, 0], [5, 1, 0], [1, 1, 1]])
SIGNS, SEQUENCES = np.array([[1, -1], [1, -1], [-1, -1], [1, -1]]), (normal(4, 2, 3), normal(4, 2, 3, seed=1))
PAIR, TRIPLE = (Z, Y), (Z, Y, normal(4, 3, seed=3))


def sums(elementwise):
    """Losses that add up over outputs."""
    return lambda z, y, *at: elementwise(z, y, *at).sum(range(1, z.ndim))


def squares(z, y):
    return sums(lambda z, y: (z - y) ** 2 / 2)(z, y)


def huber(z, y):
    d = jnp.abs(z - y)
    return jnp.where(d < 0.7, d**2 / 2, 0.7 * (d - 0.35)).sum(1)


def binary(z, y):
    return -jnp.sum(y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z), 1)


def picked(z, y):
    """The cross-entropy of integer labels."""
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[..., None], -1)[..., 0]


def smoothed(z, y):
    """The same with a fifth for all classes alike, where label 1 does not count."""
    own = 0.8 * picked(z, y) - 0.2 * jax.nn.log_softmax(z).mean(-1)
    return jnp.where(y == 1, 0, own)


def mean_over_labels(outputs, targets, weights):
    """The mean of `smoothed` over labels that count."""
    weights = (jnp.ones(4) if weights is None else weights)[:, None] * (targets != 1)
    return jnp.sum(weights * smoothed(outputs, targets)) / jnp.sum(weights)


def cosine(a, b):
    return jnp.sum(a * b, -1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def linear(function, outputs, at):
    """function(outputs), made linear where the outputs are `at`."""
    value, moved = jax.jvp(function, (at,), (jax.tree.map(jnp.subtract, outputs, at),))
    return value + moved


def gaussian(outputs, y):
    m, s = outputs
    return jnp.sum(s + (m - y) ** 2 / jnp.exp(s), 1) / 2


def expected_gaussian(outputs, y, at):
    """The mean over targets of the model: two of them are enough for a square."""
    m, s = at
    return (gaussian(outputs, m + jnp.exp(s / 2)) + gaussian(outputs, m - jnp.exp(s / 2))) / 2


def dice(z, y):
    p = jax.nn.sigmoid(z)
    return 1 - (2 * (p * y).sum(1) + 1) / ((p**2).sum(1) + (y**2).sum(1) + 1)


def dice_squares(z, y, at):
    def residuals(z):
        d = jax.nn.sigmoid(z) - y
        return d / jnp.sqrt((jax.nn.sigmoid(z) ** 2 + y**2).sum(1, keepdims=True) + 1)

    return (linear(residuals, z, at) ** 2).sum(1)


def focal(gamma, alpha=None):
    def loss(z, y):
        right = jax.nn.sigmoid((2 * y - 1) * z)
        balance = 1 if alpha is None else jnp.where(y == 1, alpha, 1 - alpha)
        return -balance * (1 - right) ** gamma * jnp.log(right)

    return sums(loss)


def focal_curve(gamma, alpha=None):
    """The cross-entropy u times ∂l/∂u as it is."""

    def loss(z, y, at):
        balance = 1 if alpha is None else jnp.where(y == 1, alpha, 1 - alpha)
        u = jax.nn.softplus((1 - 2 * y) * at)
        slope = jax.vmap(jax.grad(lambda u: (1 - jnp.exp(-u)) ** gamma * u))(u.ravel()).reshape(u.shape)
        return balance * slope * jax.nn.softplus((1 - 2 * y) * z)

    return sums(loss)


def embedding(outputs, y):
    c = cosine(*outputs)
    return jnp.where(y > 0, 1 - c, jnp.maximum(0, c - 0.2))


def embedding_squares(outputs, y, at):
    residuals = linear(lambda pair: unit(pair[0]) - y[..., None] * unit(pair[1]), outputs, at)
    return jnp.where((y > 0) | (cosine(*at) > 0.2), jnp.sum(residuals**2, -1) / 2, 0)


def squared(a, b):
    return jnp.sum((a - b) ** 2, -1)


def triplet(outputs, _):
    a, p, n = outputs
    return jnp.maximum(0, squared(a, p) - squared(a, n) + 1)


def triplet_convex(outputs, _, at):
    return jnp.where(triplet(at, ()) > 0, squared(*outputs[:2]), 0)


def among_present(s, weights):
    """The cross-entropy of similarities [n, n], each row to find its own column among examples that have weight."""
    weights = jnp.ones(len(s)) if weights is None else weights
    s = jnp.where((weights > 0) | jnp.eye(len(s), dtype=bool), s, -jnp.inf)
    return jnp.sum(weights * picked(s, jnp.arange(len(s)))) / jnp.sum(weights)


def similarities(pair):
    return unit(pair[0]) @ unit(pair[1]).T / 0.5


def contrast(pair, _, weights):
    return among_present(similarities(pair), weights)


def contrast_squares(pair, _, weights, at):
    return among_present(linear(similarities, pair, at), weights)


def frames(z, targets, at):
    """Σ log Σ e^z over the frames that count."""
    counts = (jnp.arange(z.shape[1]) < targets.logit_lengths[:, None]) & (LABELS.label_lengths[:, None] >= 0)
    return jnp.where(counts, jax.nn.logsumexp(z, -1), 0).sum(1)


BOTH = {"rating": Z, "click": normal(4, 2, 3, seed=4)}
BOTH_TARGETS = {"rating": Y, "click": TOKENS}


def both(outputs, targets, weights):
    rating = mean(squares)(outputs["rating"], targets["rating"], weights)
    return 2 / 3 * rating + 0.5 * mean_over_labels(outputs["click"], targets["click"], weights)


def nested(outputs, targets, weights):
    (a, b), c = outputs
    pair = 3 * mean(squares)(a, targets[0][0], weights) + 2 * mean(gaussian)(b, targets[0][1], weights)
    return pair + 0.25 * mean(squares)(c, targets[1], weights)


def nested_expected(outputs, targets, weights, at):
    (_, b), _ = outputs
    own = nested(outputs, targets, weights) - 2 * mean(gaussian)(b, targets[0][1], weights)
    return own + 2 * mean(expected_gaussian)(b, targets[0][1], weights, at[0][1])


SMOOTH, HALF = jaxbp.SoftmaxCrossEntropy(0.2, ignored_label=1), jaxbp.HalfSquaredError()
TWO = SumOfLosses({"rating": (jaxbp.MeanSquaredError(), 1.0), "click": (SMOOTH, 0.5)})
NESTED = SumOfLosses([(SumOfLosses([(HALF, 3), (jaxbp.GaussianNLL(), 2)]), 1.0), (HALF, 0.25)])
CASES = [
    Case(HALF, Z, Y, mean(squares)),
    Case(jaxbp.MeanSquaredError(), Z, Y, mean(lambda z, y: squares(z, y) * 2 / 3)),
    Case(jaxbp.Huber(0.7), Z, Y, mean(huber)),
    Case(jaxbp.Quantile(0.3), Z, Y, mean(sums(lambda z, y: jnp.maximum(0.3 * (y - z), 0.7 * (z - y))))),
    Case(jaxbp.BinaryCrossEntropy(), Z, SOFT, mean(binary)),
    Case(jaxbp.SoftmaxCrossEntropy(), Z, labels(4, 3), mean(picked)),
    Case(jaxbp.SoftmaxCrossEntropy(), Z, 3 * SOFT, mean(lambda z, y: -(y * jax.nn.log_softmax(z)).sum(-1))),
    Case(SMOOTH, BOTH["click"], TOKENS, mean_over_labels),
    Case(jaxbp.KLDivergence(), Z, SOFT, mean(lambda z, y: (y * (jnp.log(y) - jax.nn.log_softmax(z))).sum(-1))),
    Case(jaxbp.Poisson(), Z, COUNTS, mean(sums(lambda z, y: jnp.exp(z) - y * z))),
    Case(jaxbp.GaussianNLL(), PAIR, TRIPLE[2], mean(gaussian), mean(expected_gaussian)),
    Case(jaxbp.Hinge(), Z, 2 * BITS - 1, mean(sums(lambda z, y: jnp.maximum(0, 1 - y * z)))),
    Case(jaxbp.Dice(), Z, BITS, mean(dice), mean(dice_squares)),
    Case(jaxbp.Focal(), Z, BITS, mean(focal(2)), mean(focal_curve(2))),
    Case(jaxbp.Focal(1.5, 0.25), Z, BITS, mean(focal(1.5, 0.25)), mean(focal_curve(1.5, 0.25))),
    Case(jaxbp.Focal(0.0), Z, BITS, mean(binary)),
    Case(jaxbp.CosineEmbedding(0.2), SEQUENCES, SIGNS, mean(embedding), mean(embedding_squares)),
    Case(jaxbp.Triplet(), TRIPLE, (), mean(triplet), mean(triplet_convex)),
    Case(jaxbp.InfoNCE(0.5), PAIR, (), contrast, contrast_squares),
    Case(jaxbp.CTC(), LOGITS, LABELS, mean(lambda *batch: jaxbp.CTC().per_example(*batch)[0]), mean(frames)),
    Case(TWO, BOTH, BOTH_TARGETS, both),
    Case(NESTED, ((Z, PAIR), Y), ((Y, Z), Z), nested, nested_expected),
]
