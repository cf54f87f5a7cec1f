"""A layer made of layers: it says how the data flows, and all else follows.

    @dataclass(frozen=True)
    class Siamese(jaxbp.Composite):
        body: jaxbp.Layer
        compare: jaxbp.Layer

        def wire(self, call, x):
            a, b = x
            return call("compare", (call("body", a), call("body", b)))

Init, forward, backward, `revisit`, `rebuild`, `refresh` and paths are derived here, once, from the tape of the calls
(see `wiring.py`). A child that is called twice is a shared layer (see `shared.py`): its parameters exist once.

A composite whose backward pass is more than the tape in reverse (a scan, a second forward pass) gives `forward`,
`backward` and what else it needs by hand.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.errors import LayerError, located
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import is_numbered, part
from jaxbp.core.shared import Uses, together, uses_of
from jaxbp.core.sweep import Walk, sweep
from jaxbp.core.text import describe, shorten
from jaxbp.core.wiring import Deltas, Reading, Tape


@dataclass(frozen=True)
class Wired:
    """The residuals of a wired composite: those of each child (`Uses` where it is called several times)."""

    children: dict[str, PyTree]
    tape: Tape

    def __getitem__(self, name: str) -> PyTree:
        return self.children[name]


jax.tree_util.register_dataclass(Wired, data_fields=["children"], meta_fields=["tape"])


@dataclass(frozen=True)
class Composite(Layer):
    """A layer made of layers. A subclass is a frozen dataclass whose fields are its children, and gives `wire`.

    Parameters, residuals and what a sweep collects are trees with one entry per child: dicts under the children's
    names, or tuples where the names are 0, 1, 2….

    stacked: whether these trees have an axis in front of what the child has (a scan over equal layers).
    """

    _inner: tuple[tuple[str, Layer], ...] = field(default=(), kw_only=True, repr=False)  # what `rebuild` put inside

    stacked = False

    def wire(self, call: Any, x: PyTree) -> PyTree:
        """How data flows: the outputs, from x by `call(name, value) -> value`.

        x, and what calls return, are trees of opaque values: they can be passed to calls, put into tuples and dicts,
        taken out of these, and added with +.
        """
        raise LayerError(self, "this composite doesn't define wire(call, x)")

    def make_children(self) -> dict[str, Layer]:
        """The layers inside, by name, in the order of their parameters: the fields that are layers, unless given."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: layer for name, layer in found.items() if isinstance(layer, Layer)}

    @property
    def children(self) -> dict[str, Layer]:
        return dict(self._inner) or self.make_children()

    def rebuild(self, children: dict[str, Layer]) -> "Composite":
        """The same composite around other children of the same names."""
        return dataclasses.replace(self, _inner=tuple(children.items()))

    def init(self, key, x):
        children, params = self.children, {}
        keys = dict(zip(children, jax.random.split(key, len(children)), strict=True))

        def run(name, x, use):
            with located(name):
                if use == 0:
                    params[name] = children[name].init(keys[name], x)
                return output_of(children[name], params[name], x)

        Reading(self, tuple(children), run).read(x)
        return self.collect(params)

    def forward(self, params, x, rng=None):
        self.require_params(params)
        children, residuals = self.children, {}
        keys = dict(zip(children, split(rng, len(children)), strict=True))

        def run(name, x, use):
            key = jax.random.fold_in(keys[name], use) if use and rng is not None else keys[name]
            with located(name):
                y, kept = children[name].forward(uses_at(part(params, name), use), x, key)
            residuals.setdefault(name, []).append(kept)
            return y

        y, tape = Reading(self, tuple(children), run).read(x)
        return y, Wired({name: at[0] if len(at) == 1 else Uses(at) for name, at in residuals.items()}, tape)

    def backward(
        self, walk: Walk, params: Params, feedback: Params | None, residuals: Wired, g: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Sends g through the children and returns (∂J/∂x, what was collected): the tape of the calls in reverse."""
        tape = residuals.tape
        deltas, collected, kept = Deltas(tape, g), {}, {}
        for step in reversed(tape.steps):
            arrived = deltas.take(step.outputs)
            if step.name is None:
                deltas.send(step.inputs, (arrived, arrived))
                continue
            name, uses = step.name, tape.uses(step.name)
            trees = part(params, name), part(feedback, name)
            if uses == 1:
                dx, collected[name] = walk(name, *trees, residuals[name], arrived)
            else:
                later = kept.setdefault(name, [])
                use = uses - 1 - len(later)
                dx, at = walk.keep(name, *trees, residuals[name][use], arrived)
                later.insert(0, at)
                if use == 0:
                    collected[name] = walk.revisit(name, trees[0], together(self.children[name], later))
            deltas.send(step.inputs, dx)
        return deltas.take(tape.inputs), self.collect(collected)

    def revisit(self, walk, params, kept) -> PyTree:
        """Calls `walk(name, params, kept) -> collected` for every child and sends nothing on."""
        return self.collect({name: walk(name, part(params, name), part(kept, name)) for name in self.children})

    def stepwise(self, length):
        children = {}
        for name, child in self.children.items():
            with located(name):
                children[name] = child.stepwise(length)
        return self.rebuild(children)

    def collect(self, answers: dict[str, Any]) -> PyTree:
        """A tree with one entry per child, in their order: a tuple where the names are 0, 1, 2…, else a dict."""
        ordered = {name: answers[name] for name in self.children}
        return tuple(ordered.values()) if is_numbered(ordered) else ordered

    @property
    def mixes_examples(self) -> bool:
        return any(child.mixes_examples for child in self.children.values())

    def refresh(self, params, residuals):
        renewed = {}
        for name, child in self.children.items():
            renewed[name] = part(params, name)
            for use in uses_of(residuals[name]):
                renewed[name] = child.refresh(renewed[name], use)
        return self.collect(renewed)

    def input_gradient(self, params, residuals, g):
        return sweep(self, params, residuals, g, visit=lambda site: ())[0]

    def param_gradient(self, params, residuals, g):
        return sweep(self, params, residuals, g)[1]

    def require_params(self, params: Params) -> None:
        """Raises if these are not the parameters of this composite's children."""
        children = self.children
        if is_numbered(children):
            fits = isinstance(params, tuple | list) and len(params) == len(children)
            expected = f"the parameters of {len(children)} layers in a tuple"
        else:
            fits = isinstance(params, dict) and set(params) == set(children)
            expected = f"parameters {{{', '.join(children)}}}"
        if not fits:
            problem = f"expected {expected}, got {shorten(describe(params), 200)}"
            raise LayerError(self, f"{problem}; do they come from this model's init?")


def split(rng: PRNGKeyArray | None, n: int):
    """n keys, or n times None: evaluation stays evaluation."""
    return [None] * n if rng is None else jax.random.split(rng, n)


def uses_at(params: Params, use: int) -> Params:
    """The parameters of one use: the same for all, unless they were given for each."""
    return params[use] if isinstance(params, Uses) else params


def output_of(layer: Layer, params: Params, x: PyTree) -> PyTree:
    """Shapes and dtypes of the outputs, without computing them."""
    return jax.eval_shape(lambda params, x: layer.forward(params, x)[0], params, x)


def require_layer(composite: Any, name: str, layer: Any) -> None:
    """Raises if a child is not a layer, but a class for example."""
    if not isinstance(layer, Layer):
        hint = "; write it with brackets, as in ReLU()" if isinstance(layer, type) else ""
        raise TypeError(f'{type(composite).__name__}: child "{name}" must be a Layer, got {layer!r}{hint}')
