"""`columns`: windows written out one beside the other, and added up where they came from.

Columns are `(n, *window, *output, c)`. Along one axis tap a of all windows is a strided slice, so
that `sum(k)` slices write out windows of `prod(k)` taps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import accumulator
from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._cast import cast

#: Longest window whose taps are slices of their own; those of longer ones are gathered together.
MAX_SLICES = 16


def unfold(problem: Problem, x: Array) -> Array:
    """columns[a, s] = x[s*stride + a*dilation - low]."""
    return _unfold(problem.form.geometry, x)


def fold(problem: Problem, columns: Array) -> Array:
    """x[t] = sum_{s, a: s*stride + a*dilation - low = t} columns[a, s], summed in float32 for half
    precision: the transpose of the slices and paddings of `unfold`."""
    form = problem.form
    wide = cast(columns, accumulator(columns.dtype))
    image = jax.ShapeDtypeStruct(form.input_shape(columns.shape), wide.dtype)
    (x,) = jax.linear_transpose(functools.partial(_unfold, form.geometry), image)(wide)
    return cast(x, form.dtypes[0])


ALGORITHM = Algorithm("columns", {"unfold": unfold, "fold": fold}, symbolic=True)


def _unfold(geometry: Geometry, x: Array) -> Array:
    for axis in reversed(range(geometry.rank)):
        x = _unfold_axis(geometry, axis, x)
    return x


def _unfold_axis(geometry: Geometry, axis: int, x: Array) -> Array:
    """The taps of one axis as a new axis in front; the axes after this one are done already."""
    done = geometry.rank - 1 - axis
    at = 1 + done + axis
    low, _ = geometry.padding[axis]
    s, d, k = geometry.stride[axis], geometry.dilation[axis], geometry.window[axis]
    outputs = geometry.output[axis]
    # Pad (or crop) to exactly what the windows read.
    high = (outputs - 1) * s + geometry.extent[axis] - geometry.spatial[axis] - low
    config = [(low, high, 0) if other == at else (0, 0, 0) for other in range(x.ndim)]
    x = lax.pad(x, np.zeros((), x.dtype), config)
    length = (outputs - 1) * s + 1
    if k <= MAX_SLICES:
        taps = [lax.slice_in_dim(x, a * d, a * d + length, s, at) for a in range(k)]
        return jnp.stack(taps, axis=1)
    reads = jnp.arange(k)[:, None] * d + jnp.arange(outputs)[None] * s  # no constant is written
    return jnp.moveaxis(jnp.take(x, reads, axis=at, mode="clip"), at, 1)
