"""Random arrays by shape."""

import jax
import numpy as np


def normal(*shape, seed=0, dtype="float32"):
    """Normal numbers, the same for the same arguments; drawn by NumPy, which compiles nothing."""
    return jax.numpy.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


def labels(n, classes, seed=0):
    """Integer labels [n]."""
    return jax.numpy.asarray(np.random.default_rng([seed, n, classes]).integers(classes, size=n))
