"""A mixture of experts: a gate sends each digit to two of eight small networks, and a penalty keeps all of them busy.

    p = softmax(W x)                    the gate's probabilities, [n, e]
    w = p where it is one of the two largest of its example, else 0
    y = Σ_e w_e f_e(x)                  f_1 … f_8 differ in their parameters only

Left to itself a gate comes to ask a few experts only: who is asked learns, and who has learned is asked. So its choice
is judged where it is made, by a penalty that is least, 1, where all E experts have the same load:

    L = E Σ_e F_e P_e          ∂L/∂p[n,e] = E F_e / N

F_e is expert e's share of all requests, which is counted and has no gradient; P_e the mean of p[n,e] over the batch. L
looks at the whole batch, so no gradient belongs to a single example, and per-example quantities are refused with it.

All experts see all examples, in one batched matmul: what is sparse here is who learns, not the work.

Sources: Shazeer et al., arXiv 1701.06538; Fedus, Zoph & Shazeer, arXiv 2101.03961, equations 4 to 6 (the penalty).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import jaxbp


@dataclass(frozen=True)
class TopK(jaxbp.Layer):
    """The k largest numbers of the last axis, and 0 in place of the others."""

    k: int

    def forward(self, params, x, rng=None):
        kept = x >= jax.lax.top_k(x, self.k)[0][..., -1:]
        return jnp.where(kept, x, 0), kept

    def input_gradient(self, params, kept, g):
        return jnp.where(kept, g, 0)


@dataclass(frozen=True)
class Mixture(jaxbp.Composite):
    """Maps [n, ...] to what the experts that the gate chooses say of it."""

    experts: jaxbp.Layer
    gate: jaxbp.Layer
    route: jaxbp.Layer
    join: jaxbp.Layer = jaxbp.WeightedSum()

    def wire(self, call, x):
        weights = call("route", call("gate", x))
        return call("join", (call("experts", x), weights))


EXPERT = jaxbp.Serial(jaxbp.Dense(16), jaxbp.ReLU(), jaxbp.Dense(10))
GATE = jaxbp.Serial(scores=jaxbp.Dense(8), probabilities=jaxbp.Softmax())
MODEL = jaxbp.Serial(flat=jaxbp.Flatten(), mixture=Mixture(jaxbp.Vmap(EXPERT, 8), GATE, TopK(2)))
LOSS, PENALTIES = jaxbp.SoftmaxCrossEntropy(), {"mixture.gate": jaxbp.LoadBalance(0.2, chosen=2)}


def loads(params, images):
    """Each expert's share of the requests."""
    p = GATE(params["mixture"]["gate"], images.reshape(len(images), -1))
    return jnp.mean(TopK(2)((), p) > 0, 0) / 2


def train(epochs: int = 20):
    """Prints who is asked, without the penalty and with it, and returns the history with it."""
    digits = load_digits()
    images, labels = jnp.asarray(digits.images / 16, jnp.float32), digits.target
    data, held_out = (images[:1440], labels[:1440]), (images[1440:], labels[1440:])
    for name, penalties in {"without the penalty": {}, "with it": PENALTIES}.items():
        state, history = jaxbp.fit(
            MODEL,
            LOSS,
            optax.adam(3e-3),
            data,
            epochs=epochs,
            batch_size=96,
            validation=held_out,
            penalties=penalties,
            progress=False,
        )
        shares = " ".join(f"{share:4.0%}" for share in loads(state.params, held_out[0]))
        print(f"{name:>20}: {history['validation_accuracy'][-1]:.1%} right, experts asked {shares}")
    return history


if __name__ == "__main__":
    train()
