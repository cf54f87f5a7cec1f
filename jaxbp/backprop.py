"""Backpropagation: forward through the model and its loss, then one sweep back.

outputs, residuals = model.forward(params, x)
J,       kept      = loss.forward(outputs, targets)
g                  = loss.backward(kept)                      δ at the output
∂J/∂x,   visited   = sweep(model, params, residuals, g)       δ at every layer, and what each visit makes of it
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_concrete, is_floating
from jaxbp.core.sweep import Edits, Visit, param_gradient, sweep
from jaxbp.core.text import describe
from jaxbp.losses.base import Loss, Weights

__all__ = ["Quantity", "value_and_grad", "value_and_quantities"]

Targets = PyTree


@dataclass(frozen=True)
class Quantity:
    """A visit, and how the layers' answers are joined.

    Args:
        visit: what is taken at each layer.
        gather: what is made of the tree of answers, which stays as it is unless told otherwise.
        require: raises for a model that the quantity can't be had of, before anything runs.
        doc: what comes out, with shapes, for help(); what the visit says unless given.
    """

    visit: Visit
    gather: Callable[[PyTree], Any] = lambda tree: tree
    require: Callable[[Layer], None] = lambda model: None
    doc: str = ""

    def __post_init__(self):
        object.__setattr__(self, "__doc__", self.doc or self.visit.__doc__)


class _Answers(NamedTuple):
    """What several visits said at one layer, by name; a type of its own, to be found again in the tree."""

    by_name: dict[str, Any]


def value_and_grad(model: Layer, loss: Loss, edits: Edits | None = None) -> Callable[..., tuple[Array, Params]]:
    """As jax.value_and_grad of the loss, through the hand-written backward pass.

    Args:
        model: any layer.
        loss: any loss.
        edits: functions by path that replace a delta in flight, as in {"0": lambda delta: jnp.clip(delta, -1, 1)}.

    Returns:
        A function (params, x, targets, rng=None, weights=None, total=None) -> (loss, gradients), the gradients with the
        structure, shapes and dtypes of params. A key `rng` means training (dropout on); `weights` is one number per
        example; for `total` see `Loss.forward`.
    """

    require_parts(model, loss)

    def value_and_gradient(
        params: Params,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Weights | None = None,
        total: Float[Array, ""] | None = None,
    ) -> tuple[Array, Params]:
        value, gradient, _ = backpropagate(
            model, loss, params, x, targets, rng, weights, total, visit=param_gradient, edits=edits
        )
        return value, gradient

    return value_and_gradient


def value_and_quantities(
    model: Layer, loss: Loss, quantities: Mapping[str, Visit | Quantity], edits: Edits | None = None
) -> Callable[..., tuple[Array, dict[str, Any]]]:
    """The loss and any number of quantities, in one forward pass and one sweep.

    Args:
        model: any layer.
        loss: any loss.
        quantities: a visit (see `Site`) or a `Quantity` under each name, as in {"gradient": param_gradient,
            "delta": delta}.
        edits: as in `value_and_grad`.

    Returns:
        A function (params, x, targets, rng=None, weights=None, total=None) -> (loss, {name: quantity}), each quantity a
        tree that mirrors the model unless its `gather` makes something else of it.
    """
    require_parts(model, loss)
    quantities = {name: q if isinstance(q, Quantity) else Quantity(q) for name, q in quantities.items()}
    for quantity in quantities.values():
        quantity.require(model)

    def value_and_dict(
        params: Params,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Weights | None = None,
        total: Float[Array, ""] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        def visit(site):
            return _Answers({name: quantity.visit(site) for name, quantity in quantities.items()})

        value, answers, _ = backpropagate(
            model, loss, params, x, targets, rng, weights, total, visit=visit, edits=edits
        )

        def answer(name):
            return jax.tree.map(lambda at: at.by_name[name], answers, is_leaf=lambda at: isinstance(at, _Answers))

        return value, {name: quantity.gather(answer(name)) for name, quantity in quantities.items()}

    return value_and_dict


def backpropagate(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: Targets,
    rng: PRNGKeyArray | None = None,
    weights: Weights | None = None,
    total: Array | None = None,
    *,
    visit: Visit,
    edits: Edits | None = None,
) -> tuple[Array, PyTree, PyTree]:
    """Returns the loss, the tree of what the visits returned, and the residuals; arguments as in `value_and_grad`."""
    require_examples(x)
    outputs, residuals = model.forward(params, jax.tree.map(jnp.asarray, x), rng)
    value, kept = loss.forward(outputs, targets, weights, total)
    _, visited = sweep(model, params, residuals, loss.backward(kept), visit, edits=edits)
    return value, visited, residuals


def require_parts(model: Any, loss: Any) -> None:
    """Refuses what is no layer or no loss, a class for example."""
    for part, kind in ((model, Layer), (loss, Loss)):
        if not isinstance(part, kind):
            hint = f"; write it with brackets, as in {part.__name__}()" if isinstance(part, type) else ""
            raise TypeError(f"expected a {kind.__name__}, got {part!r}{hint}")


def require_examples(x: PyTree) -> None:
    """Refuses an empty batch and, where the numbers are at hand (outside jit), numbers that are none."""
    for array in jax.tree.leaves(x):
        if not hasattr(array, "shape") or array.ndim == 0:
            raise ValueError(f"expected inputs [examples, ...], got {describe(array)}")
        if array.shape[0] == 0:
            raise ValueError(f"expected at least one example, got an empty batch {describe(array)}")
        if is_floating(array) and is_concrete(array):
            finite = np.isfinite(np.asarray(array, np.float32)).reshape(array.shape[0], -1).all(1)
            if not finite.all():
                raise ValueError(
                    f"the input {describe(array)} holds NaN or infinity in {np.sum(~finite)} of its "
                    f"{array.shape[0]} examples, first in example {np.argmin(finite)}; clean the data first"
                )
