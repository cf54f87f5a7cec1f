import chex
import jax
import jax.numpy as jnp
import pytest

from jaxbp import (
    Add,
    Concatenate,
    Dense,
    Dropout,
    Identity,
    LayerError,
    Parallel,
    Recompute,
    ReLU,
    Repeat,
    Residual,
    Serial,
    Tanh,
    check_layer,
)
from tests.support.arrays import normal

BLOCK = Serial(Dense(3), Tanh())
X = normal(4, 3)


@pytest.mark.parametrize(
    "layer",
    [
        Serial(Dense(3), Tanh(), Dense(2)),
        Residual(BLOCK),
        Residual(Dense(2), Dense(2)),
        Serial(Parallel(Dense(3), BLOCK), Add()),
        Serial(Parallel(Dense(3), Dense(2), Identity()), Concatenate()),
        Parallel(Dense(3), Tanh()),
        Repeat(BLOCK, 3),
        Recompute(BLOCK),
        Repeat(Recompute(Serial(Parallel(BLOCK, Residual(BLOCK)), Add())), 2),
        Repeat(Repeat(BLOCK, 2), 2),
    ],
    ids=str,
)
def test_compositions_obey_the_layer_laws(layer):
    check_layer(layer, X)


@pytest.mark.parametrize(
    "wrap", [Recompute, Residual, lambda layer: Repeat(layer, 2)], ids=["recompute", "residual", "repeat"]
)
def test_compositions_obey_the_laws_in_training_too(wrap):
    check_layer(wrap(Dropout(0.5)), X, rng=jax.random.key(1))


def one(weight):
    """The parameters of Dense(1, bias=False) with one input."""
    return {"weight": jnp.array([[float(weight)]])}


LINE, ONE, TEN = Dense(1, bias=False), jnp.array([[1.0]]), jnp.array([[10.0]])


@pytest.mark.parametrize(
    ("layer", "params", "y", "dx", "gradient"),
    [  # x = 1, g = 10
        (Serial(LINE, LINE), (one(2), one(3)), 6, 60, (one(30), one(20))),
        (Residual(LINE), {"body": one(2)}, 3, 30, {"body": one(10)}),
        (Residual(LINE, LINE), {"body": one(2), "shortcut": one(3)}, 5, 50, {"body": one(10), "shortcut": one(10)}),
        (Serial(Parallel(LINE, LINE), Add()), ((one(2), one(3)), ()), 5, 50, ((one(10), one(10)), ())),
        (
            Repeat(LINE, 2),
            {"body": {"weight": jnp.array([[[2.0]], [[3.0]]])}},
            6,
            60,
            {"body": {"weight": jnp.array([[[30.0]], [[20.0]]])}},
        ),
        (Recompute(LINE), {"body": one(2)}, 2, 20, {"body": one(10)}),
    ],
    ids=str,
)
def test_compositions_match_a_case_worked_by_hand(layer, params, y, dx, gradient):
    ours, residuals = layer.forward(params, ONE)
    chex.assert_trees_all_equal(ours, jnp.array([[float(y)]]))
    chex.assert_trees_all_equal(layer.input_gradient(params, residuals, TEN), jnp.array([[float(dx)]]))
    chex.assert_trees_all_equal(layer.param_gradient(params, residuals, TEN), gradient)


def test_repeat_draws_other_weights_for_each_turn_and_compiles_its_body_once():
    model, traces = Repeat(Counted(), 5), []
    Counted.traces = traces
    params = model.init(jax.random.key(0), X)
    jax.jit(model.forward)(params, X)
    assert len(traces) == 1
    weights = Repeat(Dense(3), 2).init(jax.random.key(0), X)["body"]["weight"]
    chex.assert_shape(weights, (2, 3, 3))
    assert (weights[0] != weights[1]).all()


class Counted(Identity):
    def forward(self, params, x, rng=None):
        self.traces.append(None)
        return x, ()


def test_each_dropout_of_a_model_draws_its_own_mask():
    ones = jnp.ones((8, 8))
    for model in [Parallel(Dropout(0.5), Dropout(0.5)), Residual(Dropout(0.5), Dropout(0.5))]:
        y, _ = model.forward(
            ((), ()) if isinstance(model, Parallel) else {"body": (), "shortcut": ()}, ones, jax.random.key(0)
        )
        masks = y if isinstance(model, Parallel) else (y == 2,)
        assert (masks[0] != masks[-1]).any() or (y == 2).any()


def test_recompute_keeps_its_input_alone():
    layer = Recompute(Serial(Dense(3), Tanh(), Dense(3)))
    _, residuals = layer.forward(layer.init(jax.random.key(0), X), X)
    assert [leaf.shape for leaf in jax.tree.leaves(residuals)] == [X.shape]


def test_recompute_of_dropout_draws_the_same_mask_twice():
    layer, ones = Recompute(Dropout(0.5)), jnp.ones((8, 8))
    y, residuals = layer.forward({"body": ()}, ones, jax.random.key(0))
    chex.assert_trees_all_equal(layer.input_gradient({"body": ()}, residuals, ones), y)


def test_a_model_is_a_value():
    model = Serial(Dense(3), Residual(BLOCK), Repeat(BLOCK, 2))
    same = Serial(Dense(3), Residual(Serial(Dense(3), Tanh())), Repeat(Serial(Dense(3), Tanh()), 2))
    assert model == same
    assert hash(model) == hash(same)
    assert model != Serial(Dense(3))
    assert Serial(Dense(3)) != Parallel(Dense(3))
    assert (
        str(model)
        == repr(model)
        == ("Serial(Dense(3), Residual(Serial(Dense(3), Tanh())), Repeat(Serial(Dense(3), Tanh()), 2))")
    )


@pytest.mark.parametrize("composite", [Serial, Parallel])
def test_a_model_without_layers_is_refused(composite):
    with pytest.raises(ValueError, match="needs at least one layer"):
        composite()


@pytest.mark.usefixtures("unchecked")
def test_a_class_in_place_of_a_layer_is_refused_with_the_remedy():
    with pytest.raises(
        TypeError, match=r'Serial: child "1" must be a Layer, got .*ReLU.*with brackets, as in ReLU\(\)'
    ):
        Serial(Dense(3), ReLU)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("composite", [Residual, Recompute, lambda layer: Repeat(layer, 2)])
def test_a_function_in_place_of_a_layer_is_refused(composite):
    with pytest.raises(TypeError, match='"body" must be a Layer'):
        composite(jnp.tanh)


def test_repeat_needs_a_turn():
    with pytest.raises(ValueError, match="positive whole number of layers, not 0"):
        Repeat(BLOCK, 0)


def test_repeat_refuses_a_body_that_changes_the_shape():
    model = Serial(Repeat(Dense(2), 2))
    with pytest.raises(LayerError, match=r'layer "0", Repeat.*maps float32\[4, 3\] to float32\[4, 2\]'):
        model.init(jax.random.key(0), X)


def test_repeat_refuses_parameters_for_another_number_of_turns():
    params = Repeat(BLOCK, 2).init(jax.random.key(0), X)
    with pytest.raises(LayerError, match=r"stacked over 3 layers, got .*float32\[2, 3, 3\]"):
        Repeat(BLOCK, 3).forward(params, X)


def test_residual_refuses_a_body_of_another_width():
    model = Serial(Residual(Dense(2)))
    with pytest.raises(
        LayerError, match=r'layer "0".*adds float32\[4, 2\], the result of call\("body", …\), to float32\[4, 3\]'
    ):
        model.forward(({"body": {"weight": jnp.ones((3, 2)), "bias": jnp.ones(2)}},), X)


def test_residual_refuses_a_body_of_width_one_rather_than_broadcast():
    model = Residual(Dense(1))
    with pytest.raises(LayerError, match="make the shapes equal"):
        model.forward(model.init(jax.random.key(0), X), X)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        (Serial(Dense(3), Tanh()), ({},)),
        (Serial(Dense(3), Tanh()), {"weight": X}),
        (Parallel(Dense(3), Tanh()), ()),
        (Residual(Dense(3)), {"body": (), "shortcut": ()}),
        (Residual(Dense(3)), ()),
        (Recompute(Dense(3)), {}),
        (Repeat(Dense(3), 2), ()),
    ],
    ids=str,
)
def test_parameters_of_another_model_are_refused(model, params):
    with pytest.raises(LayerError, match="do they come from this model's init"):
        model.forward(params, X)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (Serial(Identity(), Residual(Serial(Identity(), Dense(3)))), "1.body.1"),
        (Repeat(Parallel(Dense(3), Identity()), 2), "body.0"),
        (Recompute(Residual(Identity(), Dense(3))), "body.shortcut"),
    ],
    ids=str,
)
def test_an_error_names_the_path_through_every_composition(model, path):
    with pytest.raises(LayerError, match=f'layer "{path}", Dense'):
        model.init(jax.random.key(0), jnp.ones((4, 3), jnp.int32))


class Broken(Identity):
    def forward(self, params, x, rng=None):
        raise RuntimeError("a user's own error")


def test_an_error_of_a_layer_of_ones_own_keeps_its_type_and_gets_a_note():
    with pytest.raises(RuntimeError) as caught:
        Serial(Identity(), Residual(Broken())).forward(((), {"body": ()}), X)
    assert [note.strip() for note in caught.value.__notes__] == [
        'raised inside layer "body"',
        'raised inside layer "1"',
    ]
