"""Layers put into a model: in the place of others, or behind them.

    y = f(x; θ)     becomes     z = a(f(x; θ); φ)          ∂J/∂y = (∂z/∂y)ᵀ ∂J/∂z,  which f gets for its delta

A layer `a` that is the identity in the forward pass and more than that in the backward pass can so act at any place of
a model: a learning rule sends another delta, a tap shows the one that arrives. As φ lies beside θ in the parameters,
it is scanned by a `Repeat` and mapped by a `Vmap` as θ is, and nothing has to be carried past them.

Trees that mirror the model (parameters, gradients) are taken to the new model by `put_in` and back by `take_out`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.composite import Composite
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import as_path, is_below, join, part

SALT = 0xAF7E2  # the inserted layer's random numbers are its own


@dataclass(frozen=True)
class Followed(Composite):
    """z = after(layer(x)). The layer gets the random key that it would get without the other behind it."""

    layer: Layer
    after: Layer

    def wire(self, call, x):
        return call("after", call("layer", x))

    def forward(self, params, x, rng=None):
        self.require_params(params)
        children, key = self.children, None if rng is None else jax.random.fold_in(rng, SALT)
        y, layer = children["layer"].forward(params["layer"], x, rng)
        z, after = children["after"].forward(params["after"], y, key)
        return z, {"layer": layer, "after": after}

    def backward(self, walk, params, feedback, residuals, g):
        collected = {}
        for name in ("after", "layer"):
            g, collected[name] = walk(name, *(part(tree, name) for tree in (params, feedback, residuals)), g)
        return g, self.collect(collected)


def insert(model: Layer, after: Mapping[str, Layer], path: str = "") -> Layer:
    """The model with a layer behind that at each of these paths.

    Below an insertion at q, paths go on behind "q.layer"; what was inserted is "q.after".
    """
    if holds(after, path):
        children = model.children.items()
        model = model.rebuild({name: insert(child, after, join(path, name)) for name, child in children})
    return Followed(model, after[path]) if path in after else model


def put_in(model: Layer, tree: PyTree, entries: Mapping[str, PyTree], path: str = "") -> PyTree:
    """A tree that mirrors the model, as one for `insert`'s, with these entries for what was inserted."""
    if tree is None:
        return None
    if holds(entries, path):
        children = model.children.items()
        tree = model.collect(
            {name: put_in(child, part(tree, name), entries, join(path, name)) for name, child in children}
        )
    return {"layer": tree, "after": entries[path]} if path in entries else tree


def take_out(model: Layer, tree: PyTree, paths: Iterable[str], path: str = "") -> tuple[PyTree, dict[str, PyTree]]:
    """The inverse of `put_in`: (the tree that mirrors the model, the entries by path)."""
    paths, found = set(paths), {}
    if path in paths:
        tree, found[path] = tree["layer"], tree["after"]
    if holds(paths, path):
        answers = {}
        for name, child in model.children.items():
            answers[name], inside = take_out(child, part(tree, name), paths, join(path, name))
            found |= inside
        tree = model.collect(answers)
    return tree, found


def holds(paths: Iterable[str], path: str) -> bool:
    """Whether one of the paths lies inside the layer at this one."""
    return any(p != path and is_below(p, path) for p in paths)


def replace_layers(model: Layer, others: Mapping[str, Layer], path: str = "") -> Layer:
    """The model with other layers at these paths, of leaves or composites; nothing is replaced inside of these."""
    if path in others:
        return others[path]
    if not holds(others, path):
        return model
    children = model.children.items()
    return model.rebuild({name: replace_layers(child, others, join(path, name)) for name, child in children})


def is_called(model: Layer, path: str, params: Params, x: PyTree, rng: PRNGKeyArray | None = None) -> bool:
    """Whether the layer at this path runs in the forward pass as a whole.

    A recurrent layer's scan, for one, uses the parameters of its inner layer without calling it, and there is no output
    that anything could be put behind. Only shapes are computed.
    """
    watched = replace_layers(model, {path: _Alarm()})
    try:
        jax.eval_shape(lambda params, x: watched.forward(params, x, rng)[0], params, x)
    except _Called:
        return True
    return False


class _Called(Exception):
    pass


class _Alarm(Layer):
    def forward(self, params, x, rng=None):
        raise _Called


def path_inside(path: str, inserted: Iterable[str]) -> str:
    """Where the layer at `path` is found once others have been inserted behind the layers at the paths `inserted`."""
    names, found = as_path(path), []
    for i in range(len(names) + 1):
        found += ["layer"] if ".".join(names[:i]) in inserted else []
        found += names[i : i + 1]
    return ".".join(found)


def path_outside(path: str, inserted: Iterable[str]) -> str | None:
    """The inverse of `path_inside`; None for a layer that was inserted."""
    left, names = list(as_path(path)), []
    while left:
        if ".".join(names) in inserted and left.pop(0) == "after":
            return None
        names += [left.pop(0)] if left else []
    return ".".join(names)
