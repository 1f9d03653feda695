"""`slices`: pools as maxima and sums of shifted slices, on images `(n, *spatial, c)`.

    window_max      y[s] = max_a x[s*stride + a*dilation - low]
    window_sum      the same with a sum
    window_spread   its transpose: x[Q*stride + r - low] = sum_j y[Q - j] over the taps r + j*stride
    window_argmax   the flat position of the winner
    place           x[t] = sum of y[Q - j] over the windows that t lies in and has won

A window of a few taps is one expression. A longer one is taken axis by axis, each in log2(k) steps:
a window of 2*L is two windows of L, L apart. A sum is put together of such windows end to end, by
the binary digits of k, so nothing is ever subtracted; a maximum's two may overlap.

XLA:CPU's `reduce_window` runs through each window element by element (15x15: over 100 times as
long), its gradient of a maximum through all windows on one core, and a scatter likewise.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import accumulator
from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._frame import Frame, apart, cut, framed
from .reduce_window import lowest

#: Windows of at most so many taps are one expression.
MOST_TAPS = 16
#: Frames of more bytes than this are taken in parts: the C library takes blocks of 32 MiB and more
#: fresh from the system each time, which costs more than to fill them.
MOST_BYTES = 2**24

Combine = Callable[[Any, Any], Any]


def window_max(problem: Problem, x: Array) -> Array:
    """y[s] = max_a x[s*stride + a*dilation - low]; NaN wins, padding never does."""
    return _in_parts(
        problem, lambda x: _windows(problem.form.geometry, x, lowest(x.dtype), lax.max), x
    )


def window_sum(problem: Problem, x: Array) -> Array:
    """y[s] = sum_a x[s*stride + a*dilation - low], summed in float32 for half precision."""
    result = problem.form.dtypes[1]

    def summed(x: Array) -> Array:
        wide = x.astype(accumulator(result))
        return _windows(problem.form.geometry, wide, 0, lax.add).astype(result)

    return _in_parts(problem, summed, x)


def window_spread(problem: Problem, y: Array) -> Array:
    """x[t] = sum_{s, a: s*stride + a*dilation - low = t} y[s], axis after axis."""
    geometry, dtype = problem.form.geometry, problem.form.dtypes[0]
    x = y.astype(accumulator(dtype))
    for axis in range(geometry.rank):
        x = _spread_axis(geometry, axis, x)
    return x.astype(dtype)


def refuses(problem: Problem) -> str | None:
    """Windows of one size; strided ones undilated where results are put together again."""
    geometry = problem.form.geometry
    if not isinstance(geometry, Geometry):
        return "windows are of unequal sizes"
    if problem.projection in ("window_argmax", "place"):
        if math.prod(geometry.window) > MOST_TAPS:
            return f"it writes out at most {MOST_TAPS} taps of a window"
    elif geometry.output == (1,) * geometry.rank and geometry.window == geometry.spatial:
        return "a window that is the whole input is a plain reduction"
    if problem.projection in ("window_spread", "place"):
        steps = zip(geometry.stride, geometry.dilation, strict=True)
        if any(s > 1 and d > 1 for s, d in steps):
            return "an axis has both stride and dilation"
    return None


def _in_parts(problem: Problem, function: Callable[[Array], Array], x: Array) -> Array:
    """`function` of parts of the batch, put together, where a frame would be a large block."""
    parts = -(-math.prod(x.shape) * x.dtype.itemsize // MOST_BYTES)
    padded = any(low > 0 or high > 0 for low, high in problem.form.geometry.padding)
    if not padded or parts == 1 or x.shape[0] == 1:
        return function(x)
    size = -(-x.shape[0] // parts)
    starts = range(0, x.shape[0], size)
    return lax.concatenate([function(x[start : start + size]) for start in starts], 0)


def _read(geometry: Geometry, axis: int) -> Frame:
    """The frame that the windows of an axis read."""
    length = (geometry.output[axis] - 1) * geometry.stride[axis] + geometry.extent[axis]
    return Frame(axis + 1, -geometry.padding[axis][0], length)


def _windows(geometry: Geometry, x: Array, outside: Any, combine: Combine) -> Array:
    """All windows' elements combined; `outside` is what padding is made of."""
    rank = geometry.rank
    if math.prod(geometry.window) <= MOST_TAPS:
        x = framed(x, [_read(geometry, axis) for axis in range(rank)], outside)
        taps = itertools.product(*map(range, geometry.window))
        return _combined([_tap(geometry, x, at) for at in taps], combine)
    for axis in range(rank):
        x = framed(x, [_read(geometry, axis)], outside)
        x = _axis_windows(x, axis + 1, _steps(geometry, axis), combine)
    return x


def _steps(geometry: Geometry, axis: int) -> tuple[int, int, int, int]:
    return (
        geometry.window[axis],
        geometry.dilation[axis],
        geometry.stride[axis],
        geometry.output[axis],
    )


def _tap(geometry: Geometry, x: Array, at: Sequence[int]) -> Array:
    """The elements that all windows have at one tap."""
    return cut(
        x,
        [
            (axis + 1, a * geometry.dilation[axis], geometry.output[axis], geometry.stride[axis])
            for axis, a in enumerate(at)
        ],
    )


def _combined(terms: Sequence[Array], combine: Combine) -> Array:
    result = terms[0]
    for term in terms[1:]:
        result = combine(result, term)
    return result


def _axis_windows(x: Array, axis: int, steps: tuple[int, int, int, int], combine: Combine) -> Array:
    """Windows of k taps, d apart, along one axis, in log2(k) steps; every s-th is wanted."""
    k, d, s, outputs = steps
    size, offset, parts = 1, 0, []
    while True:
        if size & k and combine is not lax.max:
            parts.append((x, offset))
            offset += size * d
        if 2 * size > k:
            break
        length = x.shape[axis] - size * d
        x = combine(cut(x, [(axis, 0, length, 1)]), cut(x, [(axis, size * d, length, 1)]))
        size *= 2
    if combine is lax.max:
        parts = [(x, 0), (x, (k - size) * d)][: 1 if k == size else 2]
    return _combined([cut(part, [(axis, start, outputs, s)]) for part, start in parts], combine)


def _spread_axis(geometry: Geometry, axis: int, y: Array) -> Array:
    """`x[Q*s + r - low] = sum_j y[Q - j]`, j over the taps r + j*s (or j*d) that there are."""
    k, d, s, _ = _steps(geometry, axis)
    n, low = geometry.spatial[axis], geometry.padding[axis][0]
    first, last = low // s, (n - 1 + low) // s
    count, at = last - first + 1, axis + 1
    longest = -(-k // s)
    full = k - (longest - 1) * s

    def windows(taps: int) -> Array:
        if not taps:
            return jnp.zeros((*y.shape[:at], count, *y.shape[at + 1 :]), y.dtype)
        reach = (taps - 1) * d
        frame = framed(y, [Frame(at, first - reach, count + reach)])
        return _axis_windows(frame, at, (taps, d, 1, count), lax.add)

    x = windows(longest)
    if s > 1:
        shape = (*x.shape[: at + 1], s, *x.shape[at + 1 :])
        kept = [place for place in range(len(shape)) if place != at + 1]
        wide = lax.broadcast_in_dim(x, shape, kept)
        if full < s:
            residue = lax.broadcasted_iota(np.int32, shape, at + 1)
            wide = jnp.where(
                residue < full, wide, lax.broadcast_in_dim(windows(longest - 1), shape, kept)
            )
        x = wide.reshape(*x.shape[:at], count * s, *x.shape[at + 1 :])
    return framed(x, [Frame(at, low - s * first, n)])


# The derivative of a maximum.


def window_argmax(problem: Problem, x: Array) -> Array:
    """Flat position of each window's first greatest element in row-major order, NaN the greatest.

    Padding is less than or equal to all, and only what is greater wins over what came before. To
    start with, a window's first element that is no padding has won.
    """
    geometry = problem.form.geometry
    planes = [math.prod(geometry.spatial[axis + 1 :]) for axis in range(geometry.rank)]

    def winners(x: Array) -> Array:
        x = framed(x, [_read(geometry, axis) for axis in range(geometry.rank)], lowest(x.dtype))
        best: Any = None
        shape = (x.shape[0], *geometry.output, x.shape[-1])
        where = _first_elements(geometry, planes, shape)
        for at in itertools.product(*map(range, geometry.window)):
            value = _tap(geometry, x, at)
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

    return apart(lambda x: _in_parts(problem, winners, x), x)


def _along(geometry: Geometry, axis: int, values: np.ndarray, shape: Sequence[int]) -> Array:
    """Integers along a spatial axis, the same for all else."""
    return lax.broadcast_in_dim(jnp.asarray(values, np.int32), shape, (axis + 1,))


def _corners(geometry: Geometry, planes: Sequence[int], shape: Sequence[int]) -> Array:
    """Flat position of each window's first tap, be it padding or not."""
    corner = jnp.zeros(shape, np.int32)
    for axis, plane in enumerate(planes):
        starts = (
            np.arange(geometry.output[axis]) * geometry.stride[axis] - geometry.padding[axis][0]
        )
        corner = corner + _along(geometry, axis, starts * plane, shape)
    return corner


def _first_elements(geometry: Geometry, planes: Sequence[int], shape: Sequence[int]) -> Array:
    """Each window's first tap that is no padding, from its corner on; negative where none is."""
    first = jnp.zeros(shape, np.int32)
    empty = jnp.zeros(shape, bool)
    for axis, plane in enumerate(planes):
        k, d, s, outputs = _steps(geometry, axis)
        starts = np.arange(outputs)[:, None] * s - geometry.padding[axis][0]
        positions = starts + np.arange(k) * d
        inside = (positions >= 0) & (positions < geometry.spatial[axis])
        first = first + _along(geometry, axis, inside.argmax(1) * d * plane, shape)
        empty = empty | (_along(geometry, axis, inside.any(1), shape) == 0)
    return jnp.where(empty, np.int32(-1), first)


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
    crops = [
        Frame(axis + 1, geometry.padding[axis][0] - geometry.stride[axis] * first, n)
        for axis, ((first, _, _, _), n) in enumerate(zip(axes, geometry.spatial, strict=True))
    ]
    return framed(result, crops).astype(dtype)


def _reaching(geometry: Geometry, axis: int) -> tuple[int, int, int, range]:
    """First Q and their number, the largest j, and all j, of the windows that elements lie in."""
    k, d, s, _ = _steps(geometry, axis)
    low = geometry.padding[axis][0]
    first, last = low // s, (geometry.spatial[axis] - 1 + low) // s
    reach = (-(-k // s) - 1) * d
    return first, last - first + 1, reach, range(0, reach + 1, d)


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


ALGORITHM = Algorithm(
    "slices",
    {
        "window_max": window_max,
        "window_sum": window_sum,
        "window_spread": window_spread,
        "window_argmax": window_argmax,
        "place": place,
    },
    refuses,
)
