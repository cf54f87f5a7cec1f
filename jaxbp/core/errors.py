"""Errors that name the layer by its path, what was expected, what came and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    """Refuses what is no positive whole number, by its name."""
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
