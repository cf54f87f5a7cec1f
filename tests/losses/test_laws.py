"""What holds for every loss."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import ExampleLoss, Reduction
from tests.losses.textbook import CASES
from tests.support.loss_oracle import TOLERANCES, assert_curvature, assert_value_and_gradient, cast

WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5])
every = pytest.mark.parametrize("case", CASES, ids=str)


@every
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_value_and_gradient_are_the_textbooks(case, dtype):
    assert_value_and_gradient(case, dtype, WEIGHTS if dtype == "float64" else None)


@every
def test_the_hessian_is_what_the_loss_says_and_has_the_root_it_gives(case):
    assert_curvature(case, np.array([1.0, 0.5, 2.0, 0.0]))


def everything(loss, outputs, targets, weights=None, total=None):
    """Value, gradient, a product with the Hessian and the empirical root, where there is one."""
    value, kept = loss.forward(outputs, targets, weights, total)
    v = jax.tree.map(lambda y: jnp.sin(1 + jnp.arange(y.size, dtype=y.dtype).reshape(y.shape[::-1]).T), outputs)
    empirical = () if loss.mixes_examples else loss.empirical_root(kept)
    return value, loss.backward(kept), loss.hessian(kept, v), empirical


found = jax.jit(everything, static_argnums=0)


def rows(tree, index):
    return jax.tree.map(lambda a: jnp.asarray(a)[index], tree)


@every
def test_what_has_weight_zero_is_not_there_whatever_it_holds(case):
    def spoilt(tree):
        return jax.tree.map(lambda a: a.at[1].set(np.nan) if a.dtype == float else a, tree)

    with jax.enable_x64(True):
        outputs, targets, there = cast(case.outputs, float), cast(case.targets, float), np.array([0, 2, 3])
        spoilt_value, *spoilt_trees = found(case.loss, spoilt(outputs), spoilt(targets), WEIGHTS)
        value, *trees = found(case.loss, *rows((outputs, targets), there), WEIGHTS[there])
    np.testing.assert_allclose(spoilt_value, value, rtol=1e-12)
    gradient, _, empirical = spoilt_trees
    chex.assert_tree_all_finite(spoilt_trees)
    assert not any(g[1].any() for g in jax.tree.leaves((gradient, empirical)))
    chex.assert_trees_all_close(rows((gradient, empirical), there), (trees[0], trees[2]), rtol=1e-9, atol=1e-14)


SUMMED = [case for case in CASES if not case.loss.mixes_examples]
independent = pytest.mark.parametrize("case", SUMMED, ids=str)


@independent
def test_parts_of_a_batch_divided_by_the_total_of_the_whole_add_up_to_it(case):
    """The law of gradient accumulation, in every reduction."""

    @partial(jax.jit, static_argnums=0)
    def whole_and_parts(loss, outputs, targets, weights):
        total = loss.total(outputs, targets, weights)
        halves = [rows((outputs, targets, weights), of) for of in (slice(0, 1), slice(1, 4))]
        (a, kept), (b, more) = (loss.forward(*half, total) for half in halves)
        value, residuals = loss.forward(outputs, targets, weights)
        gradient = jax.tree.map(lambda *parts: jnp.concatenate(parts), loss.backward(kept), loss.backward(more))
        return (value, loss.backward(residuals)), (a + b, gradient)

    with jax.enable_x64(True):
        batch = *cast((case.outputs, case.targets), float), jnp.asarray(WEIGHTS)
        for reduction in Reduction:
            whole, parts = whole_and_parts(replace(case.loss, reduction=reduction), *batch)
            chex.assert_trees_all_close(parts, whole, rtol=1e-12, atol=1e-15)


@independent
def test_a_sum_is_linear_in_weights_of_both_signs(case):
    @jax.jit
    def summed(weights):
        loss = replace(case.loss, reduction=Reduction.SUM)
        value, kept = loss.forward(*batch, weights)
        return value, loss.backward(kept)

    with jax.enable_x64(True):
        batch, weights = cast((case.outputs, case.targets), float), [1.0, -2.0, 0.5, -0.3]
        found = summed(jnp.array(weights))
        singles = [jax.tree.map(lambda a, w=w: w * a, summed(one)) for w, one in zip(weights, jnp.eye(4), strict=True)]
        expected = jax.tree.map(lambda *terms: sum(terms), *singles)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.loss, ExampleLoss)], ids=str)
def test_a_mean_is_the_sum_divided_by_weights_or_by_what_counts(case):
    @jax.jit
    def values(outputs, targets):
        found = {r: replace(case.loss, reduction=r).forward(outputs, targets, WEIGHTS)[0] for r in Reduction}
        return list(found.values()), case.loss.weigh(outputs, targets, WEIGHTS), case.loss.counted(outputs, targets)

    with jax.enable_x64(True):
        (mean, by_count, total), weights, counted = values(*cast((case.outputs, case.targets), float))
        expected = total / weights.sum(), total / counted.sum()
    np.testing.assert_allclose((mean, by_count), expected, rtol=1e-12)
