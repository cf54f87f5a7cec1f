"""A table of the layers: output shapes and numbers of parameters."""

from math import prod

import jax
from jaxtyping import PyTree

from jaxbp.core.layer import Layer
from jaxbp.core.paths import leaves, leaves_of
from jaxbp.core.recording import record_of, recorded, zero_delta
from jaxbp.core.sweep import sweep
from jaxbp.core.text import describe, table


def summary(model: Layer, x: PyTree) -> str:
    """A table of the leaf layers for inputs like x, arrays or their shapes: path, layer, output, number of parameters.

    A layer that is used several times has its outputs in a tuple, and its parameters counted once.
    """
    watched = recorded(model, sends=False)

    def look(x):
        params = model.init(jax.random.key(0), x)
        outputs, records = watched.forward(params, x)
        visit = lambda site: (record_of(site).y, site.params)  # noqa: E731
        return sweep(watched, params, records, zero_delta(outputs), visit)[1]

    seen, named = leaves(model, jax.eval_shape(look, x)), leaves_of(model)
    rows = [("path", "layer", "output", "parameters"), ("", "input", describe(x), "")]
    total = 0
    for path, (y, params) in seen.items():
        count = sum(prod(p.shape) for p in jax.tree.leaves(params))
        total += count
        rows.append((path, str(named[path]), describe(y), f"{count:,}"))
    rows.append(("", "total", "", f"{total:,}"))
    return table(rows)
