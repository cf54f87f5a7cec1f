"""Backpropagation: forward through the model and its loss, then one sweep backward.

    outputs, residuals = model.forward(params, x)
    J,       kept      = loss.forward(outputs, targets)
    g                  = loss.backward(kept)                      δ at the output
    ∂J/∂x,   visited   = sweep(model, params, residuals, g)       δ at every layer, and what each visit makes of it

These four lines are `run` and `Run.sweep`. Every function of the library that needs a gradient, or anything else that a
delta tells, begins with the first and ends with one or more of the second.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.core.errors import LayerError, require_alive
from jaxbp.core.insertion import put_in, take_out
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_concrete, is_floating
from jaxbp.core.sweep import Edits, Visit, param_gradient, sweep
from jaxbp.core.text import describe
from jaxbp.losses.base import Loss, Weights
from jaxbp.losses.penalized import (
    Penalties,
    as_before,
    penalized_forward,
    penalized_params,
    penalty_values,
    with_penalties,
)
from jaxbp.losses.penalties import example_shares

__all__ = ["Quantity", "Run", "run", "value_and_grad", "value_and_quantities"]

Targets = PyTree


@dataclass(frozen=True)
class Run:
    """One forward pass of a model and its loss, from which any number of deltas can be sent backward.

    x, targets: as arrays.
    residuals: what the model keeps for its backward pass.
    value: J, penalties included.
    kept: what the loss keeps for its backward pass.
    penalties: by path.
    share: each example's share of the loss, where there are penalties.
    """

    model: Layer
    loss: Loss
    params: Params
    x: PyTree
    targets: Targets
    outputs: PyTree
    residuals: PyTree
    value: Array
    kept: PyTree
    penalties: Penalties
    share: Array | None

    def sweep(
        self,
        visit: Visit = param_gradient,
        g: PyTree = None,
        feedback: Params | None = None,
        edits: Edits | None = None,
    ) -> tuple[PyTree, PyTree]:
        """Sends g backward, the loss's own delta unless given: (∂J/∂x, what was collected); see `jaxbp.sweep`.

        Penalties add to the deltas whatever is sent. An edit at the path of a penalty sees the sum.
        """
        g = self.loss.backward(self.kept) if g is None else g
        if not self.penalties:
            return sweep(self.model, self.params, self.residuals, g, visit, feedback, edits)
        model = with_penalties(self.model, self.penalties, self.share)
        params = penalized_params(self.model, self.penalties, self.params)
        feedback = put_in(self.model, feedback, dict.fromkeys(self.penalties))
        visit, edits = as_before(self.model, self.penalties, visit, edits)
        dx, collected = sweep(model, params, self.residuals, g, visit, feedback, edits)
        return dx, take_out(self.model, collected, self.penalties)[0]

    def refresh(self, params: Params) -> Params:
        """Parameters with running statistics renewed by what this forward pass saw."""
        if not self.penalties:
            return self.model.refresh(params, self.residuals)
        params = penalized_params(self.model, self.penalties, params)
        renewed = with_penalties(self.model, self.penalties).refresh(params, self.residuals)
        return take_out(self.model, renewed, self.penalties)[0]


def run(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: Targets,
    rng: PRNGKeyArray | None = None,
    weights: Weights | None = None,
    total: PyTree = None,
    penalties: Penalties | None = None,
) -> Run:
    """The forward pass of model and loss; arguments as in `value_and_grad` and the function that it returns."""
    require_alive(params=params, x=x, targets=targets)
    require_examples(x)
    x, targets = jax.tree.map(jnp.asarray, (x, targets))
    penalties = dict(penalties or {})
    outputs, residuals = penalized_forward(model, penalties, params, x, rng)
    require_fit(model, loss, outputs, targets)
    value, kept = loss.forward(outputs, targets, weights, total)
    share = example_shares(loss, outputs, targets, weights, total) if penalties else None
    for cost in penalty_values(model, penalties, residuals, share).values():
        value = value + cost.astype(value.dtype)
    return Run(model, loss, params, x, targets, outputs, residuals, value, kept, penalties, share)


@dataclass(frozen=True)
class Quantity:
    """A visit, and how the layers' answers are joined.

    Args:
        visit: what is taken at each layer.
        gather: what is made of the tree of answers; it stays as it is unless given.
        require: raises if the quantity is undefined for a model and a loss, before anything runs.
        doc: docstring of the result, with shapes, for help(); defaults to the visit's.
    """

    visit: Visit
    gather: Callable[[PyTree], Any] = lambda tree: tree
    require: Callable[[Layer, Loss], None] = lambda model, loss: None
    doc: str = ""

    def __post_init__(self):
        object.__setattr__(self, "__doc__", self.doc or self.visit.__doc__)


class _Answers(NamedTuple):
    """What several visits said at one layer, by name; a type of its own, to be found again in the tree."""

    by_name: dict[str, Any]


def value_and_grad(
    model: Layer, loss: Loss, edits: Edits | None = None, penalties: Penalties | None = None
) -> Callable[..., tuple[Array, Params]]:
    """As jax.value_and_grad of the loss, through the hand-written backward pass.

    Args:
        model: any layer.
        loss: any loss.
        edits: functions by path that replace a delta in flight, as in {"0": lambda site: jnp.clip(site.g, -1, 1)}.
        penalties: penalties by path, as in {"encoder": GaussianKL(0.1)}. What the outputs of that layer cost is added
            to the loss, with the loss's weights and divisor, and its gradient to the delta there.

    Returns:
        A function (params, x, targets, rng=None, weights=None, total=None) -> (loss, gradients), the gradients with the
        structure, shapes and dtypes of params. A key `rng` means training (dropout on); `weights` is one number per
        example, or per label where an example has several; for `total` see `Loss.forward`.
    """
    require_parts(model, loss)

    def value_and_gradient(
        params: Params,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Weights | None = None,
        total: PyTree = None,
    ) -> tuple[Array, Params]:
        forward = run(model, loss, params, x, targets, rng, weights, total, penalties)
        return forward.value, forward.sweep(param_gradient, edits=edits)[1]

    return value_and_gradient


def value_and_quantities(
    model: Layer,
    loss: Loss,
    quantities: Mapping[str, Visit | Quantity],
    edits: Edits | None = None,
    penalties: Penalties | None = None,
) -> Callable[..., tuple[Array, dict[str, Any]]]:
    """The loss and any number of quantities, in one forward pass and one sweep.

    Args:
        model: any layer.
        loss: any loss.
        quantities: a visit (see `Site`) or a `Quantity` under each name, as in {"gradient": param_gradient,
            "delta": delta}.
        edits, penalties: as in `value_and_grad`.

    Returns:
        A function (params, x, targets, rng=None, weights=None, total=None) -> (loss, {name: quantity}), each quantity a
        tree that mirrors the model unless its `gather` makes something else of it.
    """
    require_parts(model, loss)
    quantities = {name: q if isinstance(q, Quantity) else Quantity(q) for name, q in quantities.items()}
    asked = with_penalties(model, penalties or {})
    for quantity in quantities.values():
        quantity.require(asked, loss)

    def visit(site):
        return _Answers({name: quantity.visit(site) for name, quantity in quantities.items()})

    def value_and_dict(
        params: Params,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Weights | None = None,
        total: PyTree = None,
    ) -> tuple[Array, dict[str, Any]]:
        forward = run(model, loss, params, x, targets, rng, weights, total, penalties)
        _, answers = forward.sweep(visit, edits=edits)

        def answer(name):
            return jax.tree.map(lambda at: at.by_name[name], answers, is_leaf=lambda at: isinstance(at, _Answers))

        return forward.value, {name: quantity.gather(answer(name)) for name, quantity in quantities.items()}

    return value_and_dict


def require_parts(model: Any, loss: Any) -> None:
    """Raises if the model is not a layer, or the loss not a loss, but a class for example."""
    for part, kind in ((model, Layer), (loss, Loss)):
        if not isinstance(part, kind):
            hint = f"; write it with brackets, as in {part.__name__}()" if isinstance(part, type) else ""
            raise TypeError(f"expected a {kind.__name__}, got {part!r}{hint}")


def require_examples(x: PyTree) -> None:
    """Raises if the batch is empty, its arrays differ in length or (outside jit) hold NaN or infinity."""
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
    if len({array.shape[0] for array in jax.tree.leaves(x)}) > 1:
        raise ValueError(f"expected inputs of equally many examples (the first axis of every array), got {describe(x)}")


def require_fit(model: Layer, loss: Loss, outputs: PyTree, targets: PyTree) -> None:
    """Raises if the loss can't take what the model returns; values are not looked at."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (outputs, targets))
    try:
        loss.require(*shapes)
    except (TypeError, ValueError) as error:
        raise LayerError(model, f"its outputs do not fit the loss: {error}") from error
