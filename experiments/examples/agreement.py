"""A new quantity: does an example's gradient point the way of the batch's?

    agreement[n] = ⟨G_n, ḡ⟩ / (‖G_n‖ ‖ḡ‖),   G_n the gradient of example n, ḡ their mean

It is 1 for an example like all others, and below 0 for one that the step makes worse, perhaps for its label is wrong.
Each of the three products is a sum over layers: the visit gives a layer's terms, and gather adds them up and divides.
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
    """The sums over all layers, those inside a Repeat too, which are stacked in front."""
    along, single, mean = sum(a.sum(range(a.ndim - 2)) for a in jax.tree.leaves(tree))
    return along / jnp.sqrt(single * mean)


agreement = Quantity(products, cosine, per_example_gradients.require, doc="⟨G_n, ḡ⟩ / (‖G_n‖ ‖ḡ‖), [n].")
