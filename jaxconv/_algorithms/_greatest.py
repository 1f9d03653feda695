"""Maxima in which NaN is the greatest, where XLA:CPU's own leave it out.

A maximum over whole axes XLA:CPU gives to YNNPACK, which passes over NaN (jax 0.10.2, float32, all
but small arrays; tensorflow/tensorflow#116992 tells of the like); and it takes windows that lie end
to end for axes of their own. Elementwise maxima, and reductions by another function, keep NaN.
"""

import functools

import jax.numpy as jnp
from jax import Array, lax

from ._apart import apart

#: So many slices are compared in one loop.
RADIX = 8


def greater(a: Array, b: Array) -> Array:
    """The greater of two, NaN the greatest."""
    return jnp.where((b > a) | (b != b), b, a)


def is_reduced(taps: int, stride: int, windows: int) -> bool:
    """Whether XLA:CPU takes windows along an axis for an axis of their own: end to end, or one."""
    return taps <= stride or windows == 1


def greatest(x: Array, axis: int, platform: str) -> Array:
    """`x.max(axis, keepdims=True)`, NaN the greatest, slices of the axis at a time."""
    if platform != "cpu" or not jnp.issubdtype(x.dtype, jnp.inexact):
        return x.max(axis, keepdims=True)

    def compared(x: Array) -> Array:
        size = x.shape[axis]
        part = -(-size // RADIX)
        starts = (min(start, size - part) for start in range(0, size, part))
        parts = (lax.slice_in_dim(x, start, start + part, axis=axis) for start in starts)
        return functools.reduce(lax.max, parts)

    while x.shape[axis] > 1:
        x = apart(compared, x)
    return x
