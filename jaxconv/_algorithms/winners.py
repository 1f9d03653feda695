"""`winners`: the derivative of a maximum over few taps, on images `(n, *spatial, c)`.

    window_argmax   the flat position of each window's winner
    place           x[t] = sum of y[Q - j] over the windows that t lies in and has won

The winner is found by comparing the taps one after the other, all windows at once. An element
t = Q*stride + r - low can only have been won in the windows Q - j, so it asks those few whether
they name it: a gather by shifted slices in place of XLA:CPU's scatter, or of its
select-and-scatter, both of which go through the windows one by one on one core.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import accumulator
from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._frame import Frame, apart, cut, framed, quotients, read_frames, residue_frames, total
from .reduce_window import lowest
from .slices import in_parts, steps, tap

#: Most taps of a window: they are written out.
MOST_TAPS = 16


def refuses(problem: Problem) -> str | None:
    """Windows of one size and few taps; positions given back without both stride and dilation."""
    geometry = problem.form.geometry
    if not isinstance(geometry, Geometry):
        return "windows are of unequal sizes"
    if math.prod(geometry.window) > MOST_TAPS:
        return f"it writes out at most {MOST_TAPS} taps of a window"
    both = zip(geometry.stride, geometry.dilation, strict=True)
    if problem.projection == "place" and any(s > 1 and d > 1 for s, d in both):
        return "an axis has both stride and dilation"
    return None


def window_argmax(problem: Problem, x: Array) -> Array:
    """Flat position of each window's first greatest element in row-major order, NaN the greatest.

    Padding is less than or equal to all, and only what is greater wins over what came before. To
    start with, a window's first element that is no padding has won.
    """
    geometry = problem.form.geometry
    planes = [math.prod(geometry.spatial[axis + 1 :]) for axis in range(geometry.rank)]

    def winners(x: Array) -> Array:
        x = framed(x, read_frames(geometry, 1), lowest(x.dtype))
        best: Any = None
        shape = (x.shape[0], *geometry.output, x.shape[-1])
        where = _first_elements(geometry, planes, shape)
        for at in itertools.product(*map(range, geometry.window)):
            value = tap(geometry, x, at)
            if best is None:
                best = value
                continue
            offset = sum(
                a * d * plane for a, d, plane in zip(at, geometry.dilation, planes, strict=True)
            )
            above = (value > best) | ((value != value) & (best == best))
            best = jnp.where(above, value, best)
            where = jnp.where(above, np.int32(offset), where)
        return jnp.where(where < 0, np.int32(-1), where + _corners(geometry, planes, shape))

    return apart(lambda x: in_parts(problem, winners, x), x)


def _starts(geometry: Geometry, axis: int) -> Array:
    """Where the windows of an axis begin."""
    _, _, s, outputs = steps(geometry, axis)
    return lax.iota(np.int32, outputs) * np.int32(s) - np.int32(geometry.padding[axis][0])


def _along(axis: int, values: Array, shape: Sequence[int]) -> Array:
    """Integers along a spatial axis, the same for all else."""
    return lax.broadcast_in_dim(values, shape, (axis + 1,))


def _corners(geometry: Geometry, planes: Sequence[int], shape: Sequence[int]) -> Array:
    """Flat position of each window's first tap, be it padding or not."""
    corners = (_starts(geometry, axis) * np.int32(plane) for axis, plane in enumerate(planes))
    return total([_along(axis, corner, shape) for axis, corner in enumerate(corners)])


def _first_elements(geometry: Geometry, planes: Sequence[int], shape: Sequence[int]) -> Array:
    """Each window's first tap that is no padding, from its corner on; negative where none is."""
    offsets, empty = [], []
    for axis, plane in enumerate(planes):
        k, d, _, _ = steps(geometry, axis)
        before = jnp.maximum(-_starts(geometry, axis), 0)  # elements of padding ahead
        first = lax.div(before + np.int32(d - 1), np.int32(d))
        beyond = _starts(geometry, axis) + first * np.int32(d) >= geometry.spatial[axis]
        offsets.append(_along(axis, first * np.int32(d * plane), shape))
        empty.append(_along(axis, beyond | (first >= k), shape))
    nothing = functools.reduce(jnp.logical_or, empty)
    return jnp.where(nothing, np.int32(-1), total(offsets))


def place(problem: Problem, y: Array, where: Array) -> Array:
    """x[t] = sum_j y[Q - j] over those windows that t has won, t = Q*stride + r - low."""
    geometry, dtype = problem.form.geometry, problem.form.dtypes[0]
    y = y.astype(accumulator(dtype))
    axes = [_reaching(geometry, axis) for axis in range(geometry.rank)]
    frames = [
        Frame(axis + 1, first - reach, count + reach)
        for axis, (first, count, reach, _) in enumerate(axes)
    ]
    y, where = framed(y, frames), framed(where, frames, -1)
    shape = [y.shape[0]]
    for (_, count, _, _), s in zip(axes, geometry.stride, strict=True):
        shape += [count, s]
    shape.append(y.shape[-1])
    kept = (0, *range(1, len(shape) - 1, 2), len(shape) - 1)
    mine = _positions(geometry, axes, shape)
    result = jnp.zeros(shape, y.dtype)
    for at in itertools.product(*(shifts for _, _, _, shifts in axes)):
        cuts = [
            (axis + 1, reach - j, count, 1)
            for axis, ((_, count, reach, _), j) in enumerate(zip(axes, at, strict=True))
        ]
        winner = lax.broadcast_in_dim(cut(where, cuts), shape, kept)
        value = lax.broadcast_in_dim(cut(y, cuts), shape, kept)
        result = result + jnp.where(winner == mine, value, np.zeros((), y.dtype))
    merged = [shape[at] * shape[at + 1] for at in range(1, len(shape) - 1, 2)]
    result = result.reshape(shape[0], *merged, shape[-1])
    return framed(result, residue_frames(geometry, 1)).astype(dtype)


def _reaching(geometry: Geometry, axis: int) -> tuple[int, int, int, range]:
    """First Q and their number, the largest j, and all j, of the windows that elements lie in."""
    k, d, s, _ = steps(geometry, axis)
    reach = (-(-k // s) - 1) * d
    return *quotients(geometry, axis), reach, range(0, reach + 1, d)


def _positions(geometry: Geometry, axes: Sequence[Any], shape: Sequence[int]) -> Array:
    """The flat position of element `Q*s + r - low` of each axis; beyond the plane, some other."""
    mine = jnp.zeros(shape, np.int32)
    for axis, (first, _, _, _) in enumerate(axes):
        plane = math.prod(geometry.spatial[axis + 1 :])
        s, low = geometry.stride[axis], geometry.padding[axis][0]
        block = lax.broadcasted_iota(np.int32, shape, 1 + 2 * axis)
        residue = lax.broadcasted_iota(np.int32, shape, 2 + 2 * axis)
        mine = mine + (
            (block + np.int32(first)) * np.int32(s) + residue - np.int32(low)
        ) * np.int32(plane)
    return mine


ALGORITHM = Algorithm("winners", {"window_argmax": window_argmax, "place": place}, refuses)
