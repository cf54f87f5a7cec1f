"""A variational autoencoder: handwritten digits as points, and points as digits that nobody wrote.

    m, s = halves(encoder(x))          where the point of x may lie: normal, of mean m and variance e^s
    z = m + e^(s/2) ε                  a draw, ε ~ N(0, 1)
    y = decoder(z)                     the logits of the pixels

    J = mean_n (cross-entropy of x and y) + β mean_n KL(N(m, e^s) ‖ N(0, 1)),     KL = ½ Σ m² + e^s - 1 - s

The first term is a loss of the outputs. The second is one of an inner layer, a penalty at "halves", and its gradient is
added there to the delta that comes from the decoder:

    ∂J/∂m = ∂J/∂z + β m / N          ∂J/∂s = ½ ∂J/∂z e^(s/2) ε + ½ β (e^s - 1) / N

Data flow straight down, so the network is a `Serial` with names, and its wiring that of every `Serial`.

Source: Kingma & Welling, arXiv 1312.6114; the KL in closed form: their appendix B.
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import jaxbp
from experiments.shared.characters import as_text

LATENT = 4
MODEL = jaxbp.Serial(
    encoder=jaxbp.Serial(jaxbp.Flatten(), jaxbp.Dense(128), jaxbp.ReLU(), jaxbp.Dense(2 * LATENT)),
    halves=jaxbp.Split(2),
    sample=jaxbp.GaussianSample(),
    decoder=jaxbp.Serial(jaxbp.Dense(128), jaxbp.ReLU(), jaxbp.Dense(64), jaxbp.Reshape((8, 8))),
)
LOSS, PENALTIES = jaxbp.BinaryCrossEntropy(), {"halves": jaxbp.GaussianKL()}


def train(epochs: int = 40):
    """Prints digits between two real ones, and new ones, and returns the history."""
    x = jnp.asarray(load_digits().images / 16, jnp.float32)
    state, history = jaxbp.fit(
        MODEL, LOSS, optax.adam(3e-3), (x, x), epochs=epochs, penalties=PENALTIES, progress=False
    )
    encode, decode = (MODEL.children[name] for name in ("encoder", "decoder"))

    def draw(z):
        print(as_text(jax.nn.sigmoid(decode(state.params["decoder"], z))), end="\n\n")

    first, last = encode(state.params["encoder"], x[:2])[:, :LATENT]
    draw(jnp.linspace(first, last, 6))
    draw(jax.random.normal(jax.random.key(1), (6, LATENT)))
    print(f"J fell from {history['loss'][0]:.1f} to {history['loss'][-1]:.1f}")
    return history


if __name__ == "__main__":
    train()
