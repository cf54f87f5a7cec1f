"""A GAN step: the error that teaches the generator passes through the discriminator, which learns nothing from it.

    x = G(z; θ)          s = D(x; φ)          the logit of "x is real"

    J_D = mean of log(1 + e^-s) over real x and log(1 + e^s) over generated ones          J_G = mean log(1 + e^-s)

The error of J_G goes backward through D, then through G, and only G is to learn from it:

    ∂J_G/∂x = (∂s/∂x)ᵀ ∂J_G/∂s          the input gradients of D, and none of its parameter gradients
    ∂J_G/∂θ = (∂x/∂θ)ᵀ ∂J_G/∂x          the parameter gradients of G

The two gradients of a layer are two functions, so in a frozen network the second one is simply never called.

Source: Goodfellow et al., arXiv 1406.2661; J_G is their "non-saturating" one (section 3).
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from sklearn.datasets import load_digits

import jaxbp
from experiments.shared.characters import as_text

GENERATOR = jaxbp.Serial(
    jaxbp.Dense(128),
    jaxbp.ReLU(),
    jaxbp.Dense(128),
    jaxbp.ReLU(),
    jaxbp.Dense(64),
    jaxbp.Sigmoid(),
    jaxbp.Reshape((8, 8)),
)
DISCRIMINATOR = jaxbp.Serial(
    jaxbp.Flatten(),
    jaxbp.Dense(128),
    jaxbp.LeakyReLU(0.2),
    jaxbp.Dense(128),
    jaxbp.LeakyReLU(0.2),
    jaxbp.Dense(1),
)
LOSS, OPTIMIZER = jaxbp.BinaryCrossEntropy(), optax.adam(5e-4, b1=0.5)
REAL, GENERATED = jnp.ones, jnp.zeros  # the targets


def generator_gradient(theta, phi, z, visit=jaxbp.param_gradient):
    """J_G and ∂J_G/∂θ, or what else a visit makes of the generator's deltas."""
    x, residuals = GENERATOR.forward(theta, z)
    judged = jaxbp.run(DISCRIMINATOR, LOSS, phi, x, REAL((len(x), 1)))
    dx, _ = judged.sweep(visit=lambda site: ())
    return judged.value, jaxbp.sweep(GENERATOR, theta, residuals, dx, visit)[1]


def discriminator_gradient(theta, phi, z, real):
    """J_D and ∂J_D/∂φ."""
    x = jnp.concatenate([real, GENERATOR(theta, z)])
    targets = jnp.concatenate([REAL((len(real), 1)), GENERATED((len(z), 1))])
    return jaxbp.value_and_grad(DISCRIMINATOR, LOSS)(phi, x, targets)


def step(state, key, images, batch_size=64):
    """Both networks learn at once, each from the other as it was."""
    (theta, phi), optimizer_state = state
    for_real, for_z = jax.random.split(key)
    real, z = jax.random.choice(for_real, images, (batch_size,)), jax.random.normal(for_z, (batch_size, 16))
    j_g, dtheta = generator_gradient(theta, phi, z)
    j_d, dphi = discriminator_gradient(theta, phi, z, real)
    updates, optimizer_state = OPTIMIZER.update((dtheta, dphi), optimizer_state)
    return (optax.apply_updates((theta, phi), updates), optimizer_state), (j_g, j_d)


def train(steps: int = 6000):
    """Prints what is drawn after one half and after the other, and returns the parameters and losses (J_G, J_D)."""
    images = jnp.asarray(load_digits().images / 16, jnp.float32)
    z = jax.random.normal(jax.random.key(0), (6, 16))
    params = GENERATOR.init(jax.random.key(1), z), DISCRIMINATOR.init(jax.random.key(2), images)
    play = jax.jit(lambda state, keys: lax.scan(lambda state, key: step(state, key, images), state, keys))
    state, losses = (params, OPTIMIZER.init(params)), []
    for key in jax.random.split(jax.random.key(3), 2):
        state, found = play(state, jax.random.split(key, steps // 2))
        losses.append(jnp.stack(found, 1))
        print(as_text(GENERATOR(state[0][0], z)), end="\n\n")
    print("losses of the last 100 steps: generator {:.2f}, discriminator {:.2f}".format(*losses[-1][-100:].mean(0)))
    return state[0], jnp.concatenate(losses)


if __name__ == "__main__":
    train()
