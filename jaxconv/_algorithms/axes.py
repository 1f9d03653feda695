"""`axes`: pools axis by axis, each by XLA's own reduction of windows, on images `(n, *spatial, c)`.

    window_max      y[s] = max_a x[s*stride + a*dilation - low], the taps of one axis at a time
    window_sum      the same with a sum
    window_spread   its transpose, where nothing is strided: the same sum with other padding
    window_argmax   the same with the greater of two pairs of a value and its flat position

Where windows lie along one axis, XLA:CPU's loop runs in vectors over what is behind that axis, and
leaves out padding row by row: no image is copied to be padded. Windows of several axes it goes
through element by element. A long window is a few taps of windows of a few taps: 15 are 5 of 3.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import HALF, accumulator
from .._form import Problem
from .._geometry import Geometry
from .._lax import by_lax
from ._algorithm import Algorithm
from ._apart import apart
from ._cast import cast
from ._frame import Frame, cut, framed, lowest_rank, ranked, unranked, wide
from ._greatest import greater, is_reduced
from .reduce_window import lowest
from .slices import comparable, in_parts, steps

#: Most taps of one pass.
MOST_TAPS = 32
#: Fewer channels are no vector.
LEAST_BEHIND = 8
#: Greater than every position: that of padding.
NOWHERE = np.uint32(2**32 - 1)

#: As many arrays as are reduced together.
Arrays = tuple[Array, ...]
Reducer = Callable[[Any, Any], Any]


class Pass(NamedTuple):
    """So many taps of an axis, so far apart."""

    taps: int
    step: int


def passes(k: int, overlap: bool, stride: int = 1) -> list[Pass]:
    """k taps as one pass, or as two of fewer taps in all, the second over windows of the first;
    these may lie over one another where that does not change a result. Only windows of the last
    pass are strided."""
    best, least = [Pass(k, 1)], k / stride if k <= MOST_TAPS else math.inf
    for first in range(2, k):
        for step in range(1 if overlap else first, first + 1):
            more, rest = divmod(k - first, step)
            cost, short = first + (more + 2) / stride, max(first, more + 1) <= MOST_TAPS
            if rest == 0 and short and cost <= least:
                best, least = [Pass(first, 1), Pass(more + 1, step)], cost - 1 / stride
    return best


def refuses(problem: Problem) -> str | None:
    """Windows of one size, not too long a prime number of taps; a transpose without stride."""
    geometry = problem.form.geometry
    if not isinstance(geometry, Geometry):
        return "windows are of unequal sizes"
    if problem.projection == "window_spread" and max(geometry.stride) > 1:
        return "what is given back is not strided"
    overlap = _overlaps(problem)
    longest = max(part.taps for k in geometry.window for part in passes(k, overlap))
    return f"{longest} taps are too many for one pass" if longest > MOST_TAPS else None


def _overlaps(problem: Problem) -> bool:
    return problem.projection in ("window_max", "window_argmax")


def window_max(problem: Problem, x: Array) -> Array:
    """y[s] = max_a x[s*stride + a*dilation - low]; NaN wins, padding never does."""
    if x.dtype not in HALF:
        return _windows(problem, (x,), (lowest(x.dtype),), lax.max)[0]
    ranks = _windows(problem, (apart(ranked, x),), (lowest_rank(x.dtype),), lax.max)[0]
    return unranked(ranks, x.dtype)


def window_sum(problem: Problem, x: Array) -> Array:
    """y[s] = sum_a x[s*stride + a*dilation - low], summed in float32 for half precision."""
    result = problem.form.dtypes[1]
    x = cast(wide(x), accumulator(result))
    return cast(_windows(problem, (x,), (np.zeros((), x.dtype),), lax.add)[0], result)


def window_spread(problem: Problem, y: Array) -> Array:
    """x[t] = sum_a y[t + low - a*dilation]: windows of y, the first tap the last."""
    geometry, result = problem.form.geometry, problem.form.dtypes[0]
    y = cast(wide(y), accumulator(result))
    for axis in reversed(range(geometry.rank)):
        k, d, _, outputs = steps(geometry, axis)
        low, size = (k - 1) * d - geometry.padding[axis][0], geometry.spatial[axis]
        sides = low, size + (k - 1) * d - outputs - low
        line = _Line(axis + 1, sides, passes(k, overlap=False), d, 1)
        (y,) = _along(line, (y,), (np.zeros((), y.dtype),), lax.add)
    return cast(y, result)


def window_argmax(problem: Problem, x: Array) -> Array:
    """Flat position of each window's first greatest element in row-major order, NaN the greatest;
    -1 where a window has nothing but padding."""
    geometry = problem.form.geometry
    x, outside = comparable(x)

    def winners(x: Array) -> Array:
        positions = np.arange(math.prod(geometry.spatial), dtype=np.uint32)
        where = jnp.asarray(positions).reshape(1, *geometry.spatial, 1)
        pairs = x, jnp.broadcast_to(where, x.shape)
        return _windows(problem, pairs, (outside, NOWHERE), _greater)[1].astype(np.int32)

    return in_parts(problem, winners, x, copied=True)


def _greater(one: Arrays, other: Arrays) -> Arrays:
    """The pair of the greater value; of two that are equal, that of the lesser position."""
    (a, at), (b, bt) = one, other
    above = (b > a) | ((b != b) & (a == a))
    below = (a > b) | ((a != a) & (b == b))
    first = jnp.minimum(at, bt)
    return jnp.where(above, b, a), jnp.where(above, bt, jnp.where(below, at, first))


class _Line(NamedTuple):
    """Windows along an axis: how much lies before and behind it (negative: is left out), and the
    passes, elements `dilation` apart, windows `stride`."""

    axis: int
    sides: tuple[int, int]
    passes: list[Pass]
    dilation: int
    stride: int


def _windows(problem: Problem, arrays: Arrays, outside: Sequence[Any], reducer: Reducer) -> Arrays:
    """The windows of all axes. Those of the last axis first, where channels are behind it."""
    geometry = problem.form.geometry
    order = range(geometry.rank)
    for axis in order if is_bare(problem) else reversed(order):
        k, d, s, outputs = steps(geometry, axis)
        low, read = geometry.padding[axis][0], geometry.read[axis]
        high = read - geometry.spatial[axis] - low
        # What is left over of a stride makes no window more, and to leave it out would be a copy.
        sides = low, 0 if -s < high < 0 else high
        all_there_are = s > 1 and axis == geometry.rank - 1 and is_bare(problem)
        taps = passes(k, _overlaps(problem), 1 if all_there_are else s)
        line = _Line(axis + 1, sides, taps, d, s)
        if all_there_are:
            arrays = _strided(line, outputs, arrays, outside, reducer)
        else:
            arrays = _along(line, arrays, outside, reducer)
    return arrays


def is_bare(problem: Problem) -> bool:
    """Whether too little is behind the last axis for a vector."""
    return problem.shapes[0][-1] < LEAST_BEHIND


def _strided(
    line: _Line, outputs: int, arrays: Arrays, outside: Sequence[Any], reducer: Reducer
) -> Arrays:
    """Windows of an axis with nothing behind it: all there are, in vectors, then those wanted."""

    def windows(*arrays: Array) -> list[Array]:
        return list(_along(line._replace(stride=1), arrays, outside, reducer))

    cuts = [(line.axis, 0, outputs, line.stride)]
    return tuple(cut(array, cuts) for array in apart(windows, *arrays))


def _along(line: _Line, arrays: Arrays, outside: Sequence[Any], reducer: Reducer) -> Arrays:
    if line == _Line(line.axis, (0, 0), [Pass(1, 1)], line.dilation, 1):
        return arrays
    shape, axis = arrays[0].shape, line.axis
    lined = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    arrays = tuple(array.reshape(lined) for array in arrays)
    padding = line.sides
    if min(padding) < 0:
        frame = Frame(1, -padding[0], sum(padding) + shape[axis])
        pairs = zip(arrays, outside, strict=True)
        arrays, padding = tuple(framed(array, [frame], value) for array, value in pairs), (0, 0)
    for number, (taps, step) in enumerate(line.passes):
        stride = line.stride if number == len(line.passes) - 1 else 1
        read = arrays[0].shape[1] + (0 if number else sum(padding))
        windows = (read - (taps - 1) * step * line.dilation - 1) // stride + 1
        alone = is_reduced(taps, stride, windows)
        reduce = functools.partial(
            lax.reduce_window,
            computation=greater if reducer is lax.max and alone else reducer,
            window_dimensions=(1, taps, 1),
            window_strides=(1, stride, 1),
            padding=[(0, 0), (0, 0) if number else padding, (0, 0)],
            window_dilation=(1, step * line.dilation, 1),
        )
        if len(arrays) == 1:
            arrays = (by_lax(functools.partial(reduce, init_value=outside[0]), arrays[0]),)
        else:
            arrays = reduce(arrays, tuple(outside))
    return tuple(array.reshape(*shape[:axis], -1, *shape[axis + 1 :]) for array in arrays)


ALGORITHM = Algorithm(
    "axes",
    {
        "window_max": window_max,
        "window_sum": window_sum,
        "window_spread": window_spread,
        "window_argmax": window_argmax,
    },
    refuses,
)
