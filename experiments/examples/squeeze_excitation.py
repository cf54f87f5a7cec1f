"""A new composite: squeeze and excitation, where a glance at the whole image says which channels count.

    s[n,c]   = mean over the grid of x[n,·,·,c]                        squeeze
    w[n,c]   = σ(W₂ relu(W₁ s[n]))                                      excite
    y[n,·,c] = w[n,c] x[n,·,c]                                          scale

x is used twice, by the glance and by the product. So its gradient has two parts, and the wiring read in reverse adds
them: ∂J/∂x = w ⊙ g + (∂w/∂x)ᵀ Σ_grid x ⊙ g.

Source: Hu et al., arXiv 1709.01507, section 3.
"""

from dataclasses import dataclass

import jaxbp


@dataclass(frozen=True)
class SqueezeExcitation(jaxbp.Composite):
    """Maps [n, height, width, channels] to the same shape.

    Args:
        channels: how many x has.
        reduction: how many times fewer the hidden layer of the gate has.
    """

    channels: int
    reduction: int = 4

    def make_children(self):
        hidden = max(1, self.channels // self.reduction)
        gate = jaxbp.Serial(jaxbp.Dense(hidden), jaxbp.ReLU(), jaxbp.Dense(self.channels), jaxbp.Sigmoid())
        return {"squeeze": jaxbp.AdaptiveAvgPool((1, 1)), "excite": gate, "scale": jaxbp.Multiply()}

    def wire(self, call, x):
        w = call("excite", call("squeeze", x))
        return call("scale", (w, x))
