"""What windows give back to their winners, on images `(n, *spatial, c)`.

    place           x[t] = sum of y[Q - j] over the windows that t lies in and has won

An element t = Q*stride + r - low can only have been won in the windows Q - j, so it asks those few
whether they name it: a gather by shifted slices in place of XLA:CPU's scatter, or of its
select-and-scatter, both of which go through the windows one by one on one core. Where there are
many windows to ask, a scatter it is, to positions in the array as one line, which XLA:CPU does in
half the time that it takes over positions of several axes.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import accumulator
from .._form import Problem
from .._geometry import Geometry
from ._apart import apart
from ._cast import cast
from ._frame import Frame, cut, framed, quotients, total, wide
from ._regions import MOST_TAPS, Region, is_by_regions, regions, starts
from .slices import steps


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


def _scattered(problem: Problem, y: Array, where: Array) -> Array:
    """Each y added where it belongs, in the array as one line."""
    channels, dtype = y.shape[-1], problem.form.dtypes[0]
    shape = problem.form.input_shape(y.shape)
    image = _along(0, where.ndim, shape[0]) * np.int32(math.prod(shape[1:]))
    channel = _along(where.ndim - 1, where.ndim, channels)
    at = jnp.where(where < 0, math.prod(shape), image + where * np.int32(channels) + channel)
    x = jnp.zeros(math.prod(shape), accumulator(dtype))
    # Updates of one element, said so: as plain numbers XLA would copy them to begin with.
    numbers = lax.ScatterDimensionNumbers((1,), (), (0,))
    y, mode = cast(y.reshape(-1, 1), x.dtype), lax.GatherScatterMode.FILL_OR_DROP
    x = lax.scatter_add(x, at.reshape(-1, 1), y, numbers, mode=mode)
    return cast(x.reshape(shape), dtype)


def _along(axis: int, rank: int, size: int) -> Array:
    """Places along one axis of so many. The others have one element: what is the same in each step
    of a loop, XLA computes ahead of it, and keeps."""
    return lax.broadcasted_iota(np.int32, [size if at == axis else 1 for at in range(rank)], axis)


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
        low = geometry.padding[axis][0]
        # As if the first tap were so many elements ahead: then no block begins before the array.
        lead, taps = -low % s, -(-k // s)
        if -(-(k + lead) // s) > taps:
            lead = 0
        low, reach = low + lead, (taps - 1) * d
        first, count = quotients(geometry, axis, lead)
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
    if any(
        axis.repeats > 1 or axis.length != n for axis, n in zip(axes, y.shape[1:], strict=False)
    ):
        y, where = apart(functools.partial(_windows, axes), y, where)
    y = wide(y)
    shape = (y.shape[0], *(n for axis in axes for n in (axis.size, axis.residues)), y.shape[-1])
    kept = (0, *range(1, len(shape) - 1, 2), len(shape) - 1)
    mine = _positions(geometry, axes)
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
    return cast(framed(result, crops), dtype)


def _by_regions(problem: Problem, geometry: Geometry, y: Array, where: Array) -> Array:
    """`_gathered` without stride, written region by region into one array: only what is around the
    middle reads windows that there are not, and has to have them put there."""
    x = jnp.zeros(problem.form.input_shape(y.shape), y.dtype)
    for region in regions(geometry, windows=False):
        placed = _placed(geometry, region, y, where)
        x = lax.dynamic_update_slice(x, placed, starts(region))
    return x


def _placed(geometry: Geometry, region: Region, y: Array, where: Array) -> Array:
    """x[t] = sum_j y[t + low - j*d] over those windows that t has won, t in a region."""
    frames, cuts = [], []
    for axis, part in enumerate(region):
        k, d, _, _ = steps(geometry, axis)
        low, reach = geometry.padding[axis][0], (k - 1) * d
        frames.append(Frame(1 + axis, part.start + low - reach, part.size + reach))
        cuts.append([(1 + axis, j * d, part.size, 1) for j in range(k)])
    y, where = framed(y, frames), framed(where, frames, -1)
    mine = jnp.int32(0)
    for axis, part in enumerate(region):
        plane = np.int32(math.prod(geometry.spatial[axis + 1 :]))
        mine += (_along(1 + axis, y.ndim, part.size) + np.int32(part.start)) * plane
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

    y = cast(y, accumulator(y.dtype))
    return [repeated(framed(y, frames)), repeated(framed(where, frames, -1))]


def _positions(geometry: Geometry, axes: Sequence[_Reach]) -> Array:
    """The flat position of each element of an image; beyond the plane, some other."""
    rank, mine = 2 * len(axes) + 2, jnp.int32(0)
    for at, axis in enumerate(axes):
        plane = np.int32(math.prod(geometry.spatial[at + 1 :]))
        block = _along(1 + 2 * at, rank, axis.size) * np.int32(axis.residues)
        residue = _along(2 + 2 * at, rank, axis.residues)
        mine += (block + residue + np.int32(axis.origin)) * plane
    return mine
