"""Errors that name the layer by its path, what was expected, what came and what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core.text import describe, shorten


class LayerError(ValueError, TypeError):
    """What a layer can't work with: it names the layer by its path, what was expected, what came, and what to do.

    Both a ValueError (wrong shape) and a TypeError (wrong dtype), so that callers need not know which is which.
    """

    def __init__(self, layer: Any, problem: str, path: tuple[str, ...] = ()):
        super().__init__(layer, problem, path)
        self.layer, self.problem, self.path = layer, problem, path

    def __str__(self) -> str:
        where = f'layer "{".".join(self.path)}", ' if self.path else ""
        return f"{where}{shorten(str(self.layer), 80)}: {self.problem}"


@contextmanager
def located(name: str) -> Iterator[None]:
    """Puts `name` in front of the path of an error that comes from inside; foreign errors get a note."""
    try:
        yield
    except LayerError as error:
        error.path = (name, *error.path)
        raise
    except Exception as error:
        error.add_note(f'  raised inside layer "{name}"')
        raise


def require_positive(owner: Any, **numbers: Any) -> None:
    """Raises if a number is not a positive whole number, by its name."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{type(owner).__name__} needs a positive whole number of {name}, not {number!r}")


def require_floating(layer: Any, x: Any) -> None:
    """Refuses inputs that no gradient can flow through."""
    if not hasattr(x, "dtype"):
        raise LayerError(layer, f"expected an array of floating-point numbers, got {describe(x)}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise LayerError(
            layer, f"expected floating-point input, got {describe(x)}; convert it, as in x.astype(jnp.float32)"
        )


def require_alive(**trees: Any) -> None:
    """Raises if an array in one of these trees, which are given by name, was donated: its memory is another's now."""
    for name, tree in trees.items():
        if any(map(is_donated, jax.tree.leaves(tree))):
            found = jax.tree_util.tree_leaves_with_path(tree)
            where = next(jax.tree_util.keystr(key) for key, array in found if is_donated(array))
            raise ValueError(
                f"{name}{where} was donated to an earlier training step, which has written over it: a step takes the "
                "memory of the state it is given, also of arrays that a target network shares with it. Go on with the "
                "state that the step returned, copy what is to stay, as in jax.tree.map(jnp.copy, params), or use "
                "make_train_step(..., donate=False)"
            )


def is_donated(array: Any) -> bool:
    """Whether an array has been given away."""
    return isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) and array.is_deleted()


def require_params(layer: Any, params: Any, shapes: Mapping[str, tuple[int | str, ...]], x: Any = None) -> None:
    """Raises unless params is a dict of arrays of these names and shapes; a word in a shape stands for any length.

    This is the one place that says whether parameters belong to a layer; x is the input that they should fit, if any.
    """

    def fits(array: Any, shape: tuple[int | str, ...]) -> bool:
        return len(jnp.shape(array)) == len(shape) and all(
            isinstance(want, str) or want == got for want, got in zip(shape, jnp.shape(array), strict=True)
        )

    if (
        isinstance(params, dict)
        and set(params) == set(shapes)
        and all(fits(params[name], shapes[name]) for name in shapes)
    ):
        return
    expected = ", ".join(f"{name} [{', '.join(map(str, shapes[name]))}]" for name in sorted(shapes))
    problem = f"expected parameters {{{expected}}}{'' if x is None else f' for {describe(x)}'}, got {describe(params)}"
    raise LayerError(layer, f"{problem}; do they come from this model's init?")
