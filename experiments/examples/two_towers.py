"""Two towers and two losses: what do two handwritten digits add up to, and is the first one the larger?

    a = left(x), b = right(x')                  each image has a tower of its own
    s = total([a, b])                           J₁ = mean (s - t)²            t the sum, in tens
    z = larger([a, b])                          J₂ = mean log(1 + e^∓z)       - where the first is larger, + where not

    J = J₁ + ½ J₂

Both heads read [a, b], so two deltas meet there, and each tower is taught its part of their sum:

    ∂J/∂[a, b] = (∂s/∂[a, b])ᵀ ∂J₁/∂s + ½ (∂z/∂[a, b])ᵀ ∂J₂/∂z

Inputs, outputs, targets and losses are dicts, by the names that the wiring gives.

Source: Caruana, "Multitask learning", Machine Learning 28 (1997): two tasks teach the towers more than one.
"""

from dataclasses import dataclass

import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxbp


@dataclass(frozen=True)
class TwoTowers(jaxbp.Composite):
    """Maps {"first": image, "second": image} to {"total": [n, 1], "larger": [n, 1]}."""

    left: jaxbp.Layer
    right: jaxbp.Layer
    total: jaxbp.Layer
    larger: jaxbp.Layer
    join: jaxbp.Layer = jaxbp.Concatenate()

    def wire(self, call, x):
        both = call("join", (call("left", x["first"]), call("right", x["second"])))
        return {"total": call("total", both), "larger": call("larger", both)}


TOWER = jaxbp.Serial(jaxbp.Flatten(), jaxbp.Dense(64), jaxbp.ReLU(), jaxbp.Dense(32), jaxbp.ReLU())
MODEL = TwoTowers(
    TOWER, TOWER, total=jaxbp.Dense(1), larger=jaxbp.Serial(jaxbp.Dense(16), jaxbp.ReLU(), jaxbp.Dense(1))
)
LOSS = jaxbp.SumOfLosses({"total": (jaxbp.MeanSquaredError(), 1.0), "larger": (jaxbp.BinaryCrossEntropy(), 0.5)})


def random_pairs(images, labels, number: int):
    """Pairs of images, and what is to be said of them."""
    first, second = np.random.default_rng(0).integers(len(labels), size=(2, number))
    a, b = (labels[i][:, None] for i in (first, second))
    x = {"first": images[first], "second": images[second]}
    return x, {"total": (a + b).astype("float32") / 10, "larger": (a > b).astype("float32")}


def train(epochs: int = 10):
    """Prints how well pairs of held-out digits are read, and returns the history."""
    digits = load_digits()
    images, labels = (digits.images / 16).astype("float32"), digits.target
    pairs = random_pairs(images[:1440], labels[:1440], 12800)
    held_out = random_pairs(images[1440:], labels[1440:], 1000)
    _, history = jaxbp.fit(MODEL, LOSS, optax.adam(2e-3), pairs, epochs=epochs, validation=held_out, progress=False)
    error = 10 * history["validation_total.loss"][-1] ** 0.5
    print(f"sums of held-out digits are off by {error:.2f} (root mean square), the larger is known in")
    print(f"{history['validation_larger.accuracy'][-1]:.1%} of all pairs")
    return history


if __name__ == "__main__":
    train()
