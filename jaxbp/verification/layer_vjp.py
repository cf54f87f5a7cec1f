"""A layer on its own before the judge: are its two gradients the vector-Jacobian product of its forward?"""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxbp.core.layer import Layer
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import join, leaves_of
from jaxbp.core.recording import Record
from jaxbp.interop import true_vjp
from jaxbp.verification.diagnosis import likely_mistake, relative_error

FLOOR = 1e-6  # gradients smaller than this share of the cotangent count as zero: there rounding is all that is left


def float64(tree: PyTree) -> PyTree:
    """The tree with its floating-point arrays in double precision."""

    def one(a):
        a = a if isinstance(a, jax.Array) else jnp.asarray(a)
        return a.astype(jnp.float64) if is_floating(a) else a

    return jax.tree.map(one, tree)


def random_like(tree: PyTree, seed: str) -> PyTree:
    """Random cotangents: one of ones would hide errors in normalisations, whose gradients it cancels."""
    arrays, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(zlib.crc32(seed.encode())), max(len(arrays), 1))
    return structure.unflatten(
        [jax.random.normal(k, a.shape, a.dtype) if is_floating(a) else None for k, a in zip(keys, arrays, strict=False)]
    )


def judge_all(layer, path, sites, examples, tolerance) -> dict[str, tuple[float, str | None]]:
    """A layer at several sites, (params, record) by name: the worst one of each quantity."""
    judged = {name: judge_layer(layer, path, *site, examples, tolerance) for name, site in sites.items()}
    worst = {}
    for what in next(iter(judged.values())):
        name = max(judged, key=lambda name: judged[name][what][0])
        error, mistake = judged[name][what]
        if mistake and not all(at[what][1] for at in judged.values()):
            mistake = f"{mistake}, {name}"
        worst[what] = error, mistake
    return worst


def judge_layer(layer, path, params, record: Record, examples, tolerance) -> dict[str, tuple[float, str | None]]:
    """The layer's two gradients for a random cotangent: relative error and likely mistake by quantity."""
    g = random_like(record.y, path)
    pull_back = true_vjp(layer, params, record.x, record.rng)
    true_dparams, true_dx = pull_back(g)
    floor = FLOOR * norm(g)
    judged = {}

    def judge(quantity, name_of, ours: Callable, true: PyTree, guesses: Callable):
        try:
            given, trouble = dict(named_leaves(ours(params, record.residuals, g))), None
        except Exception as error:
            given, trouble = {}, raised(error)
        for name, b in named_leaves(true):
            if name not in given:
                judged[name_of(name)] = float("inf"), trouble or "it is missing"
                continue
            error = relative_error(given[name], b, floor)
            wrong = error > tolerance
            mistake = likely_mistake(given[name], b, examples, guesses(name, b)) if wrong else None
            judged[name_of(name)] = error, mistake

    def input_guesses(name, b):
        guesses = {"missing f': g is sent on as it came": dict(named_leaves(g)).get(name, 0.0)}
        swapped = jax.tree.map(lambda p: p.T if p.ndim == 2 and p.shape[0] == p.shape[1] else p, params)
        _, dx = true_vjp(layer, swapped, record.x, record.rng)(g)
        guesses["the weights are not transposed"] = dict(named_leaves(dx))[name]
        return guesses

    def param_guesses(name, b):
        def of_example(n):
            only = jax.tree.map(lambda a: jnp.zeros_like(a).at[n].set(a[n]), g)
            return dict(named_leaves(pull_back(only)[0]))[name]

        guesses = {
            "missing sum over examples: only the first one counts": of_example(0),
            "missing sum over examples: only the last one counts": of_example(-1),
        }
        if isinstance(record.x, jax.Array) and isinstance(g, jax.Array) and is_floating(record.x):
            missing = "missing f': the delta is used before it went through the activation"
            if b.ndim == 2 and b.shape == (record.x.shape[-1], g.shape[-1]):
                guesses[missing] = jnp.einsum("...i,...o->io", record.x, g)
            if b.ndim == 1 and b.shape == g.shape[-1:]:
                guesses[missing] = jnp.sum(g, range(g.ndim - 1))
        return guesses

    judge("input gradient", lambda name: f"input gradient {name}".strip(), layer.input_gradient, true_dx, input_guesses)
    learned = {k: v for k, v in named_leaves(true_dparams) if k not in statistics_in(layer)}
    judge("gradient", lambda name: f"gradient of {name}", layer.param_gradient, learned, param_guesses)
    return judged


def statistics_in(layer: Layer) -> set[str]:
    """The names of running statistics in the parameters of a layer or composite, as `named_leaves` has them."""
    return {join(path, name) for path, leaf in leaves_of(layer).items() for name in leaf.statistics}


def named_leaves(tree: PyTree) -> list[tuple[str, Array]]:
    """Names and arrays of a tree: [("weight", …), ("bias", …)]; a single array has the name ""."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def norm(tree: PyTree) -> float:
    """The Euclidean norm of all numbers in a tree."""
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(a, float))) for a in jax.tree.leaves(tree))))


def raised(error: Exception) -> str:
    """What an exception comes to in a finding."""
    return f"it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
