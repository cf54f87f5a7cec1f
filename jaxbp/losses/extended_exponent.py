"""Positive numbers far below floating point's range, added and multiplied without exp and log.

A probability of 5,000 steps may be e^-100,000,000. Such a number is kept as m 2^e, m a float near 1 and e an integer:

    product     (m 2^e) (m' 2^e') = m m' 2^(e + e')
    sum         Σ_i m_i 2^(e_i) = (Σ_i m_i 2^(e_i - top)) 2^top        top = max_i (e_i + ⌊log2 m_i⌋)

⌊log2 m⌋ is read from the bits of the float, and 2^k is written into them. So a sum costs a few integer operations,
where logarithms, the usual remedy, cost an exp for each term and a log; and while a logarithm of size 10^8 has lost all
its digits, m keeps those of a float. The largest term of a sum lies in [1, 2) when it is added, so that m stays near 1
without being brought there; what is smaller by more than floating point's range adds nothing.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

NEVER = -(2**29)  # the exponent of zero; two of them still fit into an int32
LEAST = NEVER // 2  # what is smaller than 2^LEAST, some e^-186,000,000, counts as zero


class Extended(NamedTuple):
    """m 2^e, shaped alike."""

    m: Float[Array, "..."]
    e: Int[Array, "..."]

    def __getitem__(self, index) -> "Extended":
        return Extended(self.m[index], self.e[index])


def exp(x: Float[Array, "*s"]) -> Extended:
    """e^x for x ≤ 0, also for -inf."""
    x = jnp.maximum(x, NEVER)
    e = jnp.maximum(jnp.floor(x * float(np.log2(np.e))), NEVER)
    # log 2 in two parts, the first of so few digits that its product with e is exact; where e is so large that it is
    # not after all (10^5 and more, or the e of zero), m must still be a float near 1.
    return Extended(jnp.exp(jnp.maximum(x - 0.693359375 * e + 2.121944400546906e-4 * e, -1)), e.astype(jnp.int32))


def log(a: Extended) -> Float[Array, "*s"]:
    """The natural logarithm, -inf of zero."""
    return jnp.where(positive(a), jnp.log(a.m) + a.e.astype(a.m.dtype) * float(np.log(2)), -jnp.inf)


def positive(a: Extended) -> Array:
    """Whether the number is more than zero."""
    return a.e > LEAST


def multiply(a: Extended, b: Extended) -> Extended:
    """a b; zero stays zero."""
    return Extended(a.m * b.m, jnp.maximum(a.e + b.e, NEVER))


def add(*terms: Extended) -> Extended:
    """Their sum."""
    top = terms[0].e + exponent(terms[0].m)
    for term in terms[1:]:
        top = jnp.maximum(top, term.e + exponent(term.m))
    return Extended(sum(term.m * power_of_two(term.e - top, term.m.dtype) for term in terms), top)


def exponent(m: Array) -> Array:
    """⌊log2 m⌋ of positive floats."""
    integer, digits, bias = layout(m.dtype)
    return ((lax.bitcast_convert_type(m, integer) >> digits) - bias).astype(jnp.int32)


def power_of_two(k: Array, dtype) -> Array:
    """2^k as a float, 0 where that is too small for one."""
    integer, digits, bias = layout(dtype)
    return lax.bitcast_convert_type(jnp.maximum(k + bias, 0).astype(integer) << digits, dtype)


def layout(dtype):
    """Of IEEE floats: the integer of the same size, the digits of the mantissa, the bias of the exponent."""
    return (jnp.int64, 52, 1023) if dtype == jnp.float64 else (jnp.int32, 23, 127)
