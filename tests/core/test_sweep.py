import chex
import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp import Add, Concatenate, Dense, Dropout, LayerError, Parallel, Recompute, Repeat, Residual, Serial, Tanh
from tests.support.arrays import normal

BLOCK = Serial(Dense(3), Tanh())
EVERYTHING = Serial(
    Dense(3),
    Residual(BLOCK),
    Residual(Recompute(BLOCK), Dense(3)),
    Serial(Parallel(Dense(3), BLOCK), Add()),
    Repeat(Recompute(Serial(Parallel(Residual(BLOCK), Dense(3)), Add())), 2),
    Dense(2),
)
PATHS = [
    "0", "1.body.0", "1.body.1", "2.body.body.0", "2.body.body.1", "2.shortcut", "3.0.0", "3.0.1.0", "3.0.1.1", "3.1",
    "4.body.body.0.0.body.0", "4.body.body.0.0.body.1", "4.body.body.0.1", "4.body.body.1", "5",
]  # fmt: skip
X, G = normal(4, 3), normal(4, 2)


@pytest.fixture(scope="module")
def run():
    """Parameters, residuals, and what a plain sweep gives."""
    params = EVERYTHING.init(jax.random.key(0), X)
    _, residuals = EVERYTHING.forward(params, X)
    return params, residuals, *jaxbp.sweep(EVERYTHING, params, residuals, G)


def test_a_sweep_is_the_vector_jacobian_product(run):
    params, _, dx, gradient = run
    _, pull_back = jax.vjp(lambda params, x: EVERYTHING.forward(params, x)[0], params, X)
    chex.assert_trees_all_close((gradient, dx), pull_back(G), rtol=1e-5, atol=1e-6)


def test_every_leaf_layer_is_visited_once_and_named_by_its_path(run):
    params, residuals, *_ = run
    seen = []
    jaxbp.sweep(EVERYTHING, params, residuals, G, visit=lambda site: seen.append((site.path, type(site.layer))))
    assert sorted(path for path, _ in seen) == sorted(PATHS)
    assert seen[0] == ("5", Dense)
    assert seen[-1] == ("0", Dense)


def test_what_a_sweep_collects_mirrors_the_model_and_can_be_listed_by_path(run):
    params, residuals, _, gradient = run
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    _, deltas = jaxbp.sweep(EVERYTHING, params, residuals, G, visit=jaxbp.delta)
    by_path = jaxbp.leaves(EVERYTHING, deltas)
    assert list(by_path) == PATHS
    chex.assert_trees_all_equal(by_path["5"], G)
    chex.assert_shape(by_path["4.body.body.0.1"], (2, 4, 3))


def test_keeping_now_and_revisiting_later_gives_the_same_gradient(run):
    params, residuals, _, gradient = run
    _, kept = jaxbp.sweep(EVERYTHING, params, residuals, G, visit=jaxbp.keep)
    chex.assert_trees_all_close(jaxbp.revisit(EVERYTHING, params, kept), gradient, rtol=1e-6)
    deltas = jaxbp.revisit(EVERYTHING, params, kept, jaxbp.delta)
    assert list(jaxbp.leaves(EVERYTHING, deltas)) == PATHS


def test_deltas_can_be_reweighted_between_the_two_halves(run):
    params, residuals, _, gradient = run
    _, kept = jaxbp.sweep(EVERYTHING, params, residuals, G, visit=jaxbp.keep)
    halved = jaxbp.revisit(
        EVERYTHING,
        params,
        kept,
        lambda site: jaxbp.param_gradient(jaxbp.Site(site.path, site.layer, site.params, site.residuals, site.g / 2)),
    )
    chex.assert_trees_all_close(halved, jax.tree.map(lambda a: a / 2, gradient), rtol=1e-6)


def line(*weights):
    return tuple({"weight": jnp.array([[float(w)]])} for w in weights)


def test_an_edit_replaces_a_delta_before_its_layer_is_visited():
    model, params, one = Serial(*[Dense(1, bias=False)] * 3), line(2, 3, 5), jnp.array([[1.0]])
    _, residuals = model.forward(params, one)
    dx, deltas = jaxbp.sweep(model, params, residuals, one, jaxbp.delta, edits={"1": lambda site: site.g + 2})
    chex.assert_trees_all_equal(deltas, (jnp.array([[21.0]]), jnp.array([[7.0]]), one))  # 5 + 2 = 7, times 3
    assert dx == 42


@pytest.mark.parametrize("path", ["", "1", "2.body", "2.shortcut", "3.0.1", "4", "4.body", "4.body.body.0.0.body.1"])
def test_an_edit_by_zero_silences_all_that_lies_below_it(run, path):
    params, residuals, _, gradient = run
    _, edited = jaxbp.sweep(
        EVERYTHING, params, residuals, G, edits={path: lambda site: jax.tree.map(jnp.zeros_like, site.g)}
    )
    inside = {p: g for p, g in jaxbp.leaves(EVERYTHING, edited).items() if p.startswith(path)}
    assert not any(leaf.any() for leaf in jax.tree.leaves(inside))
    if path:
        chex.assert_trees_all_equal(edited[5], gradient[5])
    chex.assert_trees_all_equal_shapes(edited, gradient)


def test_an_edit_on_a_parallel_gets_the_tuple_of_its_deltas(run):
    params, residuals, *_ = run
    _, deltas = jaxbp.sweep(
        EVERYTHING, params, residuals, G, jaxbp.delta, edits={"3.0": lambda site: (site.g[0], 0 * site.g[1])}
    )
    by_path = jaxbp.leaves(EVERYTHING, deltas)
    assert by_path["3.0.0"].any()
    assert not by_path["3.0.1.1"].any()


def test_an_edit_of_another_shape_names_the_path_and_both_shapes(run):
    params, residuals, *_ = run
    with pytest.raises(LayerError, match=r'layer "1.body.0".*like float32\[4, 3\], but returned float32\[4\]'):
        jaxbp.sweep(EVERYTHING, params, residuals, G, edits={"1.body.0": lambda site: site.g[:, 0]})


def test_an_edit_that_returns_nothing_is_refused(run):
    params, residuals, *_ = run
    with pytest.raises(LayerError, match=r'layer "5".*but returned NoneType'):
        jaxbp.sweep(EVERYTHING, params, residuals, G, edits={"5": lambda site: None})


def test_an_edit_of_a_layer_that_is_not_there_lists_the_paths(run):
    params, residuals, *_ = run
    with pytest.raises(ValueError, match=r'no layer "7"; its paths are "", "0", "1", "1.body"'):
        jaxbp.sweep(EVERYTHING, params, residuals, G, edits={"7": lambda site: site.g})


def test_feedback_replaces_the_weights_that_the_error_travels_through_and_no_others():
    model, params, one = Serial(*[Dense(1, bias=False)] * 3), line(2, 3, 5), jnp.array([[1.0]])
    _, residuals = model.forward(params, one)
    dx, deltas = jaxbp.sweep(model, params, residuals, one, jaxbp.delta, feedback=(None, *line(-1, 10)))
    chex.assert_trees_all_equal(deltas, (jnp.array([[-10.0]]), jnp.array([[10.0]]), one))
    assert dx == -20


def test_feedback_equal_to_the_parameters_or_none_of_it_changes_nothing(run):
    params, residuals, dx, gradient = run
    for feedback in [params, tuple(None for _ in params), (*params[:4], {"body": None}, None)]:
        ours = jaxbp.sweep(EVERYTHING, params, residuals, G, feedback=feedback)
        chex.assert_trees_all_close(ours, (dx, gradient), rtol=1e-6)


def test_feedback_reaches_into_every_composition(run):
    params, residuals, true, _ = run
    zeros = jax.tree.map(jnp.zeros_like, params)
    for i in range(6):
        dx, _ = jaxbp.sweep(
            EVERYTHING, params, residuals, G, feedback=tuple(zeros[i] if i == j else None for j in range(6))
        )
        assert (dx != true).any()


def test_a_residual_sends_the_error_past_its_body():
    model, params = Residual(Dense(3)), {"body": {"weight": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    _, residuals = model.forward(params, X)
    g = normal(4, 3, seed=1)
    dx, _ = jaxbp.sweep(model, params, residuals, g, feedback=jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(dx, g)


class Transposed(Dense):
    def param_gradient(self, params, x, g):
        return {"weight": super().param_gradient(params, x, g)["weight"].T, "bias": g.sum(0)}


def test_a_gradient_of_another_shape_than_its_parameter_is_refused_by_path():
    model = Serial(Tanh(), Residual(Serial(Transposed(2), Dense(3))))
    params = model.init(jax.random.key(0), X)
    _, residuals = model.forward(params, X)
    with pytest.raises(LayerError, match=r'layer "1.body.0".*weight: float32\[2, 3\].*weight: float32\[3, 2\]'):
        jaxbp.sweep(model, params, residuals, X)


def test_one_layer_alone_is_a_model():
    params = {"weight": jnp.array([[2.0]])}
    dx, gradient = jaxbp.sweep(Dense(1, bias=False), params, jnp.array([[3.0]]), jnp.array([[10.0]]))
    assert dx == 20
    chex.assert_trees_all_equal(gradient, {"weight": jnp.array([[30.0]])})


def test_a_sweep_takes_trees_of_deltas_through_a_model_that_ends_in_several_outputs():
    model = Parallel(Dense(2), Serial(Dropout(0.5), Dense(1)))
    params = model.init(jax.random.key(0), X)
    y, residuals = model.forward(params, X, jax.random.key(1))
    _, pull_back = jax.vjp(lambda params, x: model.forward(params, x, jax.random.key(1))[0], params, X)
    dx, gradient = jaxbp.sweep(model, params, residuals, y)
    chex.assert_trees_all_close((gradient, dx), pull_back(y), rtol=1e-5, atol=1e-6)


def test_integer_inputs_have_no_gradient_through_any_composition():
    class Lookup(Dense):
        def forward(self, params, x, rng=None):
            return params["weight"][x], x

        def init(self, key, x):
            return {"weight": jnp.ones((5, self.outputs))}

        def input_gradient(self, params, x, g):
            return None

        def param_gradient(self, params, x, g):
            return {"weight": jnp.zeros_like(params["weight"]).at[x].add(g)}

    model = Serial(Recompute(Parallel(Lookup(2), Serial(Lookup(1)))), Concatenate())
    tokens = jnp.array([0, 1, 1])
    params = model.init(jax.random.key(0), tokens)
    y, residuals = model.forward(params, tokens)
    dx, gradient = jaxbp.sweep(model, params, residuals, jnp.ones_like(y))
    assert dx is None
    assert gradient[0]["body"][0]["weight"][:, 0].tolist() == [1, 2, 0, 0, 0]
