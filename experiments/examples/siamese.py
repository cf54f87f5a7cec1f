"""A siamese network: one tower sees both images of a pair, and puts equal digits together and others apart.

    e = tower(x), e' = tower(x')      d = ‖e - e'‖      l = ½ d² for equal digits, ½ max(0, m - d)² for others

A spring pulls equal ones together, and another pushes others apart until they have the distance m, the margin:

    ∂l/∂e = k (e - e')      ∂l/∂e' = -∂l/∂e      k = 1 for equal digits, -max(0, m - d) / d for others

The tower is called twice, so it is a shared layer: its parameters exist once, and each pair's gradient is the sum of
those of both calls. Per-example norms know it: ‖G‖² = ‖G₁‖² + ‖G₂‖² + 2 ⟨G₁, G₂⟩, the last term included.

Source: Hadsell, Chopra & LeCun, "Dimensionality reduction by learning an invariant mapping", CVPR 2006, equation 4.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxbp


@dataclass(frozen=True)
class Siamese(jaxbp.Composite):
    """Maps a pair of inputs to the pair of their embeddings."""

    tower: jaxbp.Layer

    def wire(self, call, x):
        first, second = x
        return call("tower", first), call("tower", second)


@dataclass(frozen=True)
class Contrastive(jaxbp.ExampleLoss):
    """From a pair of embeddings [n, d]; targets [n] are 1 (equal) and 0 (not)."""

    margin: float = 1.0
    takes = ("first", "second")

    def require_targets(self, outputs, targets):
        if targets.shape != outputs[0].shape[:1]:
            raise ValueError(f"{self}: expected one target for each of {len(outputs[0])} pairs, got {targets.shape}")

    def per_example(self, outputs, targets):
        difference = outputs[0] - outputs[1]
        d = jnp.sqrt(jnp.sum(difference**2, -1))
        missing = jnp.maximum(self.margin - d, 0)
        k = jnp.where(targets == 1, 1, -missing / jnp.where(d == 0, 1, d))  # what coincides has no direction to part in
        return jnp.where(targets == 1, d, missing) ** 2 / 2, (difference, k)

    def scaled_gradient(self, residuals, scale):
        difference, k = residuals
        pull = scale * k[:, None] * difference
        return pull, -pull


MODEL = Siamese(jaxbp.Serial(jaxbp.Flatten(), jaxbp.Dense(128), jaxbp.ReLU(), jaxbp.Dense(8)))
LOSS = Contrastive()


def random_pairs(images, labels, number: int):
    """Pairs, and 1 where both show the same digit: a tenth do, so of the others one in nine is taken."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(len(labels), size=(2, 10 * number))
    equal = labels[first] == labels[second]
    chosen = np.flatnonzero(equal | (rng.random(len(equal)) < 1 / 9))[:number]
    return (images[first[chosen]], images[second[chosen]]), equal[chosen].astype(int)


def train(epochs: int = 10):
    """Prints what the embedding of the held-out fifth is worth, and returns the history."""
    digits = load_digits()
    images, labels = jnp.asarray(digits.images / 16, jnp.float32), digits.target
    pairs = random_pairs(images[:1440], labels[:1440], 12800)
    state, history = jaxbp.fit(MODEL, LOSS, optax.adam(1e-3), pairs, epochs=epochs, progress=False)

    e = np.asarray(MODEL.tower(state.params["tower"], images))
    distance = np.linalg.norm(e[1440:, None] - e[:1440], axis=-1)
    equal = labels[1440:, None] == labels[:1440]
    right = equal[np.arange(len(equal)), distance.argmin(1)].mean()
    print(f"from a held-out digit to a training digit of its kind {distance[equal].mean():.2f} on average,")
    print(f"to one of another kind {distance[~equal].mean():.2f}; the nearest is of its kind in {right:.1%}")
    return history


if __name__ == "__main__":
    train()
