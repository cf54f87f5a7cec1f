import jax
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp.loop import _train_epoch_by_steps


def test_an_epoch_by_steps_is_the_compiled_epoch():
    model = jaxbp.Serial(jaxbp.Dense(4), jaxbp.Dropout(0.5), jaxbp.Dense(3))
    loss, optimizer = jaxbp.SoftmaxCrossEntropy(), optax.sgd(0.1)
    data = jax.random.normal(jax.random.key(0), (7, 2)), np.arange(7) % 3
    state = jaxbp.TrainState.create(model, optimizer, data[0], jax.random.key(1))
    scanned, losses = jaxbp.train_epoch(model, loss, optimizer, 3, 1, None, state, data)
    stepped, the_same = _train_epoch_by_steps(model, loss, optimizer, 3, 1, None, state, data)
    np.testing.assert_allclose(losses, the_same, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), scanned.params, stepped.params)
    assert int(stepped.step) == 3


@pytest.mark.parametrize("examples", [2, 3])
def test_a_last_batch_may_be_smaller_or_alone(examples):
    model, loss, optimizer = jaxbp.Dense(3), jaxbp.SoftmaxCrossEntropy(), optax.sgd(0.1)
    data = np.ones((examples, 2), np.float32), np.arange(examples)
    state, history = jaxbp.fit(model, loss, optimizer, data, epochs=1, batch_size=2, progress=False)
    assert int(state.step) == -(-examples // 2)
    assert np.isfinite(history["loss"][0])
