"""Mistakes planted in layers that are used several times, or stacked by a composite of the user's own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp import Add, Composite, Concatenate, Dense, Flatten, Layer, Recompute, Repeat, Serial, Tanh, Vmap
from tests.support.planted_mistakes import LOOP, STUDENT, Forgetful, between


class Reversed(Vmap):
    """A composite with a scan of its own, as a user writes it, whose backward pass visits the layers in reverse."""

    def forward(self, params, x, rng=None):
        def step(_, p):
            return None, self.children["body"].forward(p, x, rng)

        _, (y, residuals) = jax.lax.scan(step, None, params["body"])
        return jnp.swapaxes(y, 0, 1), {"body": residuals}

    def backward(self, walk, params, feedback, residuals, g):
        dx, collected = super().backward(walk, params, feedback, residuals, self.order(g))
        return dx, collected

    def order(self, g):
        return g[:, ::-1]


class Scanned(Reversed):
    """The same, right."""

    def order(self, g):
        return g


@dataclass(frozen=True)
class Siamese(Composite):
    """One layer for both halves of the features, and then once more for what it made of the first."""

    body: Layer

    def wire(self, call, x):
        first = call("body", x)
        return first, call("body", first)


class HalfWrong(Dense):
    """Right for inputs in [-1, 1], as behind a tanh."""

    def param_gradient(self, params, x, g):
        return jax.tree.map(lambda a: jnp.where(jnp.max(jnp.abs(x)) > 1, -a, a), super().param_gradient(params, x, g))


def shared(layer):
    return Serial(Dense(3), Siamese(layer), Concatenate(), Dense(2))


SHARED = {
    "in a shared layer": (shared(LOOP), "1.body", "wrong sign"),
    "in a layer of a shared composite": (shared(Serial(Tanh(), STUDENT)), "1.body.1", "missing f'"),
    "in one use of a shared layer": (
        shared(Serial(HalfWrong(3), Tanh())),
        "1.body.0",
        "wrong sign, in use 1 of 2",
    ),
    "in a repeat of a shared layer": (
        between(Repeat(Serial(Siamese(LOOP), Add()), 2)),
        "1.body.0.body",
        "wrong sign",
    ),
    "in a shared repeat": (shared(Repeat(Serial(LOOP, Tanh()), 2)), "1.body.body.0", "wrong sign"),
    "in a shared layer of a shared recompute": (
        shared(Recompute(Serial(Siamese(LOOP), Add()))),
        "1.body.body.0.body",
        "wrong sign",
    ),
    "in a shared residual": (shared(Forgetful(Tanh())), "1.body", "sent past or through them wrongly"),
    "in a vmap": (between(Serial(Vmap(LOOP, 2), Flatten())), "1.0.body", "wrong sign"),
    "in a scan of the user's own": (between(Serial(Scanned(LOOP, 2), Flatten())), "1.0.body", "wrong sign"),
    "a scan of the user's own in the wrong order": (
        between(Serial(Repeat(Tanh(), 2), Reversed(Dense(3), 2), Flatten())),
        "1.1",
        "sent past or through them wrongly",
    ),
}
