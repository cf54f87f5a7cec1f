import jax
import jax.numpy as jnp
import pytest

from jaxbp import GRU, LSTM, RNN, Sequences, check_layer
from tests.arrays import normal

KEY = jax.random.key(3)
CELLS = [RNN, GRU, LSTM]
LENGTHS = jnp.array([2, 4, 0])


def states(cell, layers=1, outputs=3, n=3):
    """Random states for so many layers."""
    return tuple(tuple(normal(n, outputs, seed=i + 9 * j) for i in range(1 + (cell is LSTM))) for j in range(layers))


@pytest.mark.parametrize("layer", [RNN(3, from_end=True), GRU(3), LSTM(3, from_end=True)], ids=str)
def test_cells_obey_the_layer_laws_with_lengths_and_states(layer):
    check_layer(layer, Sequences(normal(3, 4, 2), LENGTHS, states(type(layer))))
