from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxbp
from jaxbp import (
    L1,
    L2,
    Dense,
    GaussianKL,
    HalfSquaredError,
    LoadBalance,
    Parallel,
    Recompute,
    Reduction,
    Repeat,
    Serial,
    Softmax,
    SoftmaxCrossEntropy,
    SumOfLosses,
    Tanh,
    Vmap,
)
from jaxbp.losses.penalties import Penalty, example_shares
from tests.support.arrays import labels, normal

X, Y, HALF = normal(4, 3), normal(4, 2), HalfSquaredError()
SHARE = jnp.array([0.1, 0.2, 0.0, 0.7])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def wide(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def same(ours, true, tolerance=1e-11):
    chex.assert_trees_all_close(ours, true, rtol=tolerance, atol=tolerance)


@dataclass(frozen=True)
class Siamese(jaxbp.Composite):
    """Σ f(x_k), with the same f."""

    body: jaxbp.Layer
    join: jaxbp.Layer

    def wire(self, call, x):
        return call("join", (call("body", x[0]), call("body", x[1])))


# Alone: the gradient of each penalty.


@pytest.mark.parametrize(
    ("penalty", "y"),
    [
        (L1(0.3), normal(4, 5)),
        (L1(0.3), {"a": normal(4, 5), "b": normal(4, 2, 3)}),
        (L2(2.0), normal(4, 2, 3)),
        (GaussianKL(0.5), normal(4, 6)),
        (GaussianKL(0.5), (normal(4, 2, 3), normal(4, 2, 3, seed=1))),
        (LoadBalance(0.1), jax.nn.softmax(normal(4, 3))),
        (LoadBalance(0.1, chosen=2), jax.nn.softmax(normal(4, 5, 3))),
    ],
    ids=str,
)
@pytest.mark.parametrize("share", [SHARE, jnp.full(4, 0.25), jnp.zeros(4)], ids=["weighted", "equal", "none"])
def test_the_gradient_of_a_penalty_is_that_of_jax(penalty, y, share):
    y, share = wide((y, share))
    true = jax.grad(lambda y: penalty.value(penalty.per_example(y), share))(y)
    same(penalty.gradient(y, share), true)


def test_penalties_match_cases_worked_by_hand():
    half = jnp.full(2, 0.5)
    y = jnp.array([[1.0, -2.0], [0.0, 3.0]])
    assert L1(2.0).value(L1().per_example(y), half) == 6  # 2 (½ 3 + ½ 3)
    assert L2(2.0).value(L2().per_example(y), half) == 7  # 2 (½ 5/2 + ½ 9/2)
    unit, one = jnp.zeros((2, 4)), jnp.array([[2.0, 0.0], [0.0, 0.0]])
    assert GaussianKL().value(GaussianKL().per_example(unit), half) == 0
    assert GaussianKL().value(GaussianKL().per_example(one), half) == 1  # ½ 2² for one of two
    balanced, all_to_one = jnp.array([[0.9, 0.1], [0.1, 0.9]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    assert LoadBalance().value(LoadBalance().per_example(balanced), half) == 1
    assert LoadBalance().value(LoadBalance().per_example(all_to_one), half) == 2


def test_examples_of_weight_zero_may_be_anything():
    y, share = jnp.full((2, 4), jnp.inf).at[0].set(0.5), jnp.array([1.0, 0.0])
    for penalty in (L1(), L2(), GaussianKL(), LoadBalance()):
        assert jnp.isfinite(penalty.value(penalty.per_example(y), share)), penalty
        assert jnp.isfinite(penalty.gradient(y, share)).all(), penalty
        assert (penalty.gradient(y, share)[1] == 0).all(), penalty


def test_the_share_of_an_example_is_that_of_its_loss():
    logits, targets = wide(normal(2, 3, 5)), jnp.array([[0, 1, -1], [2, -1, -1]])
    loss = SoftmaxCrossEntropy(ignored_label=-1)
    same(example_shares(loss, logits, targets), jnp.array([2 / 3, 1 / 3]))
    same(example_shares(HALF, *wide((Y, Y)), jnp.array([1.0, 2.0, 0.0, 1.0])), jnp.array([0.25, 0.5, 0, 0.25]))
    summed = HalfSquaredError(reduction=Reduction.SUM)
    same(example_shares(summed, *wide((Y, Y)), jnp.array([1.0, -2.0, 0.0, 1.0])), jnp.array([1.0, -2, 0, 1]))
    both = SumOfLosses([(HALF, 1.0), (loss, 3.0)])
    found = example_shares(both, wide((normal(2, 3), logits)), wide((normal(2, 3), targets)))
    same(found, jnp.array([(1 / 2 + 2 / 3) / 2, (1 / 2 + 1 / 3) / 2]))


# In a model: value and gradient of loss + penalty.

BLOCK = Serial(Dense(3), Tanh())


def outputs_at(model, path, params, x):
    """All outputs of the layer at a path, by a recording of the test's own."""
    found = []

    class Tap(jaxbp.Layer):
        def __init__(self, layer):
            self.layer = layer

        def forward(self, params, x, rng=None):
            y, residuals = self.layer.forward(params, x, rng)
            found.append(y)
            return y, residuals

    def tapped(layer, names):
        if not names:
            return Tap(layer)
        return layer.rebuild({n: tapped(c, names[1:]) if n == names[0] else c for n, c in layer.children.items()})

    tapped(model, path.split(".") if path else []).forward(params, x)
    return found


MODELS = {
    "a leaf": (Serial(BLOCK, Dense(2)), "0.0"),
    "a composite": (Serial(BLOCK, Dense(2)), "0"),
    "the outputs": (Serial(BLOCK, Dense(2)), ""),
    "recomputed": (Serial(Recompute(BLOCK), Dense(2)), "0.body.1"),
    "in parallel": (Serial(Parallel(BLOCK, Dense(3)), jaxbp.Concatenate(), Dense(2)), "0.0.1"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weights", [None, jnp.array([1.0, 0.0, 2.0, 0.5])], ids=["unweighted", "weighted"])
def test_a_penalty_is_added_to_the_loss_and_its_gradient_to_the_delta(name, weights):
    model, path = MODELS[name]
    x, y, weights = wide((X, Y, weights))
    params = wide(model.init(jax.random.key(0), x))

    def true(params):
        share = example_shares(HALF, y, y, weights)
        value = HALF.forward(model(params, x), y, weights)[0]
        return value + sum(share @ L1(0.7).per_example(at) * 0.7 for at in outputs_at(model, path, params, x))

    ours = jaxbp.value_and_grad(model, HALF, penalties={path: L1(0.7)})(params, x, y, weights=weights)
    same(ours, jax.value_and_grad(true)(params))


@pytest.mark.parametrize(
    "stack",
    [lambda: Repeat(BLOCK, 3), lambda: Repeat(Recompute(BLOCK), 3), lambda: Recompute(Repeat(BLOCK, 3))],
    ids=["Repeat", "Repeat of Recompute", "Recompute of Repeat"],
)
def test_inside_a_repeat_every_copy_is_penalized(stack):
    model, x, y = Serial(stack(), Dense(2)), *wide((X, Y))
    params = wide(model.init(jax.random.key(0), x))
    written_out = Serial(*[BLOCK] * 3, Dense(2))
    path = next(path for path, layer in jaxbp.core.paths.layers(model) if isinstance(layer, Tanh))
    value, gradient = jaxbp.value_and_grad(model, HALF, penalties={path: L2(0.7)})(params, x, y)

    def flat(params):
        at = params[0]["body"]
        at = at["body"] if isinstance(at, dict) else at
        return (*(jax.tree.map(lambda a: a[i], at) for i in range(3)), params[1])  # noqa: B023

    by_path = {f"{i}.1": L2(0.7) for i in range(3)}
    same((value, flat(gradient)), jaxbp.value_and_grad(written_out, HALF, penalties=by_path)(flat(params), x, y))


def test_each_member_of_a_vmap_is_penalized():
    model, x = Vmap(BLOCK, 2), wide(X)
    params, y = wide(model.init(jax.random.key(0), x)), wide(normal(4, 2, 3))
    value, gradient = jaxbp.value_and_grad(model, HALF, penalties={"body.1": L2(0.7)})(params, x, y)

    def true(params):
        outputs = model(params, x)
        return HALF.forward(outputs, y)[0] + 0.7 * jnp.sum(outputs**2) / 2 / 4

    same((value, gradient), jax.value_and_grad(true)(params))


def test_a_layer_that_is_used_twice_is_penalized_at_both_uses():
    model = Siamese(BLOCK, jaxbp.Add())
    x, y = wide(((X, normal(4, 3, seed=1)), normal(4, 3)))
    params = wide(model.init(jax.random.key(0), x))
    for path in ("body", "body.1"):
        ours = jaxbp.value_and_grad(model, HALF, penalties={path: L2(0.7)})(params, x, y)

        def true(params):
            a, b = (BLOCK(params["body"], part) for part in x)
            return HALF.forward(a + b, y)[0] + 0.7 * (jnp.sum(a**2) + jnp.sum(b**2)) / 2 / 4

        same(ours, jax.value_and_grad(true)(params))


def test_experts_with_a_gate_are_balanced():
    model, x, y = Serial(Parallel(Serial(Dense(3), Softmax()), Dense(3)), jaxbp.Multiply()), *wide((X, normal(4, 3)))
    params = wide(model.init(jax.random.key(0), x))

    def true(params):
        p = jax.nn.softmax(Dense(3)(params[0][0][0], x))
        f = jnp.mean(jax.nn.one_hot(jnp.argmax(p, -1), 3), 0)
        return HALF.forward(model(params, x), y)[0] + 0.1 * 3 * jnp.sum(f * jnp.mean(p, 0))

    ours = jaxbp.value_and_grad(model, HALF, penalties={"0.0": LoadBalance(0.1)})(params, x, y)
    same(ours, jax.value_and_grad(true)(params))


def test_several_penalties_and_edits_live_together():
    model, x, y = Serial(BLOCK, Dense(2)), *wide((X, Y))
    params = wide(model.init(jax.random.key(0), x))
    seen = {}

    def edit(site):
        seen[site.path] = type(site.layer)
        return 2 * site.g

    penalties = {"0": L1(0.3), "0.0": L2(0.2)}
    _, gradient = jaxbp.value_and_grad(model, HALF, {"0": edit}, penalties)(params, x, y)
    assert seen == {"0": Serial}
    z, a = Dense(3)(params[0][0], x), BLOCK(params[0], x)
    delta = 2 * ((model(params, x) - y) @ params[1]["weight"].T + 0.3 * jnp.sign(a)) / 4
    delta = delta * (1 - a**2) + 0.2 * z / 4
    same(gradient[0][0]["bias"], delta.sum(0))


def test_quantities_see_the_model_as_it_is():
    model, x, y = Serial(BLOCK, Dense(2)), *wide((X, Y))
    params = wide(model.init(jax.random.key(0), x))
    wanted = {"path": lambda site: site.path, "norms": jaxbp.per_example_norms, "gradient": jaxbp.param_gradient}
    value, found = jaxbp.value_and_quantities(model, HALF, wanted, penalties={"0.1": L2(0.3)})(params, x, y)
    assert found["path"] == (("0.0", "0.1"), "1")
    gradient = jaxbp.value_and_grad(model, HALF, penalties={"0.1": L2(0.3)})
    same((value, found["gradient"]), gradient(params, x, y))
    each = jax.vmap(gradient, (None, 0, 0))(params, x[:, None], y[:, None])[1]
    same(found["norms"], jnp.sqrt(sum(jnp.sum(a.reshape(4, -1) ** 2, 1) for a in jax.tree.leaves(each))))


def test_what_is_per_example_refuses_a_penalty_that_mixes_examples():
    with pytest.raises(jaxbp.LayerError, match=r"LoadBalance.* mixes"):
        jaxbp.value_and_quantities(
            Serial(Dense(3), Softmax()), HALF, {"n": jaxbp.per_example_norms}, penalties={"1": LoadBalance()}
        )


@pytest.mark.usefixtures("unchecked")
def test_wrong_penalties_are_told():
    model = Serial(jaxbp.LSTM(3), Dense(2))
    gradient = jaxbp.value_and_grad
    x = normal(4, 5, 3)
    params = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match='the model has no layer "7"'):
        gradient(model, HALF, penalties={"7": L1()})(params, x, normal(4, 5, 2))
    with pytest.raises(TypeError, match='expected a penalty at "0", such as L2'):
        gradient(model, HALF, penalties={"0": HALF})(params, x, normal(4, 5, 2))
    with pytest.raises(ValueError, match=r"GaussianKL\(\): expected \(means, log variances\)"):
        gradient(model, HALF, penalties={"0": GaussianKL()})(params, x, normal(4, 5, 2))
    with pytest.raises(ValueError, match=r"LoadBalance\(chosen=4\): expected probabilities \[n, ..., experts >= 4\]"):
        gradient(model, HALF, penalties={"0": LoadBalance(chosen=4)})(params, x, normal(4, 5, 2))
    with pytest.raises(
        ValueError, match=r'the layer at "0\.recurrent" is a part of a scan and has no output of its own'
    ):
        gradient(model, HALF, penalties={"0.recurrent": L1()})(params, x, normal(4, 5, 2))
    with pytest.raises(NotImplementedError, match=r"Penalty\(\) doesn't define per_example"):
        gradient(model, HALF, penalties={"0": Penalty()})(params, x, normal(4, 5, 2))


def test_statistics_are_renewed_and_labels_may_be_ignored_beside_a_penalty():
    model, optimizer = Serial(Dense(3), jaxbp.BatchNorm(), Dense(2)), optax.sgd(0.1)
    loss, targets = SoftmaxCrossEntropy(ignored_label=-1), labels(4, 2).at[1].set(-1)
    states = [
        jaxbp.make_train_step(model, loss, optimizer, penalties=penalties)(
            jaxbp.TrainState.create(model, optimizer, X, jax.random.key(0)), X, targets
        )[0]
        for penalties in (None, {"2": L2(0.0)})
    ]
    same(states[0].params, states[1].params, 1e-6)
