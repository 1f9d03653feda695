"""What the written-out algorithms share: frames, cuts, layouts and dtypes.

A *frame* of an axis is a range of positions that may begin before the array and end behind it. All
padding and cropping of the written-out algorithms is asking for a frame; what lies outside is
zero, or what loses where the greatest wins.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import HALF, accumulator
from .._form import PROJECTIONS, Form, Problem, Shape
from .._geometry import Geometry
from ._apart import apart
from ._cast import cast

_RECORD: contextvars.ContextVar[list[tuple[str, str]] | None] = contextvars.ContextVar(
    "record", default=None
)

#: Bytes of a block that is written out: what a cache of 32 MiB that others use too still keeps, and
#: what is little anywhere.
MOST_BLOCK, LEAST_BLOCK = 7 * 2**20, 2**22

Compute = Callable[[Problem, Array, Array], Array]


class Frame(NamedTuple):
    """Positions `start` to `start + length` of an axis."""

    axis: int
    start: int
    length: int


def framed(array: Array, frames: Sequence[Frame], outside: Any = 0) -> Array:
    """What lies in the frames, `outside` where the array has nothing."""
    starts, stops = [0] * array.ndim, list(array.shape)
    pads = [(0, 0)] * array.ndim
    for axis, start, length in frames:
        size, stop = array.shape[axis], start + length
        starts[axis] = min(max(start, 0), size)
        stops[axis] = max(min(stop, size), starts[axis])
        kept = stops[axis] - starts[axis]
        low = min(max(-start, 0), length)
        pads[axis] = (low, length - low - kept)
    if any(starts) or stops != list(array.shape):
        array = lax.slice(array, starts, stops)
    return _padded(array, pads, outside)


def _padded(array: Array, pads: Sequence[tuple[int, int]], outside: Any) -> Array:
    """`(low, high)` more elements of each axis.

    With as few axes as possible, the last of them as long as possible, which XLA:CPU pads up to
    four times as fast: axes without padding are merged with the one before.
    """
    merged: list[tuple[int, int, int]] = []
    for size, (low, high) in zip(array.shape, pads, strict=True):
        if merged and not (low or high):
            before = merged.pop()
            merged.append((size * before[0], size * before[1], size * before[2]))
        else:
            merged.append((size, low, high))
    if all(low == high == 0 for _, low, high in merged):
        return array
    sizes, lows, highs = zip(*merged, strict=True)
    sides = [(low, high, 0) for low, high in zip(lows, highs, strict=True)]
    whole = lax.pad(array.reshape(sizes), np.asarray(outside, array.dtype), sides)
    pairs = zip(array.shape, pads, strict=True)
    return whole.reshape([low + size + high for size, (low, high) in pairs])


def read_frames(geometry: Geometry, first: int) -> list[Frame]:
    """What all windows read of x, whose spatial axes begin with `first`."""
    axes = zip(geometry.padding, geometry.read, strict=True)
    return [Frame(first + axis, -low, length) for axis, ((low, _), length) in enumerate(axes)]


def own_frames(geometry: Geometry, first: int) -> list[Frame]:
    """Where x itself is in what all windows read."""
    axes = zip(geometry.padding, geometry.spatial, strict=True)
    return [Frame(first + axis, low, size) for axis, ((low, _), size) in enumerate(axes)]


def quotients(geometry: Geometry, axis: int, lead: int = 0) -> tuple[int, int]:
    """The first Q, and how many, of all `t = Q*stride + r - low` that x has along an axis; as if it
    began `lead` elements ahead."""
    low, s = geometry.padding[axis][0] + lead, geometry.stride[axis]
    first, last = low // s, (geometry.spatial[axis] - 1 + low) // s
    return first, last - first + 1


def residue_frames(geometry: Geometry, first: int) -> list[Frame]:
    """Where x itself is in all residues of all its quotients."""
    axes = zip(geometry.padding, geometry.stride, geometry.spatial, strict=True)
    return [Frame(first + axis, low % s, n) for axis, ((low, _), s, n) in enumerate(axes)]


def cut(array: Array, cuts: Sequence[tuple[int, int, int, int]]) -> Array:
    """`(axis, start, count, step)`: so many elements of an axis, a step apart."""
    starts, stops, steps = [0] * array.ndim, list(array.shape), [1] * array.ndim
    for axis, start, count, step in cuts:
        starts[axis], stops[axis], steps[axis] = start, start + (count - 1) * step + 1, step
    return lax.slice(array, starts, stops, steps)


def total(terms: Sequence[Array]) -> Array:
    """The sum, from the first term on."""
    return functools.reduce(operator.add, terms)


def stacked(array: Array, groups: int, axis: int) -> Array:
    """Groups, which an axis has outermost, as an axis of their own in front."""
    shape = (*array.shape[:axis], groups, array.shape[axis] // groups, *array.shape[axis + 1 :])
    return jnp.moveaxis(array.reshape(shape), axis, 0)


def unstacked(array: Array, axis: int) -> Array:
    """The inverse of `stacked`."""
    moved = jnp.moveaxis(array, 0, axis)
    return lax.collapse(moved, axis, axis + 2)


def solve(problem: Problem, projection: str, geometry: Geometry, a: Array, b: Array) -> Array:
    """A projection of another form, one that a problem was reduced to, by the table's choice.

    The algorithm that was asked for is not asked for again.
    """
    form = dataclasses.replace(problem.form, geometry=geometry, algorithm="auto")
    shapes = (a.shape, b.shape)
    part = dataclasses.replace(problem, projection=projection, form=form, shapes=shapes)
    if 0 in (*a.shape, *b.shape):
        return jnp.zeros(form.result_shape(projection, a.shape, b.shape), result_dtype(part))
    if part.choose is None:
        raise TypeError(f"a problem that is reduced to others needs a choice; got {problem}")
    algorithm, reason = part.choose(part)
    record = _RECORD.get()
    if record is not None:
        record.append((algorithm.name, reason))
    return algorithm.maps[projection](part, a, b)


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, str]]]:
    """What `solve` chooses while this is open: names and reasons, in order."""
    record: list[tuple[str, str]] = []
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


def residues(
    x: Array,
    frames: Sequence[Frame],
    stride: int,
    outside: Any = 0,
    wanted: Sequence[int] | None = None,
) -> list[Array]:
    """What lies in the frames, every `stride`-th element of the last of them: one array for each
    residue, or for those that are wanted.

    A tap then is a dense slice of one of them, where strided ones are read one by one.
    """
    *others, (axis, start, length) = frames
    size, parts = x.shape[axis], []
    for residue in range(stride) if wanted is None else wanted:
        missing = max(0, -((start + residue) // stride))
        begin = min(start + residue + missing * stride, size)
        part = lax.slice_in_dim(x, begin, size, stride, axis)
        parts.append(framed(part, [*others, Frame(axis, -missing, -(-length // stride))], outside))
    return parts


def residue_cut(xs: Sequence[Array], cuts: Sequence[tuple[int, int, int, int]]) -> Array:
    """`cut` of the array that `residues` has taken apart, whose last axis is cut by the stride."""
    *others, (axis, start, count, step) = cuts
    stride = len(xs)
    return cut(xs[start % stride], [*others, (axis, start // stride, count, step // stride)])


def ranked(half: Array, signed_zeros: bool = True) -> Array:
    """Half precision as 16-bit integers in the same order, every NaN the greatest; both zeros are
    equal if their signs do not count.

    XLA:CPU compares half precision by widening and rounding again each time, integers in vectors.
    """
    bits = lax.bitcast_convert_type(half, np.int16)
    size = bits & np.int16(0x7FFF)
    ranks = jnp.where(bits < 0, ~size, bits)
    if not signed_zeros:
        ranks = jnp.where(ranks == -1, np.int16(0), ranks)
    return jnp.where(size > _infinity(half.dtype), np.int16(0x7FFF), ranks)


def _infinity(dtype: np.dtype) -> np.ndarray:
    return np.asarray(np.inf, dtype).view(np.int16)


def lowest_rank(dtype: np.dtype) -> np.ndarray:
    """The rank of minus infinity."""
    return ~_infinity(dtype)


def unranked(ranks: Array, dtype: np.dtype) -> Array:
    """The inverse of `ranked`."""
    bits = jnp.where(ranks < 0, ~ranks | np.int16(-0x8000), ranks)
    return lax.bitcast_convert_type(bits, dtype)


def wide(array: Array) -> Array:
    """Half precision as single precision, in memory of its own.

    XLA:CPU has no arithmetic for less: it would widen each number anew for each tap that reads it.
    """
    if array.dtype not in HALF:
        return array
    return apart(lambda half: cast(half, np.float32), array)


def widened(problem: Problem, compute: Compute, a: Array, b: Array) -> Array:
    """`compute` in single precision where a problem is in half, rounded once, all on its own."""
    dtypes = tuple(accumulator(dtype) for dtype in problem.form.dtypes)
    if dtypes == problem.form.dtypes:
        return compute(problem, a, b)
    single = dataclasses.replace(problem, form=dataclasses.replace(problem.form, dtypes=dtypes))
    result = apart(functools.partial(compute, single), wide(a), wide(b))
    return cast(result, result_dtype(problem))


def sum_dtype(problem: Problem) -> np.dtype:
    """What products are summed in: wide enough for all three arrays, float32 for half precision."""
    dtypes = (accumulator(problem.form.dtype(array)) for array in PROJECTIONS[problem.projection])
    # Whatever promotion the caller allows: these dtypes were settled at the door.
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def result_dtype(problem: Problem) -> np.dtype:
    return problem.form.dtype(PROJECTIONS[problem.projection][2])


def block_bytes(problem: Problem) -> int:
    """How large a block of what is written out may be: as large as operands and result, but neither
    so small that blocks cost more than they save, nor too large for the shared cache."""
    result = problem.form.result_shape(problem.projection, *problem.shapes)
    given = sum(math.prod(shape) for shape in (*problem.shapes, result))
    return min(MOST_BLOCK, max(given * sum_dtype(problem).itemsize, LEAST_BLOCK))


def as_output(problem: Problem, compute: Compute, y: Array, w: Array) -> Array:
    """An input gradient of stride 1 by `compute`, which computes outputs.

    It is the full convolution: y padded by `e - 1 - low` and correlated with the kernel turned by
    180 degrees, input and output channels exchanged within each group.
    """
    groups, (outer, inner) = problem.form.geometry.groups, problem.form.layout.kernel_axes
    turned = rotated(problem, w)
    if groups == 1:
        turned = jnp.swapaxes(turned, outer, inner)
    else:
        turned = jnp.swapaxes(stacked(turned, groups, outer), outer + 1, inner + 1)
        turned = unstacked(turned, outer)
    return compute(of_outputs(problem, y.shape, turned.shape), y, turned)


def rotated(problem: Problem, w: Array) -> Array:
    """The kernel turned by 180 degrees, its channels as they are."""
    channels = problem.form.layout.kernel_axes
    return lax.rev(w, tuple(axis for axis in range(w.ndim) if axis not in channels))


def of_outputs(problem: Problem, image: Shape, kernel: Shape) -> Problem:
    """The problem of outputs that an input gradient of stride 1 is, of errors and a turned kernel
    of these shapes."""
    geometry = problem.form.geometry
    sides = zip(geometry.extent, geometry.padding, geometry.spatial, geometry.output, strict=True)
    padding = tuple((e - 1 - low, n + low - m) for e, (low, _), n, m in sides)
    turned = dataclasses.replace(geometry, spatial=geometry.output, padding=padding)
    x, kernel_dtype, y = problem.form.dtypes
    form = dataclasses.replace(problem.form, geometry=turned, dtypes=(y, kernel_dtype, x))
    return dataclasses.replace(problem, projection="output", form=form, shapes=(image, kernel))


def blocks(form: Form, shapes: Sequence[tuple[int, ...]], projection: str) -> tuple[int, int, int]:
    """`(groups, inputs of a group, outputs of a group)`."""
    layout, groups = form.layout, form.geometry.groups
    sizes = dict(zip(PROJECTIONS[projection], shapes, strict=False))
    if "w" in sizes:
        c_o, c_i, _ = layout.split_kernel(sizes["w"])
        return groups, c_i, c_o // groups
    return groups, layout.channels(sizes["x"]) // groups, layout.channels(sizes["y"]) // groups
