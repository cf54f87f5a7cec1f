import jax.numpy as jnp
import pytest
from matplotlib.figure import Figure

import jaxbp
from jaxbp import Dense, HalfSquaredError, Serial


def deep(gain):
    """Sizes in ten layers that multiply signals by `gain`."""
    model = Serial(*[Dense(1, bias=False)] * 10)
    params = ({"weight": jnp.array([[gain]])},) * 10
    return jaxbp.signal_sizes(model, HalfSquaredError(), params, jnp.ones((1, 1)), jnp.zeros((1, 1)))


@pytest.mark.parametrize(("gain", "word"), [(0.1, "vanishing"), (10.0, "exploding"), (1.0, "")])
def test_a_figure_says_where_signals_vanish_or_explode(gain, word):
    figure = jaxbp.plot_flow([deep(1.0), deep(gain)])
    assert isinstance(figure, Figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 3
    for title in titles[:2]:
        assert word in title
        assert bool(word) == ("ing" in title.splitlines()[-1])
