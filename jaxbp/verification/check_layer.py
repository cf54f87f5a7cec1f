"""The laws of a layer (see `jaxbp.core.layer`), each one put to the test."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_floating
from jaxbp.core.text import describe
from jaxbp.interop import merge, split_floating, true_vjp
from jaxbp.verification.diagnosis import likely_mistake, relative_error
from jaxbp.verification.layer_vjp import FLOOR, float64, named_leaves, norm, random_like, statistics_in

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2}


def check_layer(
    layer: Layer,
    x: PyTree,
    params: Params | None = None,
    rng: PRNGKeyArray | None = None,
    key: PRNGKeyArray | None = None,
) -> dict[str, float]:
    """Tests the laws of a layer for inputs like x, in evaluation and, if `rng` is given, in training.

    Args:
        layer: any layer, composites too.
        x: inputs, examples first: an array or a tree of arrays.
        params: the layer's parameters; drawn by its `init` unless given.
        rng: a key for the training mode.
        key: what parameters and cotangents are drawn from.

    Returns:
        The largest relative errors: {"float64": …, "float32": …, "bfloat16": …, "finite differences": …}.

    Raises:
        AssertionError: a law is broken; it says which one, and how.
    """
    key = jax.random.key(0) if key is None else key
    with jax.enable_x64(True):
        x = float64(x)
        params = float64(layer.init(key, x) if params is None else params)
        errors: dict[str, float] = {}
        for mode in (None,) if rng is None else (None, rng):
            laws = _Laws(layer, params, x, mode)
            for name, error in laws.test().items():
                errors[name] = max(error, errors.get(name, 0.0))
        return errors


class _Laws:
    """The laws for one mode, evaluation or training."""

    def __init__(self, layer, params, x, rng):
        self.layer, self.params, self.x, self.rng = layer, params, x, rng
        self.statistics = statistics_in(layer)
        self.mode = "evaluation" if rng is None else "training"
        y, self.residuals = layer.forward(params, x, rng)
        self.g = random_like(y, "cotangent")
        self.compiled = jax.jit(self.run)

    def fail(self, law: int, problem: str):
        raise AssertionError(f"{self.layer} breaks law {law} of a layer ({self.mode}): {problem}")

    def test(self) -> dict[str, float]:
        ours = self.all(self.params, self.x, self.g)
        self.structure(ours)
        errors = {"float64": self.against_vjp(ours), "finite differences": self.against_differences()}
        self.residuals_hold_no_params()
        if self.rng is None and not self.layer.mixes_examples:
            self.examples_are_independent(ours)
        self.transformations(ours)
        for dtype in ("float32", "bfloat16"):
            errors[dtype] = self.precision(jnp.dtype(dtype))
        return errors

    def run(self, params, x, g):
        """(Outputs, both gradients), and residuals: one compiled program serves most laws."""
        y, residuals = self.layer.forward(params, x, self.rng)
        dx, dparams = (
            self.layer.input_gradient(params, residuals, g),
            self.layer.param_gradient(params, residuals, g),
        )
        return (y, dx, dparams), residuals

    def all(self, params, x, g):
        """Outputs and both gradients."""
        return self.run(params, x, g)[0]

    def learned(self, gradient):
        """The gradient without running statistics."""
        return {k: v for k, v in named_leaves(gradient) if k not in self.statistics}

    def structure(self, ours):
        _, dx, dparams = ours
        for leaf in jax.tree.leaves((ours[0], self.residuals)):
            if not isinstance(leaf, jax.Array):
                self.fail(2, f"outputs and residuals must be trees of arrays, found {type(leaf).__name__}")
        like = lambda tree: jax.tree.map(describe, tree)  # noqa: E731
        if like(dparams) != like(self.params):
            self.fail(5, f"params are {describe(self.params)}, but their gradient is {describe(dparams)}")
        want = jax.tree.map(lambda a: describe(a) if is_floating(a) else None, self.x)
        got = jax.tree.map(describe, dx)
        if got != want:
            self.fail(6 if want is None else 1, f"the input gradient should be {want}, but is {got}")

    def against_vjp(self, ours) -> float:
        _, dx, dparams = ours
        true = jax.jit(lambda params, x, g: true_vjp(self.layer, params, x, self.rng)(g))
        true_dparams, true_dx = true(self.params, self.x, self.g)
        pairs = [
            *((f"input gradient {k}".strip(), a, dict(named_leaves(true_dx))[k]) for k, a in named_leaves(dx)),
            *((f"gradient of {k}", a, self.learned(true_dparams)[k]) for k, a in self.learned(dparams).items()),
        ]
        worst, floor = 0.0, FLOOR * norm(self.g)
        for what, a, b in pairs:
            error = relative_error(a, b, floor)
            if not error <= TOLERANCES["float64"]:
                mistake = likely_mistake(a, b, jax.tree.leaves(self.x)[0].shape[0], {})
                self.fail(1, f"the {what} differs from jax.vjp's by {error:.1e}: {mistake}")
            worst = max(worst, error)
        return worst

    def against_differences(self) -> float:
        """⟨g, f(θ + hu) - f(θ - hu)⟩ / 2h against ⟨gradients, u⟩, a little away from x, where kinks may be."""
        moving, fixed = split_floating(self.x)
        nudge = lambda tree, seed, h: jax.tree.map(lambda a, u: a + h * u, tree, random_like(tree, seed))  # noqa: E731
        moving = nudge(moving, "away", 1e-2)
        along_params, along_x = random_like((self.params, moving), "direction")
        names = iter([name for name, _ in named_leaves(along_params)])
        direction = jax.tree.map(lambda u: u * (next(names) not in self.statistics), along_params), along_x

        def value(h):
            params, x = jax.tree.map(lambda a, u: a + h * u, (self.params, moving), direction)
            (y, _, _), _ = self.compiled(params, merge(x, fixed), self.g)
            return sum(
                np.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (split_floating(y)[0], self.g)), strict=True)
            )

        h = 1e-6
        numeric = (value(h) - value(-h)) / (2 * h)
        (_, dx, dparams), _ = self.compiled(self.params, merge(moving, fixed), self.g)
        pairs = zip(jax.tree.leaves((dparams, dx)), jax.tree.leaves(direction), strict=True)
        analytic = sum(np.vdot(a, b) for a, b in pairs) if jax.tree.leaves(direction) else 0.0
        scale = max(abs(float(numeric)), 1e-2 * norm(self.g) * norm(direction), 1e-12)
        error = abs(float(analytic) - float(numeric)) / scale
        if not error <= 1e-5:
            self.fail(1, f"finite differences give {numeric:.6g}, the gradients {analytic:.6g}")
        return error

    def residuals_hold_no_params(self):
        """A residual that follows the parameters and not x is made of parameters."""
        other_params = jax.tree.map(lambda p: p * 1.5 + 0.1, self.params)
        moving, fixed = split_floating(self.x)
        other_x = merge(jax.tree.map(lambda a: a * 0.7 + 0.3, moving), fixed)
        kept = lambda params, x: self.compiled(params, x, self.g)[1]  # noqa: E731
        by_params, by_x = jax.tree.leaves(kept(other_params, self.x)), jax.tree.leaves(kept(self.params, other_x))
        leaves = jax.tree.leaves(kept(self.params, self.x))
        for residual, p, q in zip(leaves, by_params, by_x, strict=True):
            if not equal(residual, p) and equal(residual, q) and jax.tree.leaves(moving):
                self.fail(2, f"the residual {describe(residual)} is made of parameters alone")

    def examples_are_independent(self, ours):
        y, _, dparams = ours
        one = lambda tree: jax.tree.map(lambda a: a[:, None], tree)  # noqa: E731
        ys, _, each = jax.jit(jax.vmap(self.all, (None, 0, 0)))(self.params, one(self.x), one(self.g))
        self.compare(3, "an example's output depends on the others", jax.tree.map(lambda a: a[:, 0], ys), y)
        total = jax.tree.map(lambda a: a.sum(0), each)
        self.compare(3, "the parameter gradient is not the sum over examples", total, dparams)

    def transformations(self, ours):
        stack = lambda tree: jax.tree.map(lambda a: jnp.stack([a, a]), tree)  # noqa: E731
        arguments = self.params, self.x, self.g
        self.compare(7, "jit changes the result", self.compiled(*arguments)[0], ours)
        pair, each = jax.vmap(self.all), stack(stack(arguments))
        scanned = lax.scan(lambda _, at: (None, pair(*at)), None, each)[1]
        self.compare(7, "vmap inside scan changes the result", scanned, stack(stack(ours)))

    def compare(self, law, problem, a, b):
        for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            if is_floating(q) and relative_error(p, q, FLOOR * norm(self.g)) > 1e-9:
                self.fail(law, problem)

    def precision(self, dtype) -> float:
        """The same in another dtype, against float64 from the same rounded numbers."""
        lower = lambda tree: jax.tree.map(lambda a: a.astype(dtype) if is_floating(a) else a, tree)  # noqa: E731
        params, x, g = lower((self.params, self.x, self.g))
        ours, _ = self.compiled(params, x, g)
        right, _ = self.compiled(*float64((params, x, g)))
        worst = 0.0
        names = ("output", "input gradient", "gradient of")
        for what, low, high in zip(names, ours, right, strict=True):
            for (name, a), (_, b) in zip(named_leaves(low), named_leaves(high), strict=True):
                if not is_floating(a):
                    continue
                if a.dtype != dtype:
                    self.fail(7, f"of {dtype} the {what} {name} is {a.dtype}")
                error = relative_error(np.asarray(a, float), b, 1e-2 * norm(g) if what != "output" else 1e-2 * norm(b))
                if not error <= TOLERANCES[str(dtype)]:
                    self.fail(7, f"in {dtype} the relative error of the {what} {name} is {error:.1e}")
                worst = max(worst, error)
        return worst


def equal(a: Any, b: Any) -> bool:
    """Whether two arrays hold the same numbers; random keys count as their data."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return bool(jnp.array_equal(a, b))
