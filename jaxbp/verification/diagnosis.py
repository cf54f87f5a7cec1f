"""From a wrong gradient to the likely mistake: each kind of mistake leaves its own mark.

Let a be the gradient in question and b the right one, c = ⟨a, b⟩ / ⟨b, b⟩.

    a = c b                   a constant factor: a sign, a forgotten ½ or 2, a missing 1/N
    a = bᵀ                    transposed
    Σ_n a_n = b               not summed over examples
    a = another candidate     what one gets without f', with transposed weights, from one example only
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]


def relative_error(a, b, floor: float) -> float:
    """‖a - b‖ / ‖b‖; below `floor` b counts as zero, and the difference is taken relative to that."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return float("inf")
    difference, size = np.linalg.norm(a - b), max(np.linalg.norm(b), floor)
    return float(difference / size) if difference else 0.0


def likely_mistake(a, b, examples: int, candidates: Arrays) -> str:
    """The words for how a differs from b.

    Args:
        a: the gradient in question.
        b: the right one.
        examples: N.
        candidates: what certain mistakes would give, by their description.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        if _same(a, b.T):
            return "transposed"
        if a.shape == (examples, *b.shape) and _same(a.sum(0), b):
            return "missing sum over examples: it still has their axis"
        return f"its shape is {list(a.shape)}, expected {list(b.shape)}"
    if not np.isfinite(a).all():
        return "it is not finite"
    if not np.isfinite(b).all():
        return "the gradient by jax.grad is not finite: look at the forward pass"
    if not a.any():
        return "it is zero"
    if not b.any():
        return "it should be zero"
    error = np.linalg.norm(a - b) / np.linalg.norm(b)
    if error < 1e-5:
        return f"right to {error:.0e}: is a part of it computed in single precision?"
    if factor := _factor(a, b):
        return _factor_in_words(factor, examples)
    if a.ndim == 2 and _same(a, b.T):
        return "transposed"
    for description, candidate in candidates.items():
        if factor := _factor(a, np.asarray(candidate, float)):
            also = "" if abs(factor - 1) < 1e-6 else f", and {_factor_in_words(factor, examples)}"
            return description + also
    right = np.isclose(a, b, rtol=1e-6, atol=1e-9 * np.abs(b).max())
    if right.any():
        return f"{right.size - right.sum()} of {right.size} elements are wrong, the others right"
    cosine = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    return f"it points elsewhere (cosine {cosine:.3f}, {np.linalg.norm(a) / np.linalg.norm(b):.3g} times the size)"


def _same(a, b) -> bool:
    return a.shape == b.shape and bool(np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b))


def _factor(a, b) -> float | None:
    """c where a = c b, else None."""
    if a.shape != b.shape or not b.any():
        return None
    c = float(np.vdot(a, b) / np.vdot(b, b))
    return c if abs(c) > 1e-12 and _same(a, c * b) else None


def _factor_in_words(c: float, examples: int) -> str:
    sign, size = "" if c > 0 else "wrong sign", abs(c)
    if examples > 1 and np.isclose(size, examples):
        factor = f"missing 1/N (it is N = {examples} times too large)"
    elif examples > 1 and np.isclose(size, 1 / examples):
        factor = f"divided by N = {examples}: the loss alone takes the mean, layers sum over examples"
    elif np.isclose(size, 1):
        factor = ""
    else:
        factor = f"wrong by a constant factor c = {size:.6g}"
    return " and ".join(part for part in (sign, factor) if part)
