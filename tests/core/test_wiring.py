from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Add, Concatenate, Dense, Dropout, Identity, Layer, LayerError, Repeat, Select, Serial, Split, Tanh
from tests.support.arrays import normal
from tests.support.autodiff import agrees_with_autodiff

X = normal(4, 3)


@dataclass(frozen=True)
class Ladder(jaxbp.Composite):
    """Values that go several ways, in tuples and dicts, and a child that is called three times."""

    first: Layer = Serial(Dense(3), Tanh())
    pair: Layer = Split(3)
    join: Layer = Concatenate()
    scale: Layer = Dense(1)

    def wire(self, call, x):
        a = call("first", x["left"])
        b = call("first", a + x["right"])
        p, _, q = call("pair", b)
        return {"sum": call("first", b) + a, "rest": (call("join", (q, call("scale", a), p)), a)}


def test_a_graph_with_several_inputs_outputs_and_a_shared_child_agrees_with_autodiff():
    x = {"left": X, "right": normal(4, 3, seed=1)}
    g = {"sum": normal(4, 3, seed=2), "rest": (normal(4, 3, seed=3), normal(4, 3, seed=4))}
    agrees_with_autodiff(Ladder(), x, g)


def test_a_wired_composite_obeys_the_layer_laws():
    jaxbp.check_layer(Ladder(), {"left": X, "right": normal(4, 3, seed=1)})


def test_a_shared_child_has_parameters_once_and_one_answer_of_a_visit():
    params = Ladder().init(jax.random.key(0), {"left": X, "right": X})
    assert list(params) == ["first", "pair", "join", "scale"]
    assert sum(p.size for p in jax.tree.leaves(params["first"])) == 12
    y, residuals = Ladder().forward(params, {"left": X, "right": X})
    visits = []
    jaxbp.sweep(Ladder(), params, residuals, y, lambda site: visits.append(site.path))
    assert sorted(visits) == ["first.0", "first.1", "join", "pair", "scale"]


@dataclass(frozen=True)
class Twice(jaxbp.Composite):
    """The same layer two times, worked by hand: y = (x w) w, so ∂y/∂w = 2 x w."""

    layer: Layer

    def wire(self, call, x):
        return call("layer", call("layer", x))


def test_a_layer_called_twice_worked_by_hand():
    model, params = Twice(Dense(1, bias=False)), {"layer": {"weight": jnp.array([[3.0]])}}
    x = jnp.array([[5.0], [7.0]])
    y, residuals = model.forward(params, x)
    np.testing.assert_array_equal(y, [[45], [63]])
    dx, gradient = jaxbp.sweep(model, params, residuals, jnp.ones((2, 1)))
    np.testing.assert_array_equal(dx, [[9], [9]])
    assert gradient["layer"]["weight"] == 2 * 5 * 3 + 2 * 7 * 3
    kept = jaxbp.sweep(model, params, residuals, jnp.ones((2, 1)), jaxbp.keep)[1]
    assert jaxbp.revisit(model, params, kept)["layer"]["weight"] == 72


@pytest.mark.parametrize(
    "inner",
    [
        Dense(3),
        Serial(Dense(3), Tanh()),
        Repeat(Serial(Dense(3), Tanh()), 2),
        Twice(Serial(Dense(3), Tanh())),
        jaxbp.Recompute(Dense(3)),
        Serial(jaxbp.Reshape((3, 1)), jaxbp.GRU(3, last=True)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_per_example_norms_and_gradients_of_shared_layers_are_exact(inner):
    model, loss = Serial(Dense(3), Twice(inner)), jaxbp.SoftmaxCrossEntropy()
    labels = jnp.array([0, 2, 1, 1])
    with jax.enable_x64(True):
        x = X.astype(float)
        params = model.init(jax.random.key(1), x)
        wanted = {"each": jaxbp.per_example_gradients, "norms": jaxbp.per_example_norms, "all": jaxbp.param_gradient}
        _, found = jaxbp.value_and_quantities(model, loss, wanted)(params, x, labels)

        def of_one(params, x, label):
            return loss.forward(model(params, x[None]), label[None])[0]

        true = jax.vmap(jax.grad(of_one), (None, 0, 0))(params, x, labels)
        squares = sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(true))
        np.testing.assert_allclose(found["norms"], jnp.sqrt(squares), rtol=1e-12)
        mean = jax.tree.map(lambda g: g.mean(0), true)
        for ours, theirs in ((found["all"], mean), (over_inner(found["each"]), over_inner(true))):
            for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


def over_inner(gradients):
    """Sums over a stacked axis, which stands before the examples in ours and behind them in vmap's."""
    return jax.tree.map(lambda g: jnp.sum(jnp.square(g)), gradients)


def test_each_use_of_a_shared_layer_has_a_key_of_its_own():
    y = Twice(Dropout(0.5)).forward({"layer": ()}, jnp.ones((1, 400)), jax.random.key(0))[0]
    assert 60 < (y == 4).sum() < 140  # a quarter survives both, where one mask for both would leave half


def test_an_edit_meets_every_use_of_a_shared_layer():
    model, params = Twice(Dense(1, bias=False)), {"layer": {"weight": jnp.array([[3.0]])}}
    y, residuals = model.forward(params, X[:, :1])
    dx, _ = jaxbp.sweep(model, params, residuals, jnp.ones_like(y), edits={"layer": lambda site: 10 * site.g})
    np.testing.assert_allclose(dx, 900)


def test_integers_pass_through_a_wiring_without_a_gradient():
    model = Serial(Select(0), jaxbp.MapValues(Dense(2)), jaxbp.DropLengths())
    x = (jaxbp.Sequences(normal(2, 3, 4), jnp.array([1, 3])), jnp.array([7, 8]))
    agrees_with_autodiff(model, x, normal(2, 3, 2, seed=1))


def test_a_composite_keeps_its_class_when_its_children_change():
    model = jaxbp.MultiHeadAttention(4, 2, rotary=True)
    other = model.rebuild(model.children | {"output": Identity()})
    assert isinstance(other, jaxbp.MultiHeadAttention)
    assert other.children["output"] == Identity()
    assert other != model
    assert str(other) == str(model)


def test_serial_and_parallel_take_names():
    model = Serial(hidden=Dense(3), act=Tanh(), out=jaxbp.Parallel(mean=Dense(1), size=Dense(2)))
    params = model.init(jax.random.key(0), X)
    assert set(params["out"]) == {"mean", "size"}
    assert set(model(params, X)) == {"mean", "size"}
    assert list(jaxbp.leaves(model, params)) == ["hidden", "act", "out.mean", "out.size"]
    assert str(model) == "Serial(hidden=Dense(3), act=Tanh(), out=Parallel(mean=Dense(1), size=Dense(2)))"
    agrees_with_autodiff(model, X, {"mean": normal(4, 1), "size": normal(4, 2)})


def wrong(deed, **children):
    """A composite whose wiring does `deed`."""

    @dataclass(frozen=True)
    class Wrong(jaxbp.Composite):
        body: Layer = Dense(3)

        def wire(self, call, x):
            return deed(call, x)

    return Wrong()


def condition(call, x):
    return call("body", x) if x > 0 else x


MISTAKES = {
    "a function": (
        lambda call, x: jnp.tanh(call("body", x)),
        r'applies a function to a value, after call\("body", …\)',
    ),
    "numpy": (lambda call, x: np.asarray(call("body", x)), "applies a function to the result"),
    "an operator": (lambda call, x: call("body", x) * 2, "computes with the result"),
    "a slice": (lambda call, x: call("body", x)[:, 0], "looks inside of the result"),
    "a shape": (lambda call, x: call("body", x).shape, r"takes \.shape of the result"),
    "a condition": (condition, "compares the input"),
    "a truth": (lambda call, x: call("body", x) if x else x, "takes as a condition the input"),
    "unpacking": (lambda call, x: [*call("body", x)], "looks inside of the result"),
    "an unknown child": (lambda call, x: call("head", x), r'calls "head", which is not one of its children: "body"'),
    "no call": (lambda call, x: x, r'never calls "body"; call each child, or drop its field'),
    "a number": (
        lambda call, x: call("body", (x, 2.0)),
        r'the input of call\("body", …\) holds float, which came neither',
    ),
    "an array": (lambda call, x: (call("body", x), jnp.ones(3)), "its output holds float32"),
    "unequal shapes": (
        lambda call, x: call("body", x) + x,
        r"adds float32\[4, 3\], the result of call.* to float32\[4, 2\]",
    ),
    "unequal trees": (
        lambda call, x: call("body", x) + (x,),  # noqa: RUF005
        "adds <the result of call.* only single values can be added",
    ),
}


@pytest.mark.parametrize(("deed", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_wiring_is_told_in_one_sentence_that_names_the_composite_and_the_call(deed, message):
    with pytest.raises(LayerError, match=r'layer "0", Wrong\(\).*' + message) as error:
        Serial(wrong(deed)).init(jax.random.key(0), normal(4, 2))
    assert "\n" not in str(error.value)


def test_a_composite_without_a_wiring_says_so():
    class Empty(jaxbp.Composite):
        pass

    with pytest.raises(LayerError, match=r"doesn't define wire\(call, x\)"):
        Empty().init(jax.random.key(0), X)


def test_unused_outputs_get_zeros_and_the_input_may_be_the_output():
    @dataclass(frozen=True)
    class Half(jaxbp.Composite):
        body: Layer = Serial(Dense(4), Split(2))

        def wire(self, call, x):
            return call("body", x)[0], x

    agrees_with_autodiff(Half(), X, (normal(4, 2), normal(4, 3)))


def test_sums_of_several_values_are_added_in_both_directions():
    @dataclass(frozen=True)
    class Sums(jaxbp.Composite):
        a: Layer = Dense(3)
        b: Layer = Dense(3)

        def wire(self, call, x):
            return sum([call("a", x), call("b", x), x, x])

    agrees_with_autodiff(Sums(), X, normal(4, 3, seed=2))


@pytest.mark.parametrize("split", [False, True])
def test_vmap_is_an_ensemble_of_layers_side_by_side(split):
    body = Serial(Dense(2), Tanh(), Dropout(0.5))
    model = jaxbp.Vmap(body, 3, split)
    x = normal(4, 3, 5) if split else normal(4, 5)
    agrees_with_autodiff(model, x, normal(4, 3, 2, seed=1), jax.random.key(3))
    params = model.init(jax.random.key(0), x)
    y = model(params, x)
    for i in range(3):
        own = jax.tree.map(lambda p, i=i: p[i], params["body"])
        np.testing.assert_allclose(y[:, i], body(own, x[:, i] if split else x), rtol=1e-6)


def test_vmap_obeys_the_layer_laws_and_refuses_what_does_not_fit():
    jaxbp.check_layer(jaxbp.Vmap(Dense(2), 3), X)
    with pytest.raises(ValueError, match="positive whole number of layers"):
        jaxbp.Vmap(Dense(2), 0)
    params = jaxbp.Vmap(Dense(2), 3).init(jax.random.key(0), X)
    with pytest.raises(LayerError, match="stacked over 2 layers"):
        jaxbp.Vmap(Dense(2), 2).forward(params, X)
    with pytest.raises(LayerError, match=r"expected inputs \[examples, 3, \.\.\.\]"):
        jaxbp.Vmap(Dense(2), 3, split=True).forward(params, normal(4, 2, 3))


def test_add_joins_what_parallel_layers_give():
    agrees_with_autodiff(Serial(jaxbp.Parallel(Dense(2), Identity()), Add()), normal(4, 2), normal(4, 2, seed=1))
