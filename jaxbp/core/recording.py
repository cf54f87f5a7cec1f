"""Recording: a model whose layers keep what went in and what came out beside their residuals.

    recorded(model)              every leaf layer
    recorded(model, ["2"])       the layer at this path; a composite is recorded as a whole, as if it were a leaf

`sweep(recorded(model), …)` then shows every visit x and y too, which an inspection and a check want and a training step
does not. What a layer adds to the backward pass instead of looking on is put behind it by `insertion.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.insertion import replace_layers
from jaxbp.core.layer import Layer, Site
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import layers, leaves_of, require_paths
from jaxbp.core.shared import Uses
from jaxbp.core.sweep import Edits


class Record(NamedTuple):
    """What one layer saw in the forward pass; a pytree, so that it crosses scans."""

    x: PyTree
    y: PyTree
    residuals: PyTree
    rng: PRNGKeyArray | None


@dataclass(frozen=True)
class Recorded(Layer):
    """The layer `layer`, with a `Record` for residuals.

    sends: whether it sends a delta on; if not, zeros, so that its mistakes don't keep those below from being recorded.
    """

    layer: Layer
    sends: bool = True

    def init(self, key, x):
        return self.layer.init(key, x)

    def forward(self, params, x, rng=None):
        y, residuals = self.layer.forward(params, x, rng)
        return y, Record(x, y, residuals, rng)

    def input_gradient(self, params, record: Record, g):
        if not self.sends:
            return zero_delta(record.x)
        return self.layer.input_gradient(params, record.residuals, g)

    def param_gradient(self, params, record: Record, g):
        return self.layer.param_gradient(params, record.residuals, g)

    def __str__(self):
        return str(self.layer)


def recorded(model: Layer, paths: Iterable[str] | None = None, sends: bool = True) -> Layer:
    """The same model, parameters and all, with the layers at these paths recorded; every leaf unless given."""
    named = dict(layers(model))
    paths = list(leaves_of(model) if paths is None else paths)
    require_paths(model, dict.fromkeys(paths))
    return replace_layers(model, {path: Recorded(named[path], sends) for path in paths})


def record_of(site: Site) -> Record:
    """What the site's layer saw; of a layer that is used several times, each entry is a `Uses`."""
    records = site.residuals
    return Record(*map(Uses, zip(*records, strict=True))) if isinstance(records, Uses) else records


def for_records(edits: Edits) -> Edits:
    """Edits that were written for a model, for the recorded one: they see layers and residuals as they are there."""

    def unrecorded(site):
        if isinstance(site.layer, Recorded):
            return replace(site, layer=site.layer.layer, residuals=site.residuals.residuals)
        return site

    return {path: lambda site, edit=edit: edit(unrecorded(site)) for path, edit in edits.items()}


def zero_delta(tree: PyTree) -> PyTree:
    """Zeros for what has a gradient, None for what has none."""
    return jax.tree.map(lambda a: jnp.zeros_like(a) if is_floating(a) else None, tree)
