"""Looking inside a model: its layers, the numbers of one backpropagation, the sizes of its signals."""

from jaxbp.inspection.plots import plot_flow
from jaxbp.inspection.signal_sizes import signal_sizes
from jaxbp.inspection.summary import summary
from jaxbp.inspection.trace import trace

__all__ = [
    "plot_flow",
    "signal_sizes",
    "summary",
    "trace",
]
