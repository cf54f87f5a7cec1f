"""Layers made of layers: Serial, Residual, Parallel, Vmap, Repeat, Recompute.

    Serial      y = f_L(… f_1(x))          ∂J/∂x = (∂f_1)ᵀ … (∂f_L)ᵀ g
    Residual    y = s(x) + f(x)            ∂J/∂x = (∂s/∂x)ᵀ g + (∂f/∂x)ᵀ g; s is the identity unless given
    Parallel    y = (f_1(x), …, f_K(x))    ∂J/∂x = Σ_k (∂f_k/∂x)ᵀ g_k
    Vmap        y = (f(x; θ_1), …)         the same layer with n sets of parameters, as one batched computation
    Repeat      Serial of n equal layers   one scan over stacked parameters, compiled once
    Recompute   y = f(x)                   keeps x alone, and runs f again when g arrives

The first three say how data flows, and the chain rule on their record is the rest (see `jaxbp.core.composite`). The
others write their backward pass by hand: it is a scan, a batched sweep, a second forward pass.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jaxbp.core.composite import Composite, require_layer
from jaxbp.core.errors import LayerError, located, require_positive
from jaxbp.core.layer import Layer
from jaxbp.core.notes import notes_in
from jaxbp.core.paths import part
from jaxbp.core.text import describe
from jaxbp.core.wiring import add

__all__ = ["Parallel", "Recompute", "Repeat", "Residual", "Serial", "Vmap"]


@dataclass(frozen=True, init=False)
class Several(Composite):
    """What Serial and Parallel share: any number of layers, named 0, 1, 2… or by keywords."""

    layers: tuple[Layer, ...]
    names: tuple[str, ...]

    def __init__(self, *layers: Layer, **named: Layer):
        children = {str(i): layer for i, layer in enumerate(layers)} | named
        if not children:
            raise ValueError(f"{type(self).__name__} needs at least one layer; Identity() passes its input on")
        for name, layer in children.items():
            require_layer(self, name, layer)
        object.__setattr__(self, "layers", tuple(children.values()))
        object.__setattr__(self, "names", tuple(children))

    def make_children(self):
        return dict(zip(self.names, self.layers, strict=True))

    def rebuild(self, children):
        numbered = [layer for name, layer in children.items() if name.isdigit()]
        return type(self)(*numbered, **{name: layer for name, layer in children.items() if not name.isdigit()})

    def __str__(self):
        words = (str(layer) if name.isdigit() else f"{name}={layer}" for name, layer in self.children.items())
        return f"{type(self).__name__}({', '.join(words)})"

    __repr__ = __str__


class Serial(Several):
    """Layers one after the other: Serial(Dense(128), ReLU(), Dense(10)), or with names of your own.

    Serial(hidden=Dense(128), act=ReLU(), out=Dense(10)) has the paths "hidden", "act" and "out", and a dict of
    parameters under these names.
    """

    def wire(self, call, x):
        for name in self.children:
            x = call(name, x)
        return x


class Parallel(Several):
    """The same input into several layers, their outputs in a tuple, or in a dict where all layers are named.

    `Serial(Parallel(f, g), Add())` adds the outputs, `Serial(Parallel(f, g), Concatenate())` joins them.
    """

    def wire(self, call, x):
        return self.collect({name: call(name, x) for name in self.children})


@dataclass(frozen=True)
class Residual(Composite):
    """y = shortcut(x) + body(x); without a shortcut y = x + body(x)."""

    body: Layer
    shortcut: Layer | None = None

    def __post_init__(self):
        require_layer(self, "body", self.body)
        if self.shortcut is not None:
            require_layer(self, "shortcut", self.shortcut)

    def wire(self, call, x):
        return add(call("body", x), x if self.shortcut is None else call("shortcut", x))


@dataclass(frozen=True)
class Vmap(Composite):
    """n layers of the same kind, each with parameters of its own, side by side: an ensemble, a layer of experts.

    Maps x [examples, ...] to y [examples, n, ...], for every leaf of y. Parameters are stacked along axis 0.

    Args:
        body: the layer.
        n: how many.
        split: whether x has the axis too, x [examples, n, ...], and each layer sees its own part of it.
    """

    body: Layer
    n: int
    split: bool = False
    stacked = True

    def __post_init__(self):
        require_layer(self, "body", self.body)
        require_positive(self, layers=self.n)

    def init(self, key, x):
        with located("body"):
            x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[:1] + a.shape[2:], a.dtype), x) if self.split else x
            return {"body": jax.vmap(lambda k: self.children["body"].init(k, x))(jax.random.split(key, self.n))}

    def forward(self, params, x, rng=None):
        self.require_params(params)
        require_stacked(self, params["body"], self.n)
        if self.split and any(a.shape[1:2] != (self.n,) for a in jax.tree.leaves(x)):
            raise LayerError(self, f"expected inputs [examples, {self.n}, ...], got {describe(x)}")
        keys = None if rng is None else jax.random.split(rng, self.n)
        axes = (0, 1 if self.split else None, None if rng is None else 0)
        with located("body"):
            y, residuals = jax.vmap(self.children["body"].forward, axes, (1, 0))(params["body"], x, keys)
        return y, {"body": residuals}

    def backward(self, walk, params, feedback, residuals, g):
        trees = part(params, "body"), part(feedback, "body"), part(residuals, "body")
        axes = (0, None if feedback is None else 0, 0, 1)
        dx, collected = jax.vmap(lambda *trees: walk("body", *trees), axes, (1 if self.split else 0, 0))(*trees, g)
        return dx if self.split else jax.tree.map(lambda d: jnp.sum(d, 0), dx), {"body": collected}

    def revisit(self, walk, params, kept):
        return {"body": jax.vmap(lambda *trees: walk("body", *trees))(part(params, "body"), part(kept, "body"))}

    def refresh(self, params, residuals):
        return {"body": jax.vmap(self.children["body"].refresh)(params["body"], residuals["body"])}


@dataclass(frozen=True)
class Repeat(Composite):
    """n layers of equal shape, one after the other, as one scan: compiled once, parameters stacked along axis 0."""

    body: Layer
    n: int
    stacked = True

    def __post_init__(self):
        require_layer(self, "body", self.body)
        require_positive(self, layers=self.n)

    def init(self, key, x):
        with located("body"):
            return {"body": jax.vmap(lambda k: self.children["body"].init(k, x))(jax.random.split(key, self.n))}

    def forward(self, params, x, rng=None):
        self.require_params(params)
        require_stacked(self, params["body"], self.n)
        keys, body = None if rng is None else jax.random.split(rng, self.n), self.children["body"]

        def step(x, inputs):
            p, r = inputs
            with located("body"):
                y, residuals = body.forward(p, x, r)
            if jax.tree.map(describe, y) != jax.tree.map(describe, x):
                raise LayerError(self, f"the body maps {describe(x)} to {describe(y)}; to repeat it they must be equal")
            return y, residuals

        y, residuals = lax.scan(step, x, (params["body"], keys), length=self.n)
        return y, {"body": residuals}

    def backward(self, walk, params, feedback, residuals, g):
        trees = part(params, "body"), part(feedback, "body"), part(residuals, "body")
        dx, collected = lax.scan(lambda g, trees: walk("body", *trees, g), g, trees, length=self.n, reverse=True)
        return dx, {"body": collected}

    def revisit(self, walk, params, kept):
        trees = part(params, "body"), part(kept, "body")
        _, collected = lax.scan(lambda _, trees: (None, walk("body", *trees)), None, trees, length=self.n)
        return {"body": collected}

    def refresh(self, params, residuals):
        return {"body": jax.vmap(self.children["body"].refresh)(params["body"], residuals["body"])}


@dataclass(frozen=True)
class Recompute(Composite):
    """Keeps only its input (and `Note`s), and runs the body forward again in the backward: memory for time.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (2016), arXiv 1604.06174.
    """

    body: Layer

    def __post_init__(self):
        require_layer(self, "body", self.body)

    def wire(self, call, x):
        return call("body", x)

    def stepwise(self, length):
        return Serial(**super().stepwise(length).children)  # for it would hide what its body keeps

    def forward(self, params, x, rng=None):
        self.require_params(params)
        with located("body"):
            y, residuals = self.children["body"].forward(params["body"], x, rng)
        return y, (x, rng, notes_in(residuals))

    def backward(self, walk, params, feedback, residuals, g):
        # Without the barrier XLA sees that both forward passes are equal, and keeps the first one's residuals.
        params, (x, rng), g = lax.optimization_barrier((part(params, "body"), residuals[:2], g))
        _, residuals = self.children["body"].forward(params, x, rng)
        dx, collected = walk("body", params, part(feedback, "body"), residuals, g)
        return dx, {"body": collected}

    def refresh(self, params, residuals):
        x, rng, _ = residuals
        _, residuals = self.children["body"].forward(params["body"], x, rng)
        return {"body": self.children["body"].refresh(params["body"], residuals)}


def require_stacked(composite: Composite, params: PyTree, n: int) -> None:
    """Raises if parameters are not stacked along an axis of length n."""
    for leaf in jax.tree.leaves(params):
        if leaf.ndim == 0 or leaf.shape[0] != n:
            raise LayerError(composite, f"expected parameters stacked over {n} layers, got {describe(params)}")
