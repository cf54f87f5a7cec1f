"""One reverse sweep over a model: the chain rule, with a visitor.

Write the model as f = f_L ∘ … ∘ f_1 with outputs y_l = f_l(y_{l-1}; θ_l). From g_L = ∂J/∂y_L downwards,

    at layer l:   visit(path, layer, θ_l, residuals_l, g_l)      whatever is to be known here
                  g_{l-1} = (∂y_l/∂y_{l-1})ᵀ g_l                 the layer's input_gradient

and what `visit` returns is collected in a tree that mirrors the model. Which gradient is taken is the visit's affair,
how g travels is the layer's, and how it passes through a layer made of layers is the `Composite`'s; none of the three
knows the others.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.paths import as_path, join, part, require_paths
from jaxbp.core.text import describe

Visit = Callable[[Site], Any]
Edits = Mapping[str, Callable[[PyTree], PyTree]]


class Composite(Layer):
    """A layer made of layers. A subclass gives `children`, `rebuild`, `init`, `forward` and `backward`.

    Parameters, residuals and what a sweep collects are trees with one entry per child: dicts under the children's
    names, or tuples where the names are numbers.

    stacked: whether these trees have an axis of turns in front of what the children have (a scan over equal layers).
    """

    stacked = False

    @property
    def children(self) -> dict[str, Layer]:
        """The layers inside, by name, in forward order."""
        raise LayerError(self, "this composite doesn't define its children")

    def rebuild(self, children: dict[str, Layer]) -> "Composite":
        """The same composite around other children of the same names."""
        raise LayerError(self, "this composite doesn't define rebuild(children)")

    def backward(self, walk, params, feedback, residuals, g) -> tuple[PyTree, PyTree]:
        """Sends g through the children in reverse and returns (∂J/∂x, what was collected).

        Each child is passed by `walk(name, params, feedback, residuals, g) -> (∂J/∂x, collected)` with that child's
        part of the trees (see `part`).
        """
        raise LayerError(self, "this composite doesn't define backward(walk, params, feedback, residuals, g)")

    def revisit(self, walk, params, kept) -> PyTree:
        """Calls `walk(name, params, kept) -> collected` for every child and sends nothing on."""
        return self.collect({name: walk(name, part(params, name), part(kept, name)) for name in self.children})

    def collect(self, answers: dict[str, Any]) -> PyTree:
        """A tree with one entry per child: a tuple where the names are 0, 1, 2…, else a dict."""
        return tuple(answers[name] for name in self.children) if "0" in self.children else answers

    @property
    def mixes_examples(self) -> bool:
        return any(child.mixes_examples for child in self.children.values())

    def refresh(self, params, residuals):
        return self.collect(
            {name: child.refresh(part(params, name), part(residuals, name)) for name, child in self.children.items()}
        )

    def input_gradient(self, params, residuals, g):
        return sweep(self, params, residuals, g, visit=lambda site: ())[0]

    def param_gradient(self, params, residuals, g):
        return sweep(self, params, residuals, g)[1]


def param_gradient(site: Site) -> Params:
    """The visit that learns: ∂J/∂θ of one layer, with the structure and shapes of its parameters."""
    gradient = site.layer.param_gradient(site.params, site.residuals, site.g)
    if jax.tree.structure(gradient) != jax.tree.structure(site.params) or any(
        a.shape != b.shape for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(site.params), strict=True)
    ):
        problem = f"the parameter gradient {describe(gradient)} doesn't match the parameters {describe(site.params)}"
        raise LayerError(site.layer, f"{problem}: do they belong to this model?", path=as_path(site.path))
    return gradient


def delta(site: Site) -> PyTree:
    """The visit that looks: the layer's δ = ∂J/∂y, as it arrives."""
    return site.g


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
        visit: what to take at each layer, a function of a `Site`.
        feedback: parameters that the input gradients use in place of `params` (None: none; a None in place of a
            layer's or composite's entry: the true ones there).
        edits: functions by path that replace a delta in flight, before its layer is visited.

    Returns:
        ∂J/∂x, and the tree of what the visits returned, which mirrors the model (inside a `Repeat` stacked over turns).
    """
    edits = dict(edits or {})
    require_paths(model, edits)

    def walk(path, layer, params, feedback, residuals, g):
        if path in edits:
            g = edited(path, layer, edits[path], g)
        if layer.children:
            return layer.backward(
                lambda name, *trees: walk(join(path, name), layer.children[name], *trees),
                params,
                feedback,
                residuals,
                g,
            )
        visited = visit(Site(path, layer, params, residuals, g))
        return layer.input_gradient(params if feedback is None else feedback, residuals, g), visited

    return walk("", model, params, feedback, residuals, g)


def keep(site: Site) -> tuple[PyTree, PyTree]:
    """The visit that postpones: a later `revisit` takes what it wants from (residuals, g)."""
    return site.residuals, site.g


def revisit(model: Layer, params: Params, kept: PyTree, visit: Visit = param_gradient) -> PyTree:
    """Visits every layer again with what a sweep with `visit=keep` collected, and sends nothing on.

    Between the two the deltas may be changed (clipped, re-weighted): `kept` is a tree of (residuals, g).
    """

    def walk(path, layer, params, kept):
        if layer.children:
            return layer.revisit(
                lambda name, *trees: walk(join(path, name), layer.children[name], *trees), params, kept
            )
        return visit(Site(path, layer, params, *kept))

    return walk("", model, params, kept)


def edited(path: str, layer: Layer, edit: Callable[[PyTree], PyTree], g: PyTree) -> PyTree:
    """The delta after its edit, which must keep structure, shapes and dtypes."""
    new = edit(g)
    if jax.tree.map(describe, new) != jax.tree.map(describe, g):
        problem = f"the edit must return a delta like {describe(g)}, but returned {describe(new)}"
        raise LayerError(layer, problem, path=as_path(path))
    return new
