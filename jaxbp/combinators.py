"""Layers made of layers: Serial, Residual, Parallel, Repeat, Recompute.

Each gives a forward pass and, read from bottom to top, the way of the delta back through it:

    Serial      y = f_L(… f_1(x))          g goes through f_L first, f_1 last
    Residual    y = s(x) + f(x)            ∂J/∂x = (∂s/∂x)ᵀ g + (∂f/∂x)ᵀ g; s is the identity unless given
    Parallel    y = (f_1(x), …, f_K(x))    ∂J/∂x = Σ_k (∂f_k/∂x)ᵀ g_k
    Repeat      Serial of n equal layers   one scan over stacked parameters, compiled once
    Recompute   y = f(x)                   keeps x alone, and runs f again when g arrives

Where two ways meet, their gradients add: the multivariable chain rule.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.errors import LayerError, located, require_positive
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import part
from jaxbp.core.sweep import Composite
from jaxbp.core.text import describe, shorten

__all__ = ["Parallel", "Recompute", "Repeat", "Residual", "Serial"]


def split(rng: PRNGKeyArray | None, n: int):
    """n keys, or n times None: evaluation stays evaluation."""
    return [None] * n if rng is None else jax.random.split(rng, n)


def add(*trees: PyTree) -> PyTree:
    """The sum of trees; None (an integer's gradient) stays None, integers (lengths beside values) are the first's."""
    return jax.tree.map(lambda *terms: sum(terms[1:], terms[0]) if is_floating(terms[0]) else terms[0], *trees)


def output_of(layer: Layer, params: Params, x: PyTree) -> PyTree:
    """Shapes and dtypes of the outputs, without computing them."""
    return jax.eval_shape(lambda params, x: layer.forward(params, x)[0], params, x)


@dataclass(frozen=True, init=False)
class Several(Composite):
    """What Serial and Parallel share: children named 0, 1, 2…, parameters in a tuple."""

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer):
        if not layers:
            raise ValueError(f"{type(self).__name__} needs at least one layer; Identity() passes its input on")
        for i, layer in enumerate(layers):
            require_layer(self, str(i), layer)
        object.__setattr__(self, "layers", tuple(layers))

    @property
    def children(self):
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def rebuild(self, children):
        return type(self)(*children.values())

    def require_params(self, params):
        """Refuses parameters of another model."""
        if not isinstance(params, tuple | list) or len(params) != len(self.layers):
            raise LayerError(
                self,
                f"expected the parameters of {len(self.layers)} layers in a tuple, "
                f"got {shorten(describe(params), 200)}; do they come from this model's init?",
            )

    def __str__(self):
        return f"{type(self).__name__}({', '.join(map(str, self.layers))})"

    __repr__ = __str__


class Serial(Several):
    """Layers one after the other: Serial(Dense(128), ReLU(), Dense(10))."""

    def init(self, key, x):
        params = []
        for (name, layer), k in zip(self.children.items(), jax.random.split(key, len(self.layers)), strict=True):
            with located(name):
                params.append(layer.init(k, x))
                x = output_of(layer, params[-1], x)
        return tuple(params)

    def forward(self, params, x, rng=None):
        self.require_params(params)
        residuals = []
        for (name, layer), p, r in zip(self.children.items(), params, split(rng, len(self.layers)), strict=True):
            with located(name):
                x, kept = layer.forward(p, x, r)
            residuals.append(kept)
        return x, tuple(residuals)

    def backward(self, walk, params, feedback, residuals, g):
        collected = {}
        for name in reversed(self.children):
            g, collected[name] = walk(name, part(params, name), part(feedback, name), part(residuals, name), g)
        return g, self.collect(collected)


class Parallel(Several):
    """The same input into several layers, their outputs in a tuple.

    `Serial(Parallel(f, g), Sum())` adds the outputs, `Serial(Parallel(f, g), Concatenate())` joins them.
    """

    def init(self, key, x):
        params = []
        for (name, layer), k in zip(self.children.items(), jax.random.split(key, len(self.layers)), strict=True):
            with located(name):
                params.append(layer.init(k, x))
        return tuple(params)

    def forward(self, params, x, rng=None):
        self.require_params(params)
        outputs, residuals = [], []
        for (name, layer), p, r in zip(self.children.items(), params, split(rng, len(self.layers)), strict=True):
            with located(name):
                y, kept = layer.forward(p, x, r)
            outputs.append(y)
            residuals.append(kept)
        return tuple(outputs), tuple(residuals)

    def backward(self, walk, params, feedback, residuals, g):
        gradients, collected = [], {}
        for name in reversed(self.children):
            dx, collected[name] = walk(
                name, part(params, name), part(feedback, name), part(residuals, name), part(g, name)
            )
            gradients.append(dx)
        return add(*gradients), self.collect(collected)


@dataclass(frozen=True)
class Residual(Composite):
    """y = shortcut(x) + body(x); without a shortcut y = x + body(x)."""

    body: Layer
    shortcut: Layer | None = None

    def __post_init__(self):
        require_layer(self, "body", self.body)
        if self.shortcut is not None:
            require_layer(self, "shortcut", self.shortcut)

    @property
    def children(self):
        body = {"body": self.body}
        return body if self.shortcut is None else body | {"shortcut": self.shortcut}

    def rebuild(self, children):
        return Residual(**children)

    def init(self, key, x):
        params = {}
        for (name, layer), k in zip(self.children.items(), jax.random.split(key, len(self.children)), strict=True):
            with located(name):
                params[name] = layer.init(k, x)
        return params

    def forward(self, params, x, rng=None):
        outputs, residuals = {"shortcut": x}, {}
        for (name, layer), r in zip(self.children.items(), split(rng, len(self.children)), strict=True):
            with located(name):
                outputs[name], residuals[name] = layer.forward(child_params(self, params, name), x, r)
        y, s = outputs["body"], outputs["shortcut"]
        if jax.tree.map(jnp.shape, y) != jax.tree.map(jnp.shape, s):
            raise LayerError(
                self,
                f"the body gives {describe(y)}, but it is added to {describe(s)}; "
                "give the body the same output shape, or a shortcut layer that maps to it",
            )
        return add(s, y), residuals

    def backward(self, walk, params, feedback, residuals, g):
        gradients, collected = {"shortcut": g}, {}
        for name in self.children:
            gradients[name], collected[name] = walk(
                name, part(params, name), part(feedback, name), part(residuals, name), g
            )
        return add(gradients["shortcut"], gradients["body"]), collected


@dataclass(frozen=True)
class Repeat(Composite):
    """n layers of equal shape, one after the other, as one scan: compiled once, parameters stacked along axis 0."""

    body: Layer
    n: int
    stacked = True

    def __post_init__(self):
        require_layer(self, "body", self.body)
        require_positive(self, turns=self.n)

    @property
    def children(self):
        return {"body": self.body}

    def rebuild(self, children):
        return dataclasses.replace(self, **children)

    def init(self, key, x):
        with located("body"):
            params = jax.vmap(lambda k: self.body.init(k, x))(jax.random.split(key, self.n))
        return {"body": params}

    def forward(self, params, x, rng=None):
        params = child_params(self, params, "body")
        for leaf in jax.tree.leaves(params):
            if leaf.ndim == 0 or leaf.shape[0] != self.n:
                raise LayerError(self, f"expected parameters stacked over {self.n} turns, got {describe(params)}")
        keys = None if rng is None else jax.random.split(rng, self.n)

        def turn(x, inputs):
            p, r = inputs
            with located("body"):
                y, residuals = self.body.forward(p, x, r)
            if jax.tree.map(describe, y) != jax.tree.map(describe, x):
                raise LayerError(self, f"the body maps {describe(x)} to {describe(y)}; to repeat it they must be equal")
            return y, residuals

        y, residuals = lax.scan(turn, x, (params, keys), length=self.n)
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
        return {"body": jax.vmap(self.body.refresh)(params["body"], residuals["body"])}


@dataclass(frozen=True)
class Recompute(Composite):
    """Keeps only its input, and runs the body forward again in the backward: memory for time.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (2016), arXiv 1604.06174.
    """

    body: Layer

    def __post_init__(self):
        require_layer(self, "body", self.body)

    @property
    def children(self):
        return {"body": self.body}

    def rebuild(self, children):
        return Recompute(**children)

    def init(self, key, x):
        with located("body"):
            return {"body": self.body.init(key, x)}

    def forward(self, params, x, rng=None):
        with located("body"):
            y, _ = self.body.forward(child_params(self, params, "body"), x, rng)
        return y, (x, rng)

    def backward(self, walk, params, feedback, residuals, g):
        # Without the barrier XLA sees that both forward passes are equal, and keeps the first one's residuals.
        params, (x, rng), g = lax.optimization_barrier((part(params, "body"), residuals, g))
        _, residuals = self.body.forward(params, x, rng)
        dx, collected = walk("body", params, part(feedback, "body"), residuals, g)
        return dx, {"body": collected}

    def refresh(self, params, residuals):
        x, rng = residuals
        _, residuals = self.body.forward(params["body"], x, rng)
        return {"body": self.body.refresh(params["body"], residuals)}


def child_params(composite: Composite, params: Params, name: str) -> Params:
    """A child's parameters, or a clear word that they are another model's."""
    if not isinstance(params, dict) or set(params) != set(composite.children):
        raise LayerError(
            composite,
            f"expected parameters {{{', '.join(composite.children)}}}, got {shorten(describe(params), 200)}; "
            "do they come from this model's init?",
        )
    return params[name]


def require_layer(composite: Composite, name: str, layer: Layer) -> None:
    """Refuses what is no layer, a class for example."""
    if not isinstance(layer, Layer):
        hint = "; write it with brackets, as in ReLU()" if isinstance(layer, type) else ""
        raise TypeError(f'{type(composite).__name__}: child "{name}" must be a Layer, got {layer!r}{hint}')
