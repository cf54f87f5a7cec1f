import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxbp
from jaxbp import GRU, LSTM, RNN, Bidirectional, Dense, DropLengths, LayerError, LayerNorm, MapValues, Sequences, Serial
from jaxbp.layers.recurrent import bptt as recurrence
from jaxbp.quantities.per_example import per_example_gradients
from tests.support.arrays import labels, normal

N, TIMES, INPUTS, OUTPUTS = 3, 4, 2, 3
KEY, X, LENGTHS = jax.random.key(3), normal(N, TIMES, INPUTS), jnp.array([2, 4, 1])
CELLS = [RNN, GRU, LSTM]


def states(*cells):
    """A random state for each cell."""
    return tuple(
        tuple(normal(N, OUTPUTS, seed=9 * j + i) for i in range(1 + (cell is LSTM))) for j, cell in enumerate(cells)
    )


def test_what_the_cells_share_obeys_the_layer_laws():
    jaxbp.check_layer(LSTM(2, reverse=True), Sequences(X[:2, :3], jnp.array([2, 3])))


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_keeps_the_precision_that_comes_in(cell):
    layer = cell(OUTPUTS)

    def run(params, x):
        y, residuals = layer.forward(params, x)
        return y, residuals, jaxbp.sweep(layer, params, residuals, Sequences(y.values, None, (), y.ended))

    arguments = jax.eval_shape(layer.init, KEY, X), Sequences(X, None, states(cell))
    found = jax.eval_shape(run, *jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), arguments))
    assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("cell", "in_halves"), [(cell, halves) for cell in CELLS for halves in (False, True)])
def test_gradients_agree_with_autodiff_whatever_the_lengths_and_padding_changes_nothing(cell, in_halves, monkeypatch):
    if in_halves:  # as large layers are
        monkeypatch.setattr(recurrence, "LARGE", 0)
        monkeypatch.setattr(recurrence, "MANY", 0)
    layer = Bidirectional(cell(OUTPUTS, dropout=0.5))
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda a: a.astype(float), tree)  # noqa: E731
        x, begin, params = wide((X, states(cell, cell), layer.init(KEY, X)))
        g = Sequences(wide(normal(N, TIMES, 2 * OUTPUTS)), None, (), wide(states(cell, cell)))

        @jax.jit
        def both(x, lengths):
            def run(params, x, begin):
                return layer.forward(params, Sequences(x, lengths, begin), KEY)

            def outputs(*arguments):
                y, _ = run(*arguments)
                return y.values, y.ended

            y, residuals = run(params, x, begin)
            dx, dparams = jaxbp.sweep(layer, params, residuals, g)
            _, pull_back = jax.vjp(outputs, params, x, begin)
            return y, (dparams, dx.values, dx.states), pull_back((g.values, g.ended))

        @settings(max_examples=20, deadline=None)
        @given(st.lists(st.integers(0, TIMES), min_size=N, max_size=N))
        def check(lengths):
            lengths = jnp.array(lengths)
            y, ours, true = both(x, lengths)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, true)
            padding = (jnp.arange(TIMES) >= lengths[:, None])[..., None]
            assert not jnp.where(padding, y.values, 0).any()
            assert not jnp.where(padding, ours[1], 0).any()
            spoilt = both(jnp.where(padding, jnp.nan, x), lengths)
            jax.tree.map(np.testing.assert_array_equal, spoilt[:2], (y, ours))

        check()


def back(layer, params, x, g):
    """Outputs, ∂J/∂x and the gradients."""

    @jax.jit
    def run(params, x, g):
        y, residuals = layer.forward(params, x)
        return y, *jaxbp.sweep(layer, params, residuals, g)

    return run(params, x, g)


@pytest.mark.parametrize("reverse", [False, True])
def test_each_sequence_runs_as_if_it_were_alone(reverse):
    layer = LSTM(OUTPUTS, reverse=reverse)
    params = layer.init(KEY, X)
    run, lengths = jax.jit(layer.forward), jnp.array([2, 4, 2])
    y, _ = run(params, Sequences(X, lengths))
    for n, length in enumerate(lengths):
        alone, _ = run(params, X[n : n + 1, :length])
        np.testing.assert_allclose(y.values[n, :length], alone[0], atol=1e-6)
    last, _ = jax.jit(LSTM(OUTPUTS, last=True, reverse=reverse).forward)(params, Sequences(X, lengths))
    at = 0 if reverse else lengths - 1
    np.testing.assert_allclose(last, y.values[jnp.arange(N), at], atol=1e-6)


def test_an_lstm_without_weights_worked_by_hand():
    layer, x = LSTM(1), jnp.zeros((1, 2, 1))
    params = jax.tree.map(jnp.zeros_like, layer.init(KEY, x))  # i = f = o = 1/2 and g = 0: the memory halves
    begin = ((jnp.zeros((1, 1)), jnp.full((1, 1), 4.0)),)
    g = Sequences(jnp.zeros((1, 2, 1)), None, (), ((jnp.zeros((1, 1)), jnp.ones((1, 1))),))  # J = c[2]
    y, dx, gradient = back(layer, params, Sequences(x, None, begin), g)
    np.testing.assert_allclose(y.values[0, :, 0], [np.tanh(2) / 2, np.tanh(1) / 2], rtol=1e-6)
    assert dx.states[0][1] == 0.25  # f f
    # δ_i = ∂c g i (1 - i) = 0;  δ_f = ∂c c f (1 - f) = 1/2 · 4/4 + 1 · 2/4;  δ_g = ∂c i = 1/4 + 1/2;  δ_o = 0
    np.testing.assert_allclose(gradient["recurrent"]["bias"], [0, 1, 0.75, 0])


def test_an_rnn_and_a_gru_worked_by_hand():
    x, g = jnp.array([[[1.0], [0.0]]]), jnp.array([[[0.0], [1.0]]])  # J = h[2]
    rnn = {"input": {"weight": jnp.ones((1, 1))}, "recurrent": {"weight": jnp.full((1, 1), 2.0), "bias": jnp.zeros(1)}}
    y, dx, gradient = back(RNN(1), rnn, x, g)
    h = np.tanh(1), np.tanh(2 * np.tanh(1))
    np.testing.assert_allclose(y[0, :, 0], h, rtol=1e-6)
    delta = (1 - h[1] ** 2) * 2 * (1 - h[0] ** 2), 1 - h[1] ** 2
    np.testing.assert_allclose(dx[0, :, 0], delta, rtol=1e-5)
    np.testing.assert_allclose(gradient["recurrent"]["weight"], [[h[0] * delta[1]]], rtol=1e-5)
    gru = jax.tree.map(jnp.zeros_like, GRU(1).init(KEY, x))  # r = u = 1/2, m = 0: the state halves
    g = Sequences(g, None, (), ((jnp.zeros((1, 1)),),))
    y, _, gradient = back(GRU(1), gru, Sequences(x, None, ((jnp.full((1, 1), 4.0),),)), g)
    np.testing.assert_allclose(y.values[0, :, 0], [2, 1])
    # ∂h = 1/2, 1;  δ_u = ∂h (h[t-1] - m) / 4 = 1/2, 1/2;  δ_m = ∂h / 2 = 1/4, 1/2;  γ_m = δ_m / 2
    np.testing.assert_allclose(gradient["input"]["bias"], [0, 1, 0.75])
    np.testing.assert_allclose(gradient["recurrent"]["bias"], [0, 1, 0.375])


def test_a_stack_of_padded_sequences_has_the_gradients_of_autodiff():
    model = Serial(LSTM(4), MapValues(LayerNorm()), Bidirectional(GRU(4, last=True)), Dense(2))
    loss, x, targets = jaxbp.SoftmaxCrossEntropy(), Sequences(X, LENGTHS), labels(N, 2)
    params = jax.tree.map(lambda a: normal(*a.shape), jax.eval_shape(model.init, KEY, x))

    @jax.jit
    def both(params):
        true = jax.grad(lambda params: loss.forward(model.forward(params, x)[0], targets)[0])
        return jaxbp.value_and_grad(model, loss)(params, x, targets)[1], true(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *both(params))


def test_a_shortcut_around_a_recurrent_layer_adds_values_and_leaves_lengths():
    model, x = jaxbp.Residual(RNN(INPUTS)), Sequences(X, LENGTHS)
    params = model.init(KEY, x)
    y, dx, _ = back(model, params, x, Sequences(jnp.ones_like(X)))
    np.testing.assert_array_equal(y.lengths, LENGTHS)
    np.testing.assert_array_equal(y.values[0, 2:], X[0, 2:])
    np.testing.assert_array_equal(dx.values[0, 2:], 1)


def test_values_come_without_lengths_and_their_gradient_goes_back_with_none():
    y, residuals = DropLengths().forward((), Sequences(X, LENGTHS))
    assert y is X
    assert DropLengths().input_gradient((), residuals, y) == Sequences(y)
    assert DropLengths().input_gradient((), DropLengths().forward((), X)[1], X) is X


def test_per_example_gradients_norms_and_kronecker_factors_work_through_time():
    model, loss, y = Serial(GRU(2, last=True), Dense(2)), jaxbp.SoftmaxCrossEntropy(), labels(N, 2)
    params = jax.tree.map(lambda a: normal(*a.shape), jax.eval_shape(model.init, KEY, X))

    def of_one(params, tap, x, y):
        """Loss and h[t-1] of one example, step by step, with a tap on the pre-activations p of each time."""
        (cell, dense), h, before = params, jnp.zeros(2), []
        for x_t, tap_t in zip(x, tap, strict=True):
            before.append(h)
            z = x_t @ cell["input"]["weight"] + cell["input"]["bias"]
            p = h @ cell["recurrent"]["weight"] + cell["recurrent"]["bias"] + tap_t
            r, u = jax.nn.sigmoid(z[:2] + p[:2]), jax.nn.sigmoid(z[2:4] + p[2:4])
            h = (1 - u) * jnp.tanh(z[4:] + r * p[4:]) + u * h
        return loss.forward((h @ dense["weight"] + dense["bias"])[None], y[None])[0], jnp.stack(before)

    @jax.jit
    def both(params):
        each = jax.vmap(jax.grad(of_one, (0, 1), has_aux=True), (None, None, 0, 0))
        quantities = {"each": per_example_gradients, "norms": jaxbp.per_example_norms}
        _, found = jaxbp.value_and_quantities(model, loss, quantities)(params, X, y)
        *_, factors = jaxbp.kronecker_factors(model, loss, jaxbp.Empirical())(params, X, y)
        return found, factors[0]["recurrent"], each(params, jnp.zeros((TIMES, 6)), X, y)

    found, factors, ((gradients, gamma), before) = both(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found["each"], gradients)
    squares = [jnp.square(a).reshape(N, -1).sum(1) for a in jax.tree.leaves(gradients)]
    np.testing.assert_allclose(found["norms"], np.sqrt(sum(squares)), rtol=1e-4)
    a = np.concatenate([before, np.ones((N, TIMES, 1))], -1)
    np.testing.assert_allclose(factors.inputs, np.einsum("nti,ntj->ij", a, a) / (N * TIMES), atol=1e-5)
    np.testing.assert_allclose(factors.outputs, np.einsum("nto,ntp->op", gamma, gamma) / N, atol=1e-5)


def test_chunks_give_the_values_of_the_unbroken_run():
    model, loss = Serial(LSTM(2), RNN(2), MapValues(Dense(2))), jaxbp.SoftmaxCrossEntropy()
    params, y = model.init(KEY, X), labels(N * TIMES, 2).reshape(N, TIMES)
    step = jax.jit(jaxbp.truncated_value_and_grad(model, loss))
    carried, values = jaxbp.initial_states(model, N), []
    for half in (slice(0, 2), slice(2, 4)):
        begin = carried
        value, gradient, carried = step(params, X[:, half], y[:, half], begin)
        values.append(value)

    @jax.jit
    def true(params, begin):
        def second_half(params):
            return loss.forward(model.forward(params, Sequences(X[:, 2:], None, begin))[0].values, y[:, 2:])[0]

        return loss.forward(model.forward(params, X)[0], y)[0], jax.grad(second_half)(params)

    value, true_gradient = true(params, begin)
    np.testing.assert_allclose(sum(values) / 2, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, true_gradient)


def test_dropout_hides_the_same_outputs_at_all_times_and_none_without_a_key():
    layer, x, g = RNN(50, dropout=0.5), jnp.ones((1, 3, 1)), jnp.ones((1, 3, 50))
    params = layer.init(KEY, x)

    @jax.jit
    def before(params):
        _, residuals = layer.forward(params, x, KEY)
        return jaxbp.sweep(layer, params, residuals, g, jaxbp.keep)[1]["recurrent"][0][0]

    hidden = before(params)[1:] == 0
    assert (hidden[0] == hidden[1]).all()
    assert 10 < hidden[0].sum() < 40
    assert jax.eval_shape(layer.forward, params, x)[1]["recurrent"].mask is None


def test_initial_weights_keep_lengths_and_an_lstm_begins_by_keeping():
    params = LSTM(4).init(KEY, jax.ShapeDtypeStruct((1, 1, 2), jnp.bfloat16))["recurrent"]
    assert params["weight"].dtype == jnp.bfloat16
    for block in jnp.split(LSTM(4).init(KEY, X)["recurrent"]["weight"], 4, 1):
        np.testing.assert_allclose(block @ block.T, np.eye(4), atol=1e-6)
    np.testing.assert_array_equal(params["bias"], 4 * [0] + 4 * [1] + 8 * [0])


MODEL = Serial(LSTM(3), GRU(3))
SHAPE = jax.eval_shape(MODEL.init, KEY, X)
WRONG = {
    "rank": (X[0], r'layer "0", LSTM\(3\): expected \[examples, time, features\], got float32\[4, 2\]'),
    "integers": (X.astype(int), r'layer "0", .*floating-point input, got int32'),
    "no time": (X[:, :0], "at least one time"),
    "a length too long": (Sequences(X, LENGTHS + 1), r'layer "0", .* from 0 to 4, .* got 5 for sequence 1'),
    "a negative length": (Sequences(X, LENGTHS - 3), "got -1 for sequence 0"),
    "the number of lengths": (Sequences(X, LENGTHS[:2]), r"one integer length for each of 3 sequences, got int32\[2\]"),
    "lengths that are no integers": (Sequences(X, 1.0 * LENGTHS), r"one integer length .* got float32\[3\]"),
    "nothing beside the values": (Sequences(X), "give the values alone"),
    "the state of another cell": (
        Sequences(X, None, states(GRU)),
        r'layer "0", .* a state \(\[3, 3\], \[3, 3\]\), got \(float32\[3, 3\]\)',
    ),
    "a state too few": (Sequences(X, None, states(LSTM)), 'layer "1", .*none is left; .*initial_states'),
    "an array for a state": (Sequences(X, None, X), r"one state for each recurrent layer, got float32\[3, 4, 2\]"),
}


@pytest.mark.parametrize(("x", "message"), WRONG.values(), ids=WRONG)
def test_wrong_sequences_are_told_by_path(x, message):
    with pytest.raises(LayerError, match=message):
        jax.eval_shape(lambda params: MODEL.forward(params, x)[0], SHAPE)


def test_what_can_not_be_built_or_would_be_lost_is_told():
    with pytest.raises(ValueError, match="LSTM needs a positive whole number of outputs, not 0"):
        LSTM(0)
    with pytest.raises(ValueError, match="GRU needs 0 <= dropout < 1"):
        GRU(2, dropout=1.0)
    with pytest.raises(TypeError, match=r"Bidirectional takes LSTM\(…\).* not Dense\(3\)"):
        Bidirectional(Dense(3))
    with pytest.raises(ValueError, match="no recurrent layer in Dense"):
        jaxbp.initial_states(Dense(3), 2)
    with pytest.raises(ValueError, match="multiple of the inputs"):
        jaxbp.Orthogonal()(KEY, (3, 4), jnp.float32)
    with pytest.raises(LayerError, match=r'"recurrent", .*expected parameters \{bias \[9\], weight \[3, 9\]\}, got'):
        GRU(3).forward({"input": GRU(3).init(KEY, X)["input"], "recurrent": {"weight": jnp.ones((3, 9))}}, X)
    last, begin = LSTM(3, last=True), states(LSTM)
    with pytest.raises(LayerError, match="with last=True the states would be lost"):
        last.forward(last.init(KEY, X), Sequences(X, None, begin))
    with pytest.raises(LayerError, match="states would be lost"):
        DropLengths().forward((), Sequences(X, None, begin))
    pooled = MapValues(jaxbp.Flatten())
    with pytest.raises(LayerError, match="the lengths would no longer fit"):
        pooled.forward({"body": ()}, Sequences(X, LENGTHS))
    with pytest.raises(LayerError, match="has 1 recurrent layers, but got 2 states"):
        jaxbp.truncated_value_and_grad(RNN(3), jaxbp.HalfSquaredError())(
            RNN(3).init(KEY, X), X, normal(N, TIMES, 3), states(RNN, RNN)
        )
