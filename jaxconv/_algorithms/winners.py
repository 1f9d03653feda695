"""`winners`: the derivative of a maximum, on images `(n, *spatial, c)`.

    window_argmax   the flat position of each window's winner
    place           x[t] = sum of y[Q - j] over the windows that t lies in and has won

The winner is found by comparing the taps one after the other, all windows at once. An element
t = Q*stride + r - low can only have been won in the windows Q - j, so it asks those few whether
they name it: a gather by shifted slices in place of XLA:CPU's scatter, or of its
select-and-scatter, both of which go through the windows one by one on one core. Where there are
many windows to ask, a scatter it is, to positions in the array as one line, which XLA:CPU does in
half the time that it takes over positions of several axes.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import HALF, accumulator
from .._check import LARGEST
from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._apart import apart
from ._frame import (
    Frame,
    cut,
    framed,
    lowest_rank,
    quotients,
    ranked,
    read_frames,
    residue_cut,
    residues,
    total,
    wide,
)
from .reduce_window import lowest
from .slices import in_parts, steps, tap_cuts

#: What is to be given back is not copied where it is so large, and channels fill vectors.
LEAST_BYTES, LEAST_CHANNELS = 2**21, 8
#: Most taps of a window: they are written out.
MOST_TAPS = 16


def refuses(problem: Problem) -> str | None:
    """For positions, windows of one size; to give back, an array that int32 counts."""
    geometry = problem.form.geometry
    if problem.projection == "place":
        size = math.prod(problem.form.input_shape(problem.shapes[0]))
        return f"it counts to {LARGEST} elements; there are {size}" if size > LARGEST else None
    if not isinstance(geometry, Geometry):
        return "windows are of unequal sizes"
    taps = math.prod(geometry.window)
    return f"{taps} taps are too many to be written out" if taps > MOST_TAPS else None


def window_argmax(problem: Problem, x: Array) -> Array:
    """Flat position of each window's first greatest element in row-major order, NaN the greatest.

    Padding is less than or equal to all, and only what is greater wins over what came before. To
    start with, a window's first element that is no padding has won.
    """
    geometry = problem.form.geometry
    planes = [math.prod(geometry.spatial[axis + 1 :]) for axis in range(geometry.rank)]

    # Without channels behind it, a strided axis is read one by one, but its residues are not.
    minor = geometry.stride[-1] if problem.shapes[0][-1] == 1 else 1

    def winners(x: Array) -> Array:
        frames, outside = read_frames(geometry, 1), lowest(x.dtype)
        if x.dtype in HALF:
            outside = lowest_rank(x.dtype)
            x = apart(functools.partial(ranked, signed_zeros=False), x)
        parts = apart(lambda x: residues(x, frames, minor, outside), x)
        best: Any = None
        shape = (x.shape[0], *geometry.output, x.shape[-1])
        where = _first_elements(geometry, planes, shape)
        for at in itertools.product(*map(range, geometry.window)):
            value = residue_cut(parts, tap_cuts(geometry, at))
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

    return apart(lambda x: in_parts(problem, winners, x, copied=minor > 1), x)


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
    """x[t] = sum_{s: where[s] = t} y[s]."""
    geometry = problem.form.geometry
    if not isinstance(geometry, Geometry) or math.prod(geometry.window) > MOST_TAPS:
        return _scattered(problem, y, where)
    if any(s > 1 and d > 1 for s, d in zip(geometry.stride, geometry.dilation, strict=True)):
        return _scattered(problem, y, where)
    if is_by_regions(problem):
        return _by_regions(problem, geometry, y, where)
    return _gathered(problem, geometry, y, where)


def is_by_regions(problem: Problem) -> bool:
    """Whether what is given back is so large that its copies would cost more than a few loops."""
    geometry, shape = problem.form.geometry, problem.shapes[0]
    if problem.projection != "place" or not isinstance(geometry, Geometry):
        return False
    if max(geometry.stride) > 1 or math.prod(geometry.window) > MOST_TAPS:
        return False
    large = math.prod(shape) * problem.form.dtypes[1].itemsize >= LEAST_BYTES
    return large and shape[-1] >= LEAST_CHANNELS


def _scattered(problem: Problem, y: Array, where: Array) -> Array:
    """Each y added where it belongs, in the array as one line."""
    n, channels, dtype = y.shape[0], y.shape[-1], problem.form.dtypes[0]
    shape = problem.form.input_shape(y.shape)
    where = where.reshape(n, -1, channels)
    image = lax.broadcasted_iota(np.int32, where.shape, 0) * np.int32(math.prod(shape[1:]))
    channel = lax.broadcasted_iota(np.int32, where.shape, 2)
    at = jnp.where(where < 0, math.prod(shape), image + where * np.int32(channels) + channel)
    x = jnp.zeros(math.prod(shape), accumulator(dtype))
    x = x.at[at.reshape(-1)].add(y.reshape(-1).astype(x.dtype), mode="drop")
    return x.reshape(shape).astype(dtype)


class _Reach(NamedTuple):
    """One axis of the elements, and the windows that each of them lies in.

    Attributes:
        start, length: the frame of the windows.
        repeats: how often each window is written out, one behind the other.
        cuts: where elements' windows begin, for each of the windows that they lie in.
        size, residues: so many elements, in so many blocks.
        origin: the position of the first.
        crop: how many are before the first that there is.
    """

    start: int
    length: int
    repeats: int
    cuts: tuple[int, ...]
    size: int
    residues: int
    origin: int
    crop: int


def _reaches(geometry: Geometry, channels: int) -> list[_Reach]:
    reaches = []
    for axis in range(geometry.rank):
        k, d, s, _ = steps(geometry, axis)
        (first, count), low = quotients(geometry, axis), geometry.padding[axis][0]
        reach = (-(-k // s) - 1) * d
        begins = tuple(reach - j for j in range(0, reach + 1, d))
        blocks = first - reach, count + reach, 1, begins, count, s, first * s - low, low % s
        reaches.append(_Reach(*blocks))
    if channels == 1:  # nothing behind the last axis: its residues would not fill a vector
        last, s = reaches[-1], geometry.stride[-1]
        begins = tuple(last.crop + begin * s for begin in last.cuts)
        size = geometry.spatial[-1]
        reaches[-1] = _Reach(last.start, last.length, s, begins, size, 1, 0, 0)
    return reaches


def _gathered(problem: Problem, geometry: Geometry, y: Array, where: Array) -> Array:
    """x[t] = sum_j y[Q - j] over those windows that t has won, t = Q*stride + r - low."""
    dtype, axes = problem.form.dtypes[0], _reaches(geometry, y.shape[-1])
    y = wide(y)
    if any(
        axis.repeats > 1 or axis.length != n for axis, n in zip(axes, y.shape[1:], strict=False)
    ):
        y, where = apart(functools.partial(_windows, axes), y, where)
    shape = (y.shape[0], *(n for axis in axes for n in (axis.size, axis.residues)), y.shape[-1])
    kept = (0, *range(1, len(shape) - 1, 2), len(shape) - 1)
    mine = _positions(geometry, axes, shape)
    result = jnp.zeros(shape, y.dtype)
    for begins in itertools.product(*(axis.cuts for axis in axes)):
        cuts = [(1 + at, begins[at], axis.size, 1) for at, axis in enumerate(axes)]
        winner = lax.broadcast_in_dim(cut(where, cuts), shape, kept)
        value = lax.broadcast_in_dim(cut(y, cuts), shape, kept)
        result = result + jnp.where(winner == mine, value, np.zeros((), y.dtype))
    merged = (axis.size * axis.residues for axis in axes)
    result = result.reshape(shape[0], *merged, shape[-1])
    sizes = zip(axes, geometry.spatial, strict=True)
    crops = [Frame(1 + at, axis.crop, size) for at, (axis, size) in enumerate(sizes)]
    return framed(result, crops).astype(dtype)


class _Part(NamedTuple):
    """Elements `start` to `stop` of an axis."""

    start: int
    stop: int


def _regions(geometry: Geometry) -> list[tuple[_Part, ...]]:
    """The elements of a plane: those all of whose windows there are, then what is around them."""
    inner, edges = [], []
    for axis in range(geometry.rank):
        k, d, _, windows = steps(geometry, axis)
        low, size = geometry.padding[axis][0], geometry.spatial[axis]
        start = min(max((k - 1) * d - low, 0), size)
        stop = max(min(windows - low, size), start)
        inner.append(_Part(start, stop))
        edges.append([_Part(0, start), _Part(stop, size)])
    whole = [_Part(0, size) for size in geometry.spatial]
    regions = [tuple(inner)]
    for axis, sides in enumerate(edges):
        regions += [(*inner[:axis], side, *whole[axis + 1 :]) for side in sides]
    return [region for region in regions if all(part.start < part.stop for part in region)]


def _by_regions(problem: Problem, geometry: Geometry, y: Array, where: Array) -> Array:
    """`_gathered` without stride, written region by region into one array: only what is around the
    middle reads windows that there are not, and has to have them put there."""
    dtype = problem.form.dtypes[0]
    y = wide(y)
    x = jnp.zeros(problem.form.input_shape(y.shape), y.dtype)
    for region in _regions(geometry):
        starts = (0, *(part.start for part in region), 0)
        x = lax.dynamic_update_slice(x, _region(geometry, region, y, where), starts)
    return x.astype(dtype)


def _region(geometry: Geometry, region: Sequence[_Part], y: Array, where: Array) -> Array:
    """x[t] = sum_j y[t + low - j*d] over those windows that t has won, t in a region."""
    frames, cuts = [], []
    for axis, (start, stop) in enumerate(region):
        k, d, _, _ = steps(geometry, axis)
        reach, size = (k - 1) * d, stop - start
        frames.append(Frame(1 + axis, start + geometry.padding[axis][0] - reach, size + reach))
        cuts.append([(1 + axis, j * d, size, 1) for j in range(k)])
    y, where = framed(y, frames), framed(where, frames, -1)
    shape = (y.shape[0], *(part.stop - part.start for part in region), y.shape[-1])
    mine = jnp.zeros(shape, np.int32)
    for axis, (start, _) in enumerate(region):
        plane = np.int32(math.prod(geometry.spatial[axis + 1 :]))
        along = lax.broadcasted_iota(np.int32, shape, 1 + axis) + np.int32(start)
        mine = mine + along * plane
    zero = np.zeros((), y.dtype)
    taps = itertools.product(*cuts)
    return total([jnp.where(cut(where, at) == mine, cut(y, at), zero) for at in taps])


def _windows(axes: Sequence[_Reach], y: Array, where: Array) -> list[Array]:
    """The windows that are asked, with what they give and who has won."""
    frames = [Frame(1 + at, axis.start, axis.length) for at, axis in enumerate(axes)]

    def repeated(array: Array) -> Array:
        for at, axis in enumerate(axes):
            if axis.repeats > 1:
                array = jnp.repeat(array, axis.repeats, 1 + at)
        return array

    return [repeated(framed(y, frames)), repeated(framed(where, frames, -1))]


def _positions(geometry: Geometry, axes: Sequence[_Reach], shape: Sequence[int]) -> Array:
    """The flat position of each element; beyond the plane, some other."""
    mine = jnp.zeros(shape, np.int32)
    for at, axis in enumerate(axes):
        plane = np.int32(math.prod(geometry.spatial[at + 1 :]))
        block = lax.broadcasted_iota(np.int32, shape, 1 + 2 * at) * np.int32(axis.residues)
        residue = lax.broadcasted_iota(np.int32, shape, 2 + 2 * at)
        mine = mine + (block + residue + np.int32(axis.origin)) * plane
    return mine


ALGORITHM = Algorithm("winners", {"window_argmax": window_argmax, "place": place}, refuses)
