"""`reduce_window`: the pools' plain form, on images `(n, *spatial, c)`.

Values come from `lax.reduce_window`. A max-pool's derivative needs to know which element won:
`window_argmax` gives its flat position in the unpadded plane, -1 where a window holds no element
of x. Then `pick` gathers there (the derivative forwards) and `place` scatters there (the notes'
up(), the derivative backwards): each the other's transpose, both linear, for any window at all.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import accumulator
from .._form import Problem
from .._geometry import Geometry
from .._lax import by_lax
from ._algorithm import Algorithm
from ._greatest import greater, is_reduced


def window_max(problem: Problem, x: Array) -> Array:
    """y[s] = max_a x[s*stride + a*dilation - low]; NaN wins, padding never does."""
    geometry = problem.form.geometry
    alone = any(
        is_reduced(k, s, m) and (k, s) != (1, 1)
        for k, s, m in zip(geometry.window, geometry.stride, geometry.output, strict=True)
    )
    loses = problem.platform == "cpu" and alone and jnp.issubdtype(x.dtype, jnp.inexact)
    return _reduce(geometry, x, lowest(x.dtype), greater if loses else lax.max)


def window_sum(problem: Problem, x: Array) -> Array:
    """y[s] = sum_a x[s*stride + a*dilation - low], summed in float32 for half precision."""
    result_dtype = problem.form.dtypes[1]
    wide = x.astype(accumulator(result_dtype))
    return _reduce(problem.form.geometry, wide, np.zeros((), wide.dtype), lax.add).astype(
        result_dtype
    )


def window_spread(problem: Problem, y: Array) -> Array:
    """x[t] = sum_{s, a: s*stride + a*dilation - low = t} y[s]: the transpose of `window_sum`.

    The elements of y are set `stride` apart by an explicit pad: XLA's own base dilation in
    reduce_window has been wrong on large arrays (openxla/xla#48714).
    """
    geometry = problem.form.geometry
    result_dtype = problem.form.dtypes[0]
    wide = y.astype(accumulator(result_dtype))
    config = [(0, 0, 0)]
    for axis, (low, _) in enumerate(geometry.padding):
        reach, s = geometry.extent[axis] - 1, geometry.stride[axis]
        dilated = (geometry.output[axis] - 1) * s + 1
        config.append((reach - low, geometry.spatial[axis] - dilated + low, s - 1))
    zero = np.zeros((), wide.dtype)
    padded = lax.pad(wide, zero, [*config, (0, 0, 0)])
    ones = (1,) * padded.ndim
    summed = functools.partial(
        lax.reduce_window,
        init_value=zero,
        computation=lax.add,
        window_dimensions=(1, *geometry.window, 1),
        window_strides=ones,
        padding="VALID",
        window_dilation=(1, *geometry.dilation, 1),
    )
    return by_lax(summed, padded).astype(result_dtype)


def window_argmax(problem: Problem, x: Array) -> Array:
    """Flat position of each window's first greatest element in row-major order, NaN the greatest.

    Axis after axis, last one first: the winner of each row of a window, then the first of the rows
    whose winner is the greatest. That is the first in row-major order. Along an axis, the winner of
    2*L elements is the better of two times L, so k elements take log2(k) steps. The later one must
    be strictly greater to win, so ties keep the first.
    """
    geometry = problem.form.geometry
    best = x
    plane = jnp.arange(math.prod(geometry.spatial), dtype=np.int32)
    where = jnp.broadcast_to(plane.reshape(1, *geometry.spatial, 1), x.shape)
    for axis in reversed(range(geometry.rank)):
        best, where = _axis_winner(geometry, axis, best, where)
    return where


def _axis_winner(geometry: Geometry, axis: int, value: Array, where: Array) -> tuple[Array, Array]:
    """Reduce one spatial axis of (value, flat position) pairs to its windows' winners."""
    low, _ = geometry.padding[axis]
    # Pad (or crop) to exactly what the windows read; padding is at position -1 and always loses.
    high = geometry.read[axis] - geometry.spatial[axis] - low
    config = [(low, high, 0) if at == axis + 1 else (0, 0, 0) for at in range(value.ndim)]
    pair = lax.pad(value, lowest(value.dtype), config), lax.pad(where, np.int32(-1), config)
    for step in axis_steps(geometry, axis, pair[0].shape[axis + 1]):
        pair = later_or_first(axis + 1, step, *pair)
    return pair


class Step(NamedTuple):
    """The better of two elements of an axis, the second `ahead` of the first: so many, a stride
    apart."""

    ahead: int
    windows: int
    stride: int


def axis_steps(geometry: Geometry, axis: int, length: int) -> list[Step]:
    """From elements to the winners of windows, of twice as many elements each time; the last step
    has the windows that are wanted."""
    s, d, k = geometry.stride[axis], geometry.dilation[axis], geometry.window[axis]
    found, size = [], 1
    while 2 * size <= k:
        length -= size * d
        found.append(Step(size * d, length, 1))
        size *= 2
    if size == k and found:
        return [*found[:-1], found[-1]._replace(windows=geometry.output[axis], stride=s)]
    return [*found, Step((k - size) * d, geometry.output[axis], s)]


def later_or_first(axis: int, step: Step, value: Array, where: Array) -> tuple[Array, Array]:
    """The later one where it is greater, or the first one is padding."""

    def taken(start: int) -> tuple[Array, Array]:
        stop = start + (step.windows - 1) * step.stride + 1
        cut = functools.partial(lax.slice_in_dim, axis=axis)
        return cut(value, start, stop, step.stride), cut(where, start, stop, step.stride)

    (new, at), (best, best_at) = taken(step.ahead), taken(0)
    above = (new > best) | ((new != new) & (best == best))
    wins = above | (best_at < 0)  # padding is above nothing
    return jnp.where(wins, new, best), jnp.where(wins, at, best_at)


def pick(problem: Problem, x: Array, index: Array) -> Array:
    """y[s] = x[index[s]], 0 where the index is -1."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    flat_index = index.reshape(index.shape[0], -1, index.shape[-1])
    taken = jnp.take_along_axis(flat, jnp.maximum(flat_index, 0), axis=1)
    zero = np.zeros((), x.dtype)
    return jnp.where(flat_index >= 0, taken, zero).reshape(index.shape)


def place(problem: Problem, y: Array, index: Array) -> Array:
    """x[t] = sum_{s: index[s] = t} y[s]: the transpose of `pick`."""
    form = problem.form
    # n and c may be symbolic.
    n, c, plane = y.shape[0], y.shape[-1], math.prod(form.geometry.spatial)
    flat_index = index.reshape(n, -1, c)
    images = jnp.arange(n, dtype=np.int32).reshape(n, 1, 1)
    channels = jnp.arange(c, dtype=np.int32).reshape(1, 1, c)
    wide = y.reshape(n, -1, c).astype(accumulator(y.dtype))
    nowhere = jnp.where(flat_index < 0, plane, flat_index)
    zeros = jnp.zeros((n, plane, c), wide.dtype)
    summed = zeros.at[images, nowhere, channels].add(wide, mode="drop")
    return summed.astype(y.dtype).reshape(form.input_shape(y.shape))


ALGORITHM = Algorithm(
    "reduce_window",
    {
        "window_max": window_max,
        "window_argmax": window_argmax,
        "window_sum": window_sum,
        "window_spread": window_spread,
        "pick": pick,
        "place": place,
    },
    symbolic=True,
)


def lowest(dtype: np.dtype) -> np.ndarray:
    """What loses to every element: minus infinity, or an integer type's limit."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return np.asarray(-np.inf, dtype)
    return np.asarray(jnp.iinfo(dtype).min, dtype)


def _reduce(geometry: Geometry, x: Array, init: np.ndarray, monoid) -> Array:
    """`lax.reduce_window` over the spatial axes, negative padding cropped first."""
    crop = [
        (0, 0, 0),
        *((min(low, 0), min(high, 0), 0) for low, high in geometry.padding),
        (0, 0, 0),
    ]
    padding = [(0, 0), *((max(low, 0), max(high, 0)) for low, high in geometry.padding), (0, 0)]
    reduce = functools.partial(
        lax.reduce_window,
        init_value=init,
        computation=monoid,
        window_dimensions=(1, *geometry.window, 1),
        window_strides=(1, *geometry.stride, 1),
        padding=padding,
        window_dilation=(1, *geometry.dilation, 1),
    )
    return by_lax(reduce, lax.pad(x, init, crop))
