import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from experiments.memory import __main__ as memory
from experiments.memory.__main__ import (
    ADDING,
    CELLS,
    COPYING,
    Choice,
    Options,
    delta_norms,
    draw_adding,
    draw_copying,
    warped,
)

KEY = jax.random.key(0)


def test_the_sum_of_the_two_marked_numbers_is_asked_for():
    x, targets = draw_adding(KEY, 500, 10)
    numbers, marks = np.asarray(x[..., 0]), np.asarray(x[..., 1])
    assert (marks[:, :5].sum(1) == 1).all()
    assert (marks[:, 5:].sum(1) == 1).all()
    np.testing.assert_allclose(targets[:, 0], numbers[marks == 1].reshape(500, 2).sum(1), rtol=1e-6)
    assert float(np.mean((np.asarray(targets) - 1) ** 2)) == pytest.approx(ADDING.chance, abs=0.02)


def test_the_symbols_are_asked_for_after_the_sign():
    x, targets = draw_copying(KEY, 20, 7, count=3)
    seen = np.asarray(x.argmax(-1))
    assert x.shape == (20, 3 + 7 + 3, 10)
    assert (seen[:, 3:10] == memory.NOTHING).all()
    assert (seen[:, 10] == memory.SAY_IT).all()
    assert (seen[:, 11:] == memory.NOTHING).all()
    np.testing.assert_array_equal(targets[:, -3:], seen[:, :3] - 1)
    assert (np.asarray(targets)[:, :-3] == memory.UNASKED).all()


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_warped_gates_keep_for_1_to_length_times(cell):
    model = ADDING.model(CELLS[cell], 100)
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 3, 2))))
    params = jax.tree.map(lambda a: jnp.zeros(a.shape), shapes)
    changed = warped(params, cell, 100, 50, KEY)
    bias = np.asarray(changed[0]["recurrent"]["bias"])
    kept = 1 / (1 - jax.nn.sigmoid(bias[100:200]))
    assert 1.9 <= kept.min() < 5
    assert 40 < kept.max() <= 51
    if cell == "LSTM":
        np.testing.assert_array_equal(bias[:100], -bias[100:200])
    without = lambda tree: (tree[0]["recurrent"]["weight"], tree[0]["input"], tree[1])  # noqa: E731
    assert jax.tree.all(jax.tree.map(jnp.array_equal, without(params), without(changed)))


def test_a_plain_rnn_has_no_gates_to_warp():
    params = ADDING.model(CELLS["RNN"], 4).init(KEY, jnp.zeros((1, 3, 2)))
    assert warped(params, "RNN", 4, 50, KEY) is params


def test_delta_norms_are_the_gradients_of_the_pre_activations():
    """Against autodiff, by an input that is added to z = x W + b at each time."""
    model = ADDING.model(jaxbp.RNN, 4)
    x, targets = draw_adding(KEY, 3, 6)
    params = model.init(KEY, x)
    recurrent, dense = params

    def loss(added):
        z = x @ recurrent["input"]["weight"] + recurrent["recurrent"]["bias"] + added
        h = jnp.zeros((3, 4))
        for t in range(6):
            h = jnp.tanh(z[:, t] + h @ recurrent["recurrent"]["weight"])
        return jnp.mean((h @ dense["weight"] + dense["bias"] - targets) ** 2)

    gradient = 3 * jax.grad(loss)(jnp.zeros((3, 6, 4)))
    expected = np.sqrt(np.mean(np.sum(np.asarray(gradient) ** 2, 2), 0))
    np.testing.assert_allclose(delta_norms(ADDING, model, params, x, targets), expected, rtol=1e-4)
    tiny = (recurrent, dense | {"weight": 1e-30 * dense["weight"]})
    assert (delta_norms(ADDING, model, tiny, x, targets) > 0).all()


def test_a_run_returns_what_it_writes_and_draws(tmp_path):
    options = Options(lengths=(4,), cells=("RNN", "GRU"), hidden=3, steps=2, batch_size=4, output=tmp_path)
    metrics = memory.main(options)
    folder = tmp_path / "adding"
    assert json.loads((folder / "results.json").read_text()) == metrics
    assert [(run["cell"], run["length"]) for run in metrics["runs"]] == [("RNN", 4), ("GRU", 4)]
    assert {path.stem for path in folder.glob("*.png")} == {"score_by_length", "gradient_through_time"}
    assert not any(run["solved"] for run in metrics["runs"])


def test_solved_lies_beyond_the_mark_on_the_side_away_from_chance():
    assert ADDING.is_solved(0.009)
    assert not ADDING.is_solved(0.011)
    assert COPYING.is_solved(0.995)
    assert not COPYING.is_solved(0.98)


def test_a_plain_rnn_learns_to_copy_over_nothing():
    options = Options(Choice.copying, hidden=16, steps=150, learning_rate=0.02)
    run = memory.learn(COPYING, "RNN", 0, options)
    assert run["score"] > 2 * COPYING.chance
    assert run["losses"][-1] < run["losses"][0]
    assert len(run["deltas_after"]) == 10
