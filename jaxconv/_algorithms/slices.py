"""`slices`: pools as maxima and sums of shifted slices, on images `(n, *spatial, c)`.

    window_max      y[s] = max_a x[s*stride + a*dilation - low]
    window_sum      the same with a sum
    window_spread   its transpose: x[Q*stride + r - low] = sum_j y[Q - j] over the taps r + j*stride

A window of a few taps is one expression. A longer one is taken axis by axis, each in log2(k) steps:
a window of 2*L is two windows of L, L apart. A sum is put together of such windows end to end, by
the binary digits of k, so nothing is ever subtracted; a maximum's two may overlap.

XLA:CPU's `reduce_window` runs through each window element by element (15x15: over 100 times as
long).
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import HALF, accumulator
from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._apart import MOST_UNROLLED, apart, collected, cut_up, taken
from ._cast import bits, cast, from_bits
from ._frame import (
    Frame,
    cut,
    framed,
    lowest_rank,
    quotients,
    ranked,
    read_frames,
    total,
    unranked,
)
from ._greatest import greatest
from .reduce_window import lowest

#: Windows of at most so many taps are one expression.
MOST_TAPS = 16
#: Fewer channels are no vector.
LEAST_CHANNELS = 8
#: Frames of more bytes than this are taken in parts: the C library takes blocks of 32 MiB and more
#: fresh from the system each time, and gives such back that it has much of, which costs more than
#: to fill them.
MOST_BYTES = 2**23

Combine = Callable[[Any, Any], Any]


def window_max(problem: Problem, x: Array) -> Array:
    """y[s] = max_a x[s*stride + a*dilation - low]; NaN wins, padding never does."""
    geometry = problem.form.geometry
    if x.dtype not in HALF:
        outside = lowest(x.dtype)
        return in_parts(problem, lambda x: _windows(geometry, x, outside, lax.max), x)

    overlap = overlaps(geometry)
    if not overlap and x.dtype == jnp.bfloat16:
        # Each is compared once, and widened in that loop; ranks are for those compared often.
        outside = lowest(np.dtype(np.float32))

        def by_number(part: Array) -> Array:
            return _windows(geometry, cast(part, np.float32), outside, lax.max)

        return cast(in_parts(problem, by_number, x), x.dtype)

    def by_rank(part: Array) -> Array:
        ranks = apart(ranked, part) if overlap else ranked(part)
        return _windows(geometry, ranks, lowest_rank(x.dtype), lax.max)

    return unranked(in_parts(problem, by_rank, x, copied=overlap), x.dtype)


def window_sum(problem: Problem, x: Array) -> Array:
    """y[s] = sum_a x[s*stride + a*dilation - low], summed in float32 for half precision."""
    geometry, result = problem.form.geometry, problem.form.dtypes[1]
    if _is_all(geometry):
        y = cast(_sum(x, accumulator(result)), result)
        return y.reshape(problem.form.output_shape(x.shape))

    def summed(x: Array) -> Array:
        return cast(_windows(geometry, cast(x, accumulator(result)), 0, lax.add), result)

    return in_parts(problem, summed, x)


def window_spread(problem: Problem, y: Array) -> Array:
    """x[t] = sum_{s, a: s*stride + a*dilation - low = t} y[s], axis after axis."""
    geometry, dtype = problem.form.geometry, problem.form.dtypes[0]
    if overlaps(geometry) or dtype not in HALF or y.shape[-1] > 1:
        return cast(_spread(geometry, cast(y, accumulator(dtype))), dtype)
    # What is not added up is rounded before it is given back, by its bits; in one loop only where
    # channels are a vector.
    rounded = apart(lambda y: bits(cast(y, dtype)), y)
    return from_bits(_spread(geometry, rounded), dtype)


def _spread(geometry: Geometry, x: Array) -> Array:
    for axis in range(geometry.rank):
        x = _spread_axis(geometry, axis, x)
    return x


def refuses(problem: Problem) -> str | None:
    """Windows of one size; strided ones undilated where results are put together again."""
    geometry = problem.form.geometry
    if not isinstance(geometry, Geometry):
        return "windows are of unequal sizes"
    if problem.projection == "window_spread":
        if is_whole(geometry):
            return "what is given back to all of the input is a plain broadcast"
        steps = zip(geometry.stride, geometry.dilation, strict=True)
        if any(s > 1 and d > 1 for s, d in steps):
            return "an axis has both stride and dilation"
    return None


def in_parts(
    problem: Problem, function: Callable[[Array], Array], x: Array, copied: bool = False
) -> Array:
    """`function` of parts of the batch, put together, where a frame would be a large block.

    There is none without padding, unless x is `copied` all the same.
    """
    n, held = x.shape[0], math.prod(x.shape) * x.dtype.itemsize
    copied |= any(low > 0 or high > 0 for low, high in problem.form.geometry.padding)
    parts = cut_up(n, 1, n * MOST_BYTES // held if copied else n, MOST_UNROLLED)
    return collected(lambda part, x: function(taken(x, part, 1, 0, x.shape[1])), parts, 1, x)


def comparable(x: Array) -> tuple[Array, np.ndarray]:
    """x, and what is less than all of it, in a dtype that is compared in vectors."""
    if x.dtype not in HALF:
        return x, lowest(x.dtype)
    return apart(functools.partial(ranked, signed_zeros=False), x), lowest_rank(x.dtype)


def overlaps(geometry: Geometry) -> bool:
    """Whether windows may have elements in common: some are longer than they are apart."""
    return any(k > s for k, s in zip(geometry.window, geometry.stride, strict=True))


def is_whole(geometry: Geometry) -> bool:
    """Whether there is one window, which is all of the input."""
    starts = all(low == 0 for low, _ in geometry.padding)
    return starts and geometry.output == (1,) * geometry.rank and geometry.read == geometry.spatial


def _windows(geometry: Geometry, x: Array, outside: Any, combine: Combine) -> Array:
    """All windows' elements combined; `outside` is what padding is made of."""
    if combine is lax.max and _is_all(geometry):
        return greatest(_plane(x), 1, "cpu").reshape(len(x), *geometry.output, -1)
    frames = read_frames(geometry, 1)
    if math.prod(geometry.window) <= MOST_TAPS:
        x = framed(x, frames, outside)
        taps = itertools.product(*map(range, geometry.window))
        return functools.reduce(combine, (cut(x, tap_cuts(geometry, at)) for at in taps))
    for axis, frame in enumerate(frames):
        x = framed(x, [frame], outside)
        x = _axis_windows(x, axis + 1, steps(geometry, axis), combine)
    return x


def steps(geometry: Geometry, axis: int) -> tuple[int, int, int, int]:
    """Taps, dilation, stride and windows of an axis; one tap has nothing to lie apart from, and its
    dilation may be any number."""
    return (
        geometry.window[axis],
        geometry.dilation[axis] if geometry.window[axis] > 1 else 1,
        geometry.stride[axis],
        geometry.output[axis],
    )


def tap_cuts(geometry: Geometry, at: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The elements that all windows have at one tap."""
    axes = zip(at, geometry.dilation, geometry.output, geometry.stride, strict=True)
    return [(axis + 1, a * d, m, s) for axis, (a, d, m, s) in enumerate(axes)]


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
    wanted = (cut(part, [(axis, start, outputs, s)]) for part, start in parts)
    return functools.reduce(combine, wanted)


def _is_all(geometry: Geometry) -> bool:
    """Whether there is one window, which leaves nothing out."""
    return is_whole(geometry) and geometry.window == geometry.spatial


def _plane(x: Array) -> Array:
    """Images with one spatial axis, and without that of one channel, which XLA:CPU would take for a
    difference in layout."""
    return x.reshape(len(x), -1, *(c for c in x.shape[-1:] if c > 1))


def _sum(x: Array, dtype: np.dtype) -> Array:
    """The sum of each plane, many slices of it at a time, each time in a loop over channels.

    XLA:CPU gives a reduction to YNNPACK, whose call alone takes as long as a small plane; but it
    widens half precision better than loops do.
    """
    plane, left = _plane(x), []
    if x.dtype != dtype or x.shape[-1] < LEAST_CHANNELS:
        return plane.astype(dtype).sum(1)
    while (size := plane.shape[1]) > MOST_TAPS:
        count = min(MOST_TAPS, math.isqrt(size))
        part = size // count
        left += [plane[:, at] for at in range(count * part, size)]
        starts = range(0, count * part, part)
        plane = apart(functools.partial(_sum_of_slices, starts, part), plane)
    return total([plane[:, at] for at in range(plane.shape[1])] + left)


def _sum_of_slices(starts: Sequence[int], length: int, plane: Array) -> Array:
    return total([lax.slice_in_dim(plane, start, start + length, axis=1) for start in starts])


def _spread_axis(geometry: Geometry, axis: int, y: Array) -> Array:
    """`x[Q*s + r - low] = sum_j y[Q - j]`, j over the taps r + j*s (or j*d) that there are."""
    k, d, s, _ = steps(geometry, axis)
    low, at = geometry.padding[axis][0], axis + 1
    longest = -(-k // s)
    full = k - (longest - 1) * s
    # Where the last residues are short of a tap, the first may be instead: as if there were so many
    # taps ahead of the first. Then no block begins before x, and nothing is cropped there.
    lead = -low % s
    if lead != s - full:
        lead = 0
    (first, count), reach = quotients(geometry, axis, lead), (longest - 1) * d

    def windows(taps: int) -> Array:
        if not taps:
            return jnp.zeros((*y.shape[:at], count, *y.shape[at + 1 :]), y.dtype)
        begin = reach if lead else (taps - 1) * d
        frame = framed(y, [Frame(at, first - begin, count + (taps - 1) * d)])
        return _axis_windows(frame, at, (taps, d, 1, count), lax.add)

    x = windows(longest)
    if s > 1:
        shape = (*x.shape[: at + 1], s, *x.shape[at + 1 :])
        kept = [place for place in range(len(shape)) if place != at + 1]
        wide = lax.broadcast_in_dim(x, shape, kept)
        if full < s:
            # Along its own axis alone: what a loop does not change, XLA computes ahead of it.
            own = [s if place == at + 1 else 1 for place in range(len(shape))]
            residue = lax.broadcasted_iota(np.int32, own, at + 1)
            whole = residue >= lead if lead else residue < full
            shorter = lax.broadcast_in_dim(windows(longest - 1), shape, kept)
            wide = jnp.where(whole, wide, shorter)
        x = wide.reshape(*x.shape[:at], count * s, *x.shape[at + 1 :])
    return framed(x, [Frame(at, (low + lead) % s, geometry.spatial[axis])])


ALGORITHM = Algorithm(
    "slices",
    {"window_max": window_max, "window_sum": window_sum, "window_spread": window_spread},
    refuses,
)
