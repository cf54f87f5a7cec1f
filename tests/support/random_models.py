"""Random networks for hypothesis: any depth, any nesting of the compositions, any loss, a key or none."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxbp
from jaxbp import Dense, Layer, Loss, Serial

WIDTH = 3  # of what goes in and out of a block: few shapes compile fast
EXAMPLES = 4

ACTIVATIONS = [
    jaxbp.Sigmoid(),
    jaxbp.Tanh(),
    jaxbp.ReLU(),
    jaxbp.LeakyReLU(0.1),
    jaxbp.ELU(),
    jaxbp.Softplus(),
    jaxbp.SiLU(),
    jaxbp.GELU(),
    jaxbp.GELU(approximate=True),
    jaxbp.Softmax(),
    jaxbp.LogSoftmax(),
]
SIMPLE = [
    *ACTIVATIONS,
    Dense(WIDTH),
    Dense(WIDTH, bias=False),
    jaxbp.Dropout(0.5),
    jaxbp.Identity(),
    Serial(jaxbp.Reshape((WIDTH, 1)), jaxbp.Flatten()),
]


@dataclass(frozen=True)
class Case:
    """A network with all that a backward pass needs."""

    model: Layer
    loss: Loss
    params: Any
    x: jax.Array
    targets: jax.Array
    rng: jax.Array | None
    weights: jax.Array | None


def compose(block, repeats):
    """One more level of composition around blocks, which map WIDTH features to as many."""
    several = st.lists(block, min_size=1, max_size=3)
    width = st.sampled_from([1, 2, 4])
    return st.one_of(
        several.map(lambda layers: Serial(*layers)),
        st.builds(lambda w, layer: Serial(Dense(w), layer, Dense(WIDTH)), width, st.sampled_from(ACTIVATIONS)),
        st.builds(jaxbp.Residual, block, st.none() | block),
        several.map(lambda layers: Serial(jaxbp.Parallel(*layers), jaxbp.Add())),
        several.map(lambda layers: Serial(jaxbp.Parallel(*layers), jaxbp.Concatenate(), Dense(WIDTH))),
        block.map(jaxbp.Recompute),
        *([st.builds(jaxbp.Repeat, block, st.integers(1, 2))] if repeats else []),
    )


LOSSES = [
    jaxbp.HalfSquaredError(),
    jaxbp.MeanSquaredError(),
    jaxbp.Huber(0.5),
    jaxbp.BinaryCrossEntropy(),
    jaxbp.SoftmaxCrossEntropy(),
    jaxbp.SoftmaxCrossEntropy(smoothing=0.1, ignored_label=0),
]


@st.composite
def architectures(draw):
    """A network and its loss, a seed, whether to use a dropout key, and whether examples are weighted."""
    repeats = draw(st.integers(0, 2)) == 0  # a scan is compiled anew in each network, so only some have one
    block = st.recursive(st.sampled_from(SIMPLE), lambda block: compose(block, repeats), max_leaves=3)
    blocks = draw(st.lists(block, min_size=1, max_size=4))
    model = Serial(*blocks, Dense(draw(st.sampled_from([2, WIDTH]))))
    return model, draw(st.sampled_from(LOSSES)), draw(st.integers(0, 1000)), draw(st.booleans()), draw(st.booleans())


def batch_for(model, loss, seed, train, weighted):
    """All that a backward pass of an architecture needs, in the widest floating-point numbers that are switched on."""
    random = np.random.default_rng(seed)
    x = jnp.asarray(random.normal(size=(EXAMPLES, WIDTH)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda shape: jnp.asarray(random.normal(size=shape.shape)), shapes)
    outputs = model.layers[-1].outputs
    if isinstance(loss, jaxbp.SoftmaxCrossEntropy):
        targets = jnp.asarray([1, *random.integers(outputs, size=EXAMPLES - 1)])
    else:
        targets = jnp.asarray(random.uniform(size=(EXAMPLES, outputs)))
    weights = jnp.asarray(random.uniform(0.5, 2, size=EXAMPLES)) if weighted else None
    return Case(model, loss, params, x, targets, jax.random.key(seed) if train else None, weights)
