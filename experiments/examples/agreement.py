"""A new quantity: does an example pull the parameters where the batch pulls them?

    agreement[n] = ⟨G_n, ḡ⟩ / (‖G_n‖ ‖ḡ‖),   G_n the gradient of example n, ḡ their mean

1 for an example that is like all others, below 0 for one that the step makes worse: a wrong label, for example. The
visit says at each layer what of the three products comes from it; gather adds up over layers and divides.
"""

import jax
import jax.numpy as jnp

from jaxbp import Quantity, param_gradient, per_example_gradients


def products(site):
    """⟨G_n, ḡ⟩, ‖G_n‖² and ‖ḡ‖² of one layer, each [n]."""
    single, mean = per_example_gradients.visit(site), param_gradient(site)
    rows = [(g.reshape(len(g), -1), m.ravel()) for g, m in zip(*map(jax.tree.leaves, (single, mean)), strict=True)]
    return [jnp.stack([g @ m, jnp.sum(g * g, 1), jnp.full(len(g), m @ m)]) for g, m in rows]


def cosine(tree):
    """Joined over layers, and over the turns of a Repeat, which stand in front."""
    along, single, mean = sum(a.sum(range(a.ndim - 2)) for a in jax.tree.leaves(tree))
    return along / jnp.sqrt(single * mean)


agreement = Quantity(products, cosine, per_example_gradients.require, doc="⟨G_n, ḡ⟩ / (‖G_n‖ ‖ḡ‖), [n].")
