"""One forward and backward pass of a model in float64, by hand and by autodiff.

The true δ of a layer is a gradient too: that of the loss in a tap φ, a zero that is added to the layer's output,

    J(φ) = J(y + φ)        ∂J/∂φ = ∂J/∂y = δ

A layer that is called several times has a tap for each use, and parameters for each, whose gradients add up to that of
the layer. Where a composite runs a layer's parameters in a scan of its own and never calls the layer as a whole
(recurrent layers), there is no output to tap.
"""

from collections import Counter
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.backprop import Run
from jaxbp.core.composite import Composite, Wired
from jaxbp.core.insertion import insert, is_called
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.paths import is_below, join, layers, leaves, leaves_of
from jaxbp.core.recording import recorded, zero_delta
from jaxbp.core.shared import Uses, uses_of
from jaxbp.core.sweep import param_gradient, sweep
from jaxbp.interop import merge, split_floating
from jaxbp.losses.base import Loss

Sites = dict[str, tuple[Params, PyTree]]  # by path: parameters, and the record, or `Uses` of records


@dataclass(frozen=True)
class Found:
    """Of one leaf layer: δ at each use, None where there is no output to tap, and the gradient of its parameters."""

    deltas: tuple | None
    gradient: Params


class Tap(Layer):
    """y + φ."""

    def forward(self, tap, y, rng=None):
        moving, fixed = split_floating(y)
        return merge(jax.tree.map(jnp.add, moving, tap), fixed), ()


@dataclass(frozen=True)
class OnePass:
    """A forward pass, and what is asked of it.

    forward: what `jaxbp.backprop.run` made of the two arguments below and its others.
    calls: how often a composite calls the child at a path, as far as `sites` has seen.
    """

    forward: Run
    rng: PRNGKeyArray | None
    weights: PyTree
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def model(self) -> Layer:
        """The model."""
        return self.forward.model

    @property
    def loss(self) -> Loss:
        """The loss."""
        return self.forward.loss

    def value(self, outputs: PyTree, weighted: bool = True) -> tuple[Array, PyTree]:
        """The loss and its residuals."""
        return self.loss.forward(outputs, self.forward.targets, self.weights if weighted else None)

    def sites(self, paths: list[str] | None = None) -> Sites:
        """What the leaf layers saw, or the layers at these paths.

        No layer sends a delta, so that its mistakes don't keep those below from being seen.
        """
        seen = recorded(self.model, paths, sends=False)
        params, g = self.forward.params, zero_delta(self.forward.outputs)
        _, records = seen.forward(params, self.forward.x, self.rng)
        edits = {path: self._count for path, layer in layers(seen) if layer.children}
        visit = lambda site: (site.params, site.residuals)  # noqa: E731
        _, found = sweep(seen, params, records, g, visit, edits=edits)
        return leaves(seen, found)

    def _count(self, site: Site) -> PyTree:
        """An edit that changes nothing, and notes what the composite's wiring calls how often."""
        if isinstance(site.residuals, Wired):
            tape = site.residuals.tape
            self.calls.update({join(site.path, name): tape.uses(name) for name in site.layer.children})
        return site.g

    def by_hand(self, g: PyTree) -> tuple[PyTree, dict[str, Found]]:
        """∂J/∂x, and what a sweep finds at each leaf."""
        dx, found = self.forward.sweep(lambda site: (site.g, param_gradient(site)), g)
        return dx, {path: Found(uses_of(g), gradient) for path, (g, gradient) in leaves(self.model, found).items()}

    def by_autodiff(self, sites: Sites) -> tuple[PyTree, dict[str, Found]]:
        """The same two by jax.grad."""
        places: list[tuple[str, int]] = []
        numbers = number_uses(self.model, self.calls, places)
        tapped = self._tapped(sites, Counter(path for path, _ in places))
        model = insert(self.model, dict.fromkeys(tapped, Tap()))
        moving, fixed = split_floating(self.forward.x)

        def entry(path, use):
            params, records = sites[path]
            if path not in tapped:
                return params
            return {"layer": params, "after": zero_delta(uses_of(records)[use].y)}

        def value(entries, moving):
            params = jax.tree.map(entries.__getitem__, numbers)
            return self.value(model.forward(params, merge(moving, fixed), self.rng)[0])[0]

        gradients, dx = jax.grad(value, (0, 1))([entry(*place) for place in places], moving)
        by_path: dict[str, list] = {}
        for (path, _), gradient in zip(places, gradients, strict=True):
            by_path.setdefault(path, []).append(gradient)
        return dx, {path: _add_up(by_path[path], path in tapped) for path in sites}

    def _tapped(self, sites: Sites, uses: Counter) -> set[str]:
        """The leaves whose output can be tapped at every use."""
        by_hand = [p for p, layer in layers(self.model) if has_own(layer, "forward")]

        def in_view(path):
            if len(uses_of(sites[path][1])) != uses[path]:
                return False  # a composite that is not wired calls it several times
            hidden = any(is_below(path, top) for top in by_hand)
            return not hidden or is_called(self.model, path, self.forward.params, self.forward.x, self.rng)

        return {path for path in leaves_of(self.model) if in_view(path)}


def number_uses(model: Layer, calls: dict[str, int], places: list[tuple[str, int]], path: str = "") -> PyTree:
    """A tree that mirrors the model with a number at every use of every leaf, `Uses` where there are several.

    (path, use) of the number i is put down as places[i], in forward order.
    """
    if not model.children:
        places.append((path, sum(at == path for at, _ in places)))
        return len(places) - 1
    answers = {}
    for name, child in model.children.items():
        inside = join(path, name)
        uses = [number_uses(child, calls, places, inside) for _ in range(calls.get(inside, 1))]
        answers[name] = uses[0] if len(uses) == 1 else Uses(uses)
    return model.collect(answers)


def has_own(layer: Layer, method: str) -> bool:
    """Whether this is a composite that doesn't leave this method to its wiring."""
    return bool(layer.children) and getattr(type(layer), method) is not getattr(Composite, method)


def _add_up(uses: list[PyTree], tapped: bool) -> Found:
    deltas = tuple(use["after"] for use in uses) if tapped else None
    gradients = [use["layer"] for use in uses] if tapped else uses
    return Found(deltas, jax.tree.map(lambda *terms: sum(terms[1:], terms[0]), *gradients))
