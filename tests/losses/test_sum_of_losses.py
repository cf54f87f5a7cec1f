import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import HalfSquaredError, InfoNCE, MeanSquaredError, Reduction, SoftmaxCrossEntropy, SumOfLosses
from tests.support.arrays import labels, normal

RATING, CLICK = MeanSquaredError(), SoftmaxCrossEntropy(ignored_label=-1)
LOSS = SumOfLosses({"rating": (RATING, 1.0), "click": (CLICK, 0.5)})
OUTPUTS = {"click": normal(4, 3, seed=1), "rating": normal(4, 2)}
TARGETS = {"click": labels(4, 3).at[2].set(-1), "rating": normal(4, 2, seed=2)}
WEIGHTS = jnp.array([1.0, 2.0, 3.0, 0.0])


def test_a_sum_matches_a_case_worked_by_hand():
    loss = SumOfLosses([(HalfSquaredError(), 2), (HalfSquaredError(), 10)])
    outputs, targets = (jnp.array([[3.0]]), jnp.array([[1.0]])), (jnp.array([[1.0]]), jnp.array([[0.0]]))
    value, kept = loss.forward(outputs, targets)
    assert value == 2 * 2 + 10 / 2
    chex.assert_trees_all_equal(loss.backward(kept), (jnp.array([[4.0]]), jnp.array([[10.0]])))
    chex.assert_trees_all_equal(loss.hessian(kept, outputs), (jnp.array([[6.0]]), jnp.array([[10.0]])))
    chex.assert_trees_all_close(loss.hessian_root(kept, outputs), (3 * jnp.array([[2**0.5]]), jnp.array([[10**0.5]])))
    chex.assert_trees_all_equal(loss.empirical_root(kept), loss.backward(kept))
    assert loss.values(outputs, targets) == (2, 0.5)


def test_each_part_is_reported_by_name_and_divided_by_its_own_total():
    values = LOSS.values(OUTPUTS, TARGETS, WEIGHTS)
    alone = {
        "rating": RATING.forward(OUTPUTS["rating"], TARGETS["rating"], WEIGHTS)[0],
        "click": CLICK.forward(OUTPUTS["click"], TARGETS["click"], WEIGHTS)[0],
    }
    chex.assert_trees_all_equal(values, alone)
    value, _ = LOSS.forward(OUTPUTS, TARGETS, WEIGHTS)
    np.testing.assert_allclose(value, alone["rating"] + 0.5 * alone["click"], rtol=1e-6)
    assert LOSS.total(OUTPUTS, TARGETS, WEIGHTS) == {"rating": 6.0, "click": 3.0}


def test_one_total_serves_all_parts():
    one = LOSS.forward(OUTPUTS, TARGETS, total=jnp.ones(()))[0]
    by_part = LOSS.forward(OUTPUTS, TARGETS, total={"rating": jnp.ones(()), "click": jnp.ones(())})[0]
    assert one == by_part


def test_weights_may_be_given_by_part():
    by_part = {"rating": None, "click": WEIGHTS}
    found = LOSS.values(OUTPUTS, TARGETS, by_part)
    chex.assert_trees_all_equal(found["click"], LOSS.values(OUTPUTS, TARGETS, WEIGHTS)["click"])
    chex.assert_trees_all_equal(found["rating"], LOSS.values(OUTPUTS, TARGETS)["rating"])
    assert LOSS.weigh(OUTPUTS, TARGETS, by_part)["click"].tolist() == [1, 2, 0, 0]


def test_measures_of_batches_add_up_by_part():
    halves = [jax.tree.map(lambda a, of=of: a[of], (OUTPUTS, TARGETS)) for of in (slice(0, 3), slice(3, 4))]
    measures = [LOSS.measure(*half) for half in halves]
    found = LOSS.summary(jax.tree.map(jnp.add, *measures))
    assert set(found) == {"loss", "rating.loss", "click.loss", "click.accuracy"}
    values = LOSS.values(OUTPUTS, TARGETS)
    np.testing.assert_allclose(found["loss"], LOSS.forward(OUTPUTS, TARGETS)[0], rtol=1e-6)
    np.testing.assert_allclose((found["rating.loss"], found["click.loss"]), (values["rating"], values["click"]), 1e-6)


def test_sums_nest_and_their_measures_too():
    inner = {"a": (OUTPUTS, TARGETS), "b": (OUTPUTS["rating"], TARGETS["rating"])}
    outputs, targets = ({k: v[i] for k, v in inner.items()} for i in range(2))
    loss = SumOfLosses({"a": (LOSS, 2.0), "b": (RATING, 1.0)})
    found = loss.summary(loss.measure(outputs, targets))
    assert "a.click.accuracy" in found
    np.testing.assert_allclose(found["loss"], loss.forward(outputs, targets)[0], rtol=1e-6)


def test_the_reduction_of_a_sum_is_that_of_its_parts():
    loss = SumOfLosses({"rating": (RATING, 1.0), "click": (CLICK, 0.5)}, reduction=Reduction.SUM)
    value, _ = loss.forward(OUTPUTS, TARGETS, WEIGHTS)
    np.testing.assert_allclose(value, LOSS.forward(OUTPUTS, TARGETS, WEIGHTS, jnp.ones(()))[0], rtol=1e-6)


def test_it_mixes_examples_if_a_part_does():
    assert not LOSS.mixes_examples
    assert SumOfLosses([(RATING, 1.0), (InfoNCE(), 0.1)]).mixes_examples


def test_a_sum_is_hashable_and_written_as_it_is_called():
    assert hash(LOSS) == hash(SumOfLosses({"rating": (RATING, 1.0), "click": (CLICK, 0.5)}))
    pair = SumOfLosses([(RATING, 1.0), (CLICK, 0.5)])
    assert str(pair) == "SumOfLosses([(MeanSquaredError(), 1.0), (SoftmaxCrossEntropy(ignored_label=-1), 0.5)])"
    names = {name: getattr(jaxbp, name) for name in jaxbp.losses.__all__}
    assert [eval(str(loss), names) for loss in (LOSS, pair)] == [LOSS, pair]


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (OUTPUTS["rating"], TARGETS, r"expected outputs as a dict of \['rating', 'click'\], got float32\[4, 2\]"),
        ({**OUTPUTS, "more": normal(4)}, TARGETS, r"expected outputs as a dict .* more: float32\[4\]\}; .*Select"),
        (tuple(OUTPUTS.values()), TARGETS, r"expected outputs as a dict"),
        (OUTPUTS, TARGETS["click"], r"expected targets as a dict of \['rating', 'click'\], got int32\[4\]"),
        (OUTPUTS, {"rating": TARGETS["rating"]}, r"expected targets as a dict"),
    ],
)
def test_other_structures_are_refused_in_one_sentence(outputs, targets, message):
    with pytest.raises(TypeError, match=message):
        LOSS.forward(outputs, targets)


def test_a_tuple_of_another_length_is_refused():
    with pytest.raises(TypeError, match=r"expected outputs as a tuple of 2, got \(float32\[4, 2\]\)"):
        SumOfLosses([(RATING, 1.0), (CLICK, 0.5)]).forward((OUTPUTS["rating"],), (TARGETS["rating"],))


def test_a_part_that_does_not_fit_says_so_itself():
    with pytest.raises(ValueError, match=r"MeanSquaredError\(\): expected targets shaped like the outputs"):
        LOSS.forward(OUTPUTS, {**TARGETS, "rating": normal(4)})
    with pytest.raises(TypeError, match=r"weights or totals as a dict"):
        LOSS.forward(OUTPUTS, TARGETS, {"clicks": WEIGHTS})


PAIRS = [[RATING], [(RATING,)], [(RATING, "1")], [(RATING, 1.0, 2.0)], {"a": RATING}, [(1.0, RATING)]]


@pytest.mark.parametrize("parts", PAIRS, ids=str)
def test_parts_that_are_no_pairs_are_refused(parts):
    with pytest.raises(TypeError, match=r"SumOfLosses needs parts such as \(MeanSquaredError\(\), 0\.5\), not"):
        SumOfLosses(parts)


def test_no_parts_are_refused():
    with pytest.raises(ValueError, match="at least one part"):
        SumOfLosses({})


def test_a_root_of_a_negative_factor_is_refused():
    loss = SumOfLosses([(RATING, 1.0), (RATING, -1.0)])
    outputs = OUTPUTS["rating"], OUTPUTS["rating"]
    _, kept = loss.forward(outputs, outputs)
    with pytest.raises(ValueError, match="a negative factor gives a Hessian that has no root"):
        loss.hessian_root(kept, outputs)
