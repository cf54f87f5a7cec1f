"""A model with penalties at inner layers: a layer is put behind each, which passes y on and adds to the delta.

    z = y          φ(y) is noted          ∂J/∂y = ∂J/∂z + λ r ∂φ/∂y

What a sweep of the larger model collects is taken back to the model as it was, so that visits, edits and errors know
nothing of it. The cost lies in the residuals of the forward pass (see `jaxbp.core.notes`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.core.insertion import insert, is_called, path_inside, path_outside, put_in
from jaxbp.core.layer import Layer, Params
from jaxbp.core.notes import Note, notes_in
from jaxbp.core.paths import require_paths, turns_around
from jaxbp.core.sweep import Edits, Visit
from jaxbp.losses.penalties import Penalty

Penalties = Mapping[str, Penalty]


@dataclass(frozen=True)
class Penalized(Layer):
    """A penalty as a layer. share: each example's share of the loss, which the backward pass needs."""

    path: str
    penalty: Penalty
    share: Any = None

    @property
    def mixes_examples(self):
        return self.penalty.mixes_examples

    def forward(self, params, y, rng=None):
        return y, (y, Note(self.path, self.penalty.per_example(y)))

    def input_gradient(self, params, residuals, g):
        y, _ = residuals
        return jax.tree.map(jnp.add, g, self.penalty.gradient(y, self.share))

    def __str__(self):
        return str(self.penalty)


def with_penalties(model: Layer, penalties: Penalties, share: Array | None = None) -> Layer:
    """The model with a layer for each penalty."""
    return insert(model, {path: Penalized(path, penalty, share) for path, penalty in penalties.items()})


def require_penalties(model: Layer, penalties: Penalties) -> None:
    """Raises for unknown paths, and for what is not a penalty."""
    require_paths(model, penalties)
    for path, penalty in penalties.items():
        if not isinstance(penalty, Penalty):
            raise TypeError(f'expected a penalty at "{path}", such as L2(0.1), got {penalty!r}')


def penalized_forward(
    model: Layer, penalties: Penalties, params: Params, x: PyTree, rng: PRNGKeyArray | None
) -> tuple[PyTree, PyTree]:
    """The forward pass of `with_penalties`, from the parameters of the model as it was."""
    require_penalties(model, penalties)
    try:
        return with_penalties(model, penalties).forward(penalized_params(model, penalties, params), x, rng)
    except Exception as error:
        for path in penalties:
            if path and not is_called(model, path, params, x, rng):
                raise ValueError(
                    f'the layer at "{path}" is a part of a scan and has no output of its own that could be penalized; '
                    "give the penalty the path of the whole"
                ) from error
        raise


def penalized_params(model: Layer, penalties: Penalties, params: Params) -> Params:
    """The parameters of `with_penalties`; those of a penalty are ()."""
    return put_in(model, params, dict.fromkeys(penalties, ()))


def penalty_values(model: Layer, penalties: Penalties, residuals: PyTree, share: Array | None) -> dict[str, Array]:
    """What each penalty adds to the loss, by path: the sum over all uses of its layer, and all copies in a stack."""
    values: dict[str, Array] = {}
    for note in notes_in(residuals):
        cost = partial(penalties[note.path].value, share=share)
        for _ in range(turns_around(model, note.path)):
            cost = sum_over_stack(cost)
        values[note.path] = values.get(note.path, 0) + cost(note.value)
    return values


def sum_over_stack(cost: Callable[[PyTree], Array]) -> Callable[[PyTree], Array]:
    """The same of arrays with an axis in front, added up."""
    return lambda stacked: jnp.sum(jax.vmap(cost)(stacked))


def as_before(model: Layer, penalties: Penalties, visit: Visit, edits: Edits | None) -> tuple[Visit, Edits]:
    """A visit and edits for `with_penalties` from those for the model as it was."""

    def outside(site):
        return replace(site, path=path_outside(site.path, penalties))

    def visit_layers(site):
        return () if path_outside(site.path, penalties) is None else visit(outside(site))

    def edit_of(edit):
        return lambda site: edit(outside(site))

    require_paths(model, edits or {})
    return visit_layers, {path_inside(path, penalties): edit_of(edit) for path, edit in (edits or {}).items()}
