"""A table of the layers: output shapes and numbers of parameters."""

from math import prod

import jax

from jaxbp.core.layer import ArrayLike, Layer
from jaxbp.core.paths import leaves, leaves_of
from jaxbp.core.recording import recorded
from jaxbp.core.sweep import sweep
from jaxbp.core.text import describe, table


def summary(model: Layer, x: ArrayLike) -> str:
    """A table of the leaf layers for inputs like x: path, layer, output, number of parameters."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))

    def look(params, x):
        watched = recorded(model)
        outputs, residuals = watched.forward(params, x)
        visit = lambda site: (site.residuals.y, site.params)  # noqa: E731
        return sweep(watched, params, residuals, outputs, visit)[1]

    seen = leaves(model, jax.eval_shape(look, shapes, x))
    named = leaves_of(model)
    rows = [("path", "layer", "output", "parameters"), ("", "input", describe(x), "")]
    total = 0
    for path, (y, params) in seen.items():
        count = sum(prod(p.shape) for p in jax.tree.leaves(params))
        total += count
        rows.append((path, str(named[path]), describe(y), f"{count:,}"))
    rows.append(("", "total", "", f"{total:,}"))
    return table(rows)
