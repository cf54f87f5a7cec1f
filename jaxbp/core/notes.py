"""Notes: numbers that a layer leaves behind for others, found again in the residuals of a forward pass.

A loss sees what a model returns, and not what an inner layer does (what its outputs cost, for a penalty). Such a layer
puts a `Note` into its residuals, and `notes_in` finds those of a whole model, whatever composites stand around it:
inside a `Repeat` or `Vmap` they are stacked as all residuals are, of a layer that is used several times there is one
for each use, and `Recompute` keeps them though it keeps nothing else.
"""

from dataclasses import dataclass

import jax
from jaxtyping import PyTree


@dataclass(frozen=True)
class Note:
    """What the layer at `path` left."""

    path: str
    value: PyTree


jax.tree_util.register_dataclass(Note, data_fields=["value"], meta_fields=["path"])


def notes_in(residuals: PyTree) -> tuple[Note, ...]:
    """All notes in the residuals of a model, in forward order."""
    found = jax.tree.leaves(residuals, is_leaf=lambda node: isinstance(node, Note))
    return tuple(node for node in found if isinstance(node, Note))
