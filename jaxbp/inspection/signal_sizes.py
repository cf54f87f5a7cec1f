"""The sizes of activations, deltas and gradients, layer by layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import run
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import leaves
from jaxbp.core.recording import record_of, recorded
from jaxbp.core.sweep import param_gradient
from jaxbp.losses.base import Loss


def signal_sizes(
    model: Layer, loss: Loss, params: Params, x: PyTree, targets: PyTree, rng: PRNGKeyArray | None = None
) -> dict[str, dict[str, float]]:
    """Root mean squares by path: {"activation": of the output, "delta": of δ per example, "gradient": of ∂J/∂θ}.

    δ is taken times the number of examples, as the mean over the batch made it small. A layer without parameters has no
    "gradient"; of a layer that is used several times all uses count together. Call it after each epoch, and draw the
    list of results with `jaxbp.plot_flow`.
    """
    measured = leaves(model, _measure(model, loss, params, x, targets, rng))
    return {path: {name: float(np.mean(size)) for name, size in sizes.items()} for path, sizes in measured.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _measure(model, loss, params, x, targets, rng):
    examples = jax.tree.leaves(x)[0].shape[0]

    def visit(site):
        sizes = {"activation": rms(record_of(site).y), "delta": examples * rms(site.g)}
        return sizes | ({"gradient": rms(param_gradient(site))} if jax.tree.leaves(site.params) else {})

    return run(recorded(model), loss, params, x, targets, rng).sweep(visit)[1]


def rms(tree: PyTree) -> Float[Array, ""]:
    """The root of the mean square of all floating-point numbers in a tree; 0 where there are none."""
    arrays = [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in jax.tree.leaves(tree) if is_floating(a)]
    return jnp.sqrt(sum(jnp.sum(a * a) for a in arrays) / max(sum(a.size for a in arrays), 1))
