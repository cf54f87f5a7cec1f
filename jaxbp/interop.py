"""Both ways between hand-written and automatic differentiation.

`as_custom_vjp(model)` is a function that jax.grad can differentiate, and whose backward pass is ours;
`FromAutodiff(fn)` is a layer whose two gradients come from jax.vjp. Each works inside the other, under jit and vmap.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_floating

__all__ = ["FromAutodiff", "as_custom_vjp"]


def as_custom_vjp(model: Layer) -> Callable[..., PyTree]:
    """A function (params, x, rng=None) -> outputs, differentiated by the model's own backward pass.

    It has reverse-mode derivatives only: jax.grad, vjp and jacrev work, jax.jvp does not.
    """

    @jax.custom_vjp
    def apply(params, x, rng):
        return model.forward(params, x, rng)[0]

    def forward(params, x, rng):
        y, residuals = model.forward(params, x, rng)
        return y, (params, residuals)

    def backward(kept, g):
        params, residuals = kept
        return model.param_gradient(params, residuals, g), model.input_gradient(params, residuals, g), None

    apply.defvjp(forward, backward)

    def function(params: Params, x: PyTree, rng: PRNGKeyArray | None = None) -> PyTree:
        return apply(params, x, rng)

    return function


@dataclass(frozen=True)
class FromAutodiff(Layer):
    """Any JAX function as a layer; its gradients come from jax.vjp.

    Args:
        function: (x) or (params, x) -> y, pure, examples first in x and y. With a parameter named `rng` it gets the
            key, or None in evaluation.
        initial: (key, x) -> params, for a function that has parameters.

    The residual is x, and each gradient runs the function forward again (under jit the runs are shared): the residuals
    of jax.vjp hold the parameters, which must reach the backward as an argument.

    On CPU, XLA's gradients of convolutions are up to 300 times slower inside a scan (jax issue 12868), and so inside
    `fit`: there take `Conv`, which is not, or `make_train_step`.
    """

    function: Callable
    initial: Callable | None = None

    def init(self, key, x):
        if self.initial is not None:
            return self.initial(key, x)
        if self._has_params():
            raise LayerError(self, "the function takes params; give initial=, a function (key, x) -> params")
        return ()

    def forward(self, params, x, rng=None):
        return self._call(params, x, rng), (x, rng)

    def input_gradient(self, params, residuals, g):
        x, rng = residuals
        moving, fixed = split_floating(x)
        if not jax.tree.leaves(moving):
            return jax.tree.map(lambda _: None, x)
        _, pull_back = jax.vjp(lambda moving: self._floating(params, merge(moving, fixed), rng), moving)
        return pull_back(g)[0]

    def param_gradient(self, params, residuals, g):
        x, rng = residuals
        _, pull_back = jax.vjp(lambda params: self._floating(params, x, rng), params)
        return pull_back(g)[0]

    def _floating(self, params, x, rng):
        """The outputs that a gradient comes back to."""
        return split_floating(self._call(params, x, rng))[0]

    def _call(self, params, x, rng):
        arguments = (params, x) if self._has_params() else (x,)
        return self.function(*arguments, rng=rng) if "rng" in self._names() else self.function(*arguments)

    def _names(self):
        return inspect.signature(self.function).parameters

    def _has_params(self):
        required = [
            p
            for p in self._names().values()
            if p.name != "rng" and p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        return len(required) > 1

    def __str__(self):
        return f"FromAutodiff({getattr(self.function, '__name__', self.function)})"


def true_vjp(layer: Layer, params: PyTree, x: PyTree, rng: PRNGKeyArray | None) -> Callable[[PyTree], tuple]:
    """The function g -> (parameter gradient, input gradient) that jax.vjp makes of the layer's forward."""
    moving, fixed = split_floating(x)

    def outputs(params, moving):
        return split_floating(layer.forward(params, merge(moving, fixed), rng)[0])[0]

    return jax.vjp(outputs, params, moving)[1]


def split_floating(tree: PyTree) -> tuple[PyTree, PyTree]:
    """The leaves that have a gradient, and those that have none; None stands for the others in each."""
    floating = jax.tree.map(lambda a: a if is_floating(a) else None, tree)
    return floating, jax.tree.map(lambda a: None if is_floating(a) else a, tree)


def merge(moving: PyTree, fixed: PyTree) -> PyTree:
    """The tree that `split_floating` took apart."""
    return jax.tree.map(lambda a, b: b if a is None else a, moving, fixed, is_leaf=lambda a: a is None)
