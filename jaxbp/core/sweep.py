"""One reverse sweep over a model: the chain rule, with a visitor.

Write the model as f = f_L ∘ … ∘ f_1 with outputs y_l = f_l(y_{l-1}; θ_l). From g_L = ∂J/∂y_L downwards,

    at layer l:   visit(Site(path, layer, θ_l, residuals_l, g_l))      any function of the layer's residuals and delta
                  g_{l-1} = (∂y_l/∂y_{l-1})ᵀ g_l                       the layer's input_gradient

and what `visit` returns is collected in a tree that mirrors the model. Which gradient is taken is up to the visit, how
g travels is up to the layer, and how it passes through a layer made of layers is up to the `Composite`; none of the
three knows the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import PyTree

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.paths import as_path, join, require_paths
from jaxbp.core.shared import Shared, Uses
from jaxbp.core.text import describe

Visit = Callable[[Site], Any]
Edits = Mapping[str, Callable[[Site], PyTree]]


def param_gradient(site: Site) -> Params:
    """Visit returning the parameter gradient ∂J/∂θ of one layer, with the structure and shapes of its parameters."""
    gradient = site.layer.param_gradient(site.params, site.residuals, site.g)
    if jax.tree.structure(gradient) != jax.tree.structure(site.params) or any(
        a.shape != b.shape for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(site.params), strict=True)
    ):
        problem = f"the parameter gradient {describe(gradient)} doesn't match the parameters {describe(site.params)}"
        raise LayerError(site.layer, f"{problem}: do they belong to this model?", path=as_path(site.path))
    return gradient


def delta(site: Site) -> PyTree:
    """Visit returning the layer's delta δ = ∂J/∂y as it arrives; of a shared layer, those of all its uses."""
    return site.g


def keep(site: Site) -> tuple[PyTree, PyTree]:
    """Visit returning (residuals, delta), for `revisit`."""
    return site.residuals, site.g


@dataclass(frozen=True)
class Walk:
    """How a delta passes through the children of a composite: what `Composite.backward` is handed.

    `walk(name, params, feedback, residuals, g) -> (∂J/∂x, collected)` passes a child, given the child's part of each
    tree. A child that is used several times is passed by `walk.keep` at each use, and then visited once by
    `walk.revisit(name, params, kept) -> collected`.
    """

    path: str
    children: Mapping[str, Layer]
    visit: Visit
    edits: Edits

    def __call__(self, name, params, feedback, residuals, g) -> tuple[PyTree, PyTree]:
        site = Site(join(self.path, name), self.children[name], params, residuals, g)
        return through(site, feedback, self.visit, self.edits)

    def keep(self, name, params, feedback, residuals, g) -> tuple[PyTree, PyTree]:
        """Passes a child, and keeps what a visit will need."""
        return replace(self, visit=keep)(name, params, feedback, residuals, g)

    def revisit(self, name, params, kept) -> PyTree:
        """Visits a child with what was kept."""
        return revisit(self.children[name], params, kept, self.visit, join(self.path, name))


def sweep(
    model: Layer,
    params: Params,
    residuals: PyTree,
    g: PyTree,
    visit: Visit = param_gradient,
    feedback: Params | None = None,
    edits: Edits | None = None,
) -> tuple[PyTree, PyTree]:
    """Sends g = ∂J/∂y backward through the model, calling `visit` at each leaf layer.

    Args:
        model: any layer.
        params: its parameters.
        residuals: what `model.forward` returned beside the outputs.
        g: ∂J/∂y, shaped like the outputs.
        visit: what to take at each layer, a function of a `Site`. A layer that is used several times in a model is
            visited once: residuals and g of its site are tuples with one entry for each use.
        feedback: parameters that the input gradients use in place of `params` (None: none; a None in place of a
            layer's or composite's entry: the true ones there).
        edits: functions by path, each from a `Site` to the delta that takes the place of site.g in flight, before the
            layer is visited; of a layer that is used several times, at every use.

    Returns:
        ∂J/∂x, and the tree of what the visits returned, which mirrors the model (inside a `Repeat` stacked along its
        layers).
    """
    edits = dict(edits or {})
    require_paths(model, edits)
    return through(Site("", model, params, residuals, g), feedback, visit, edits)


def through(site: Site, feedback: Params | None, visit: Visit, edits: Edits) -> tuple[PyTree, PyTree]:
    """Passes one layer: (∂J/∂x, what was collected)."""
    layer, params, residuals = site.layer, site.params, site.residuals
    if site.path in edits:
        site = replace(site, g=edited(site, edits[site.path]))
    if layer.children:
        return layer.backward(Walk(site.path, layer.children, visit, edits), params, feedback, residuals, site.g)
    visited = visit(site)
    return layer.input_gradient(params if feedback is None else feedback, residuals, site.g), visited


def revisit(model: Layer, params: Params, kept: PyTree, visit: Visit = param_gradient, path: str = "") -> PyTree:
    """Visits every layer again with what a sweep with `visit=keep` collected, and sends nothing on.

    Between the two the deltas may be changed (clipped, re-weighted): `kept` is a tree of (residuals, g).
    """
    if model.children:
        children = model.children
        return model.revisit(
            lambda name, params, kept: revisit(children[name], params, kept, visit, join(path, name)), params, kept
        )
    return visit(kept_site(path, model, params, kept))


def kept_site(path: str, layer: Layer, params: Params, kept: tuple[PyTree, PyTree]) -> Site:
    """The site of a leaf layer, from what `keep` returned there."""
    residuals, g = kept
    return Site(path, Shared(layer) if isinstance(residuals, Uses) else layer, params, residuals, g)


def edited(site: Site, edit: Callable[[Site], PyTree]) -> PyTree:
    """The delta after its edit, which must keep structure, shapes and dtypes."""
    new = edit(site)
    if jax.tree.map(describe, new) != jax.tree.map(describe, site.g):
        problem = f"the edit must return a delta like {describe(site.g)}, but returned {describe(new)}"
        raise LayerError(site.layer, problem, path=as_path(site.path))
    return new
