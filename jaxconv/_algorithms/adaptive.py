"""`adaptive`: maxima and sums over the unequal windows of a `Partition`.

Axis after axis, windows are gathered to the length of the longest one and reduced, on images
`(n, *spatial, c)`. They have `ceil(n/m)` or one more elements: what a shorter window holds too much
of is its last element again, which no maximum minds, or 0 in a sum.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from .._arrays import accumulator
from .._form import Problem
from .._geometry import Partition
from ._algorithm import Algorithm
from ._cast import cast
from ._greatest import greatest


def window_max(problem: Problem, x: Array) -> Array:
    """y[i] = max of x over window i; NaN wins."""
    for axis in range(problem.form.geometry.rank):
        taps, _ = _taps(problem.form.geometry, axis)
        windows = jnp.take(x, taps, axis=axis + 1, mode="clip")
        x = greatest(windows, axis + 2, problem.platform).squeeze(axis + 2)
    return x


def window_argmax(problem: Problem, x: Array) -> Array:
    """Flat position of each window's first greatest element in row-major order, NaN the greatest.

    Axis after axis, last one first, as in `reduce_window.window_argmax`.
    """
    partition = problem.form.geometry
    plane = jnp.arange(math.prod(partition.spatial), dtype=np.int32)
    where = jnp.broadcast_to(plane.reshape(1, *partition.spatial, 1), x.shape)
    for axis in reversed(range(partition.rank)):
        taps, _ = _taps(partition, axis)
        x, where = (jnp.take(array, taps, axis=axis + 1, mode="clip") for array in (x, where))
        first = jnp.argmax(x, axis=axis + 2, keepdims=True)
        x, where = (
            jnp.take_along_axis(array, first, axis + 2).squeeze(axis + 2) for array in (x, where)
        )
    return where


def window_sum(problem: Problem, x: Array) -> Array:
    """y[i] = sum of x over window i, in float32 for half precision."""
    return _sums(problem.form.geometry, x, problem.form.dtypes[1])


def window_spread(problem: Problem, y: Array) -> Array:
    """x[t] = sum of y over the windows that hold t: sums over the exchanged partition."""
    return _sums(problem.form.geometry.exchanged, y, problem.form.dtypes[0])


ALGORITHM = Algorithm(
    "adaptive",
    {
        "window_max": window_max,
        "window_argmax": window_argmax,
        "window_sum": window_sum,
        "window_spread": window_spread,
    },
    lambda problem: (
        None if isinstance(problem.form.geometry, Partition) else "its windows are of one size"
    ),
    symbolic=True,
)


def _sums(partition: Partition, x: Array, dtype: np.dtype) -> Array:
    x = cast(x, accumulator(dtype))
    zero = np.zeros((), x.dtype)
    for axis in range(partition.rank):
        taps, inside = _taps(partition, axis)
        inside = inside.reshape(*inside.shape, *(1,) * (x.ndim - axis - 2))
        read = jnp.take(x, taps, axis=axis + 1, mode="clip")
        x = jnp.where(inside, read, zero).sum(axis=axis + 2)
    return cast(x, dtype)


def _taps(partition: Partition, axis: int) -> tuple[Array, Array]:
    """Positions `(m, k)` that the windows read along an axis, and which of them are theirs.

    Only starts and ends are written into the program.
    """
    spans = np.asarray(partition.spans(axis), np.int32)
    positions = spans[:, :1] + jnp.arange(partition.window[axis], dtype=np.int32)[None]
    last = spans[:, 1:] - 1
    return jnp.minimum(positions, last), jnp.less_equal(positions, last)
