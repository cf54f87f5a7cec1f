"""A U-Net that takes the noise off handwritten digits: three levels, joined across.

    a = left1(x)                      8x8, seen close up
    b = left2(pool(a))                4x4
    c = bottom(pool(b))               2x2, seen from afar
    d = right2([up2(c), b])           4x4
    e = right1([up1(d), a])           8x8
    y = x + out(e)                    the network says what to change

a is used twice, below and across, so two deltas meet there, as they do at b and x:

    ∂J/∂a = (∂pool/∂a)ᵀ ∂J/∂pool(a) + the part of ∂J/∂[up1(d), a] that belongs to a

The wiring says it all: it is written once, forward, and read in reverse for the backward pass.

Sources: Ronneberger, Fischer & Brox, arXiv 1505.04597; Zhang et al., arXiv 1608.03981 (the sum with x).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import jaxbp
from experiments.shared.characters import as_text


def block(features: int) -> jaxbp.Layer:
    """What happens at each level."""
    return jaxbp.Serial(jaxbp.Conv(features, (3, 3)), jaxbp.ReLU())


@dataclass(frozen=True)
class UNet(jaxbp.Composite):
    """Maps images [n, height, width, 1] to as large ones; height and width are multiples of 4."""

    features: int

    def make_children(self):
        n = self.features
        return {
            "left1": block(n),
            "left2": block(2 * n),
            "bottom": block(4 * n),
            "right2": block(2 * n),
            "right1": block(n),
            "up2": jaxbp.ConvTranspose(2 * n, (2, 2), stride=2),
            "up1": jaxbp.ConvTranspose(n, (2, 2), stride=2),
            "pool": jaxbp.MaxPool((2, 2)),
            "join": jaxbp.Concatenate(),
            "out": jaxbp.Conv(1, (1, 1)),
        }

    def wire(self, call, x):
        a = call("left1", x)
        b = call("left2", call("pool", a))
        c = call("bottom", call("pool", b))
        d = call("right2", call("join", (call("up2", c), b)))
        e = call("right1", call("join", (call("up1", d), a)))
        return x + call("out", e)


MODEL, LOSS, NOISE = UNet(8), jaxbp.MeanSquaredError(), 0.4


def noisy(key, images):
    """Fresh noise for every batch."""
    return images + NOISE * jax.random.normal(key, images.shape)


def train(epochs: int = 25):
    """Prints digits of the held-out fifth before and after, and returns the history."""
    images = jnp.asarray(load_digits().images / 16, jnp.float32)[..., None]
    clean, held_out = images[:1440], images[1440:]
    seen = noisy(jax.random.key(1), held_out)
    state, history = jaxbp.fit(
        MODEL,
        LOSS,
        optax.adam(3e-3),
        (clean, clean),
        epochs=epochs,
        batch_size=96,
        augment=noisy,
        validation=(seen, held_out),
        progress=False,
    )
    print(as_text(seen[:6]), as_text(MODEL(state.params, seen[:6])), sep="\n\n")
    print(f"\nmean squared error: {NOISE**2:.3f} before, {history['validation_loss'][-1]:.3f} after")
    return history


if __name__ == "__main__":
    train()
