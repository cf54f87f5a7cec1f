"""A recurrent layer in both directions of time: what was and what will be, side by side.

    y[n,t] = (→h[n,t], ←h[n,t])      ∂J/∂x = the sum of the two layers' input gradients

The second run begins at each sequence's own end, behind which is padding.

Source: Schuster & Paliwal, IEEE Trans. Signal Processing 45 (1997).
"""

import dataclasses
from dataclasses import dataclass

from jaxbp.core.composite import Composite
from jaxbp.core.layer import Layer
from jaxbp.layers.branches import Concatenate
from jaxbp.layers.recurrent.base import Recurrent
from jaxbp.layers.sequences import Sequences, values_of, with_values


@dataclass(frozen=True)
class Bidirectional(Composite):
    """Maps [n, t, inputs] to [n, t, 2 outputs], or with `last` to [n, 2 outputs], the last output of each direction.

    Args:
        forward_in_time: LSTM(64), GRU(64) or RNN(64).
        back_in_time: the layer for the other direction; the same kind unless given.

    Of the states in `Sequences` it takes two, first that of the forward direction.
    """

    forward_in_time: Layer
    back_in_time: Layer | None = None

    def __post_init__(self):
        if self.back_in_time is None:
            if not isinstance(self.forward_in_time, Recurrent):
                raise TypeError(f"Bidirectional takes LSTM(…), GRU(…) or RNN(…), not {self.forward_in_time}")
            opposite = dataclasses.replace(self.forward_in_time, reverse=not self.forward_in_time.reverse)
            object.__setattr__(self, "back_in_time", opposite)

    def make_children(self):
        return {
            "forward_in_time": self.forward_in_time,
            "back_in_time": self.back_in_time,
            "join": Concatenate(),
        }

    def wire(self, call, x):
        first = call("forward_in_time", x)
        x = first._replace(values=values_of(x)) if isinstance(first, Sequences) else x
        second = call("back_in_time", x)
        return with_values(second, call("join", (values_of(first), values_of(second))))
