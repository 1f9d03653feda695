"""Sums over taps, axis by axis: what `shift` is made of, and rows of products added up."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._apart import apart, share
from ._frame import Frame, cut, framed, residue_cut, total
from ._several import together

#: Rows of one expression, images of at most so many rows being added up in it together; and
#: expressions written out, before there is a loop over them.
MOST_ROWS, FEW_ROWS, MOST_CHUNKS = 56, 28, 4
#: Sums that are computed by one loop, which reads once what they share, and products of it.
MOST_TOGETHER, MOST_PRODUCTS = 5, 168
#: The least length of the lines that a single axis is cut into, so that they fill vectors.
SHORTEST_LINE = 16

#: The products of a slice of x and one of y; here they may be given axes for pairs of channels.
Multiply = Callable[[Array, Array], Array]


class Axis(NamedTuple):
    """One spatial axis of a sum over taps.

    Attributes:
        start, length: the frame of the operand that the taps are cut from.
        cuts: for each term `(start, step)` of its cut.
        taken: elements of a cut.
        residues: how many results belong to each of them.
        crop: the first result that is wanted.
        size: how many are wanted.
        origin: where the elements of a cut begin in what they are multiplied with.
    """

    start: int
    length: int
    cuts: tuple[tuple[int, int], ...]
    taken: int
    residues: int
    crop: int
    size: int
    origin: int = 0


def frames(axes: Sequence[Axis], first: int) -> list[Frame]:
    """What is read of the image, whose spatial axes begin with `first`."""
    return [Frame(first + at, axis.start, axis.length) for at, axis in enumerate(axes)]


def all_taps(axes: Sequence[Axis]) -> itertools.product:
    return itertools.product(*(range(len(axis.cuts)) for axis in axes))


def tap_cuts(
    axes: Sequence[Axis], at: Sequence[int], first: int
) -> list[tuple[int, int, int, int]]:
    return [
        (first + number, *axis.cuts[j][:1], axis.taken, axis.cuts[j][1])
        for number, (axis, j) in enumerate(zip(axes, at, strict=True))
    ]


def nested(terms: Sequence[Array], inner: int) -> Array:
    """The sum, runs of `inner` terms first: short chains of additions overlap in the processor."""
    return total([total(terms[at : at + inner]) for at in range(0, len(terms), inner)])


def positions(axes: Sequence[Axis]) -> int:
    """Of both operands, channels last: those that a vector of one loop is summed over."""
    *others, row = axes
    if not others:
        rows, taps = min(MOST_ROWS, row.taken // SHORTEST_LINE), len(row.cuts)
    else:
        rows, taps = (
            min(max(row.taken, FEW_ROWS), MOST_ROWS),
            math.prod(len(a.cuts) for a in others),
        )
    return rows * (1 + min(taps, MOST_TOGETHER, max(1, MOST_PRODUCTS // max(rows, 1))))


def line_sums(
    xs: Sequence[Array], y: Array, axis: Axis, at: int, multiply: Multiply
) -> list[Array]:
    """For each tap of the only spatial axis: products of lines, which that axis is cut into."""
    lines = max(1, min(MOST_ROWS, axis.taken // SHORTEST_LINE))
    length = -(-axis.taken // lines)
    stride, last = axis.cuts[0][1], axis.cuts[-1][0]
    read = ((lines * length - 1) * stride + last) // len(xs) + 1
    xs = [framed(x, [Frame(at, 0, read)]) for x in xs]
    y = framed(y, [Frame(at, 0, lines * length)])

    def products(xs: Sequence[Array], y: Array) -> list[Array]:
        sums = []
        for begin, step in axis.cuts:
            values = [
                residue_cut(xs, [(at, begin + line * length * step, length, step)])
                for line in range(lines)
            ]
            errors = [cut(y, [(at, line * length, length, 1)]) for line in range(lines)]
            sums.append(nested([multiply(*pair) for pair in zip(values, errors, strict=True)], 8))
        return _some_together(sums, lines)

    return apart(products, xs, y)


def row_sums(
    xs: Sequence[Array],
    y: Array,
    axes: Sequence[Axis],
    first: int,
    along: int,
    multiply: Multiply,
) -> list[Array]:
    """For each tap of the other axes: products of rows, added over rows.

    Rows are along `axes[along]`, where the sums have that axis's taps. The other axes, which begin
    with `first`, stay apart, and so do images, but for those of so few rows that they are added up
    together. Where there are several x, they are `residues`.
    """
    row, at = axes[along], first + along
    rows = share(row.taken, MOST_ROWS)
    whole, rest = divmod(row.taken, rows)
    (begin, stride), (last, _) = row.cuts[0], row.cuts[-1]

    def part(further: int, size: int, origin: int) -> Axis:
        cuts = tuple((place + further, pace) for place, pace in row.cuts)
        return row._replace(cuts=cuts, taken=size, origin=origin)

    def alone(start: int, size: int) -> list[Array]:
        own = part(start * stride, size, row.origin + start)
        return apart(functools.partial(tap_sums, own), xs, y)

    def step(number: Any, sums: list[Array]) -> list[Array]:
        reach = (rows - 1) * stride + last - begin + 1
        starts = begin + number * rows * stride, row.origin + number * rows
        parts = [lax.dynamic_slice_in_dim(x, starts[0], reach, at) for x in xs]
        errors = lax.dynamic_slice_in_dim(y, starts[1], rows, at)
        found = tap_sums(part(-begin, rows, 0), parts, errors)
        return [a + b for a, b in zip(sums, found, strict=True)]

    def tap_sums(row: Axis, xs: Sequence[Array], y: Array) -> list[Array]:
        own = [*axes[:along], row, *axes[along + 1 :]]
        terms = [_products(xs, y, own, tap, (first, along), multiply) for tap in others]
        return _some_together(terms, row.taken)

    others = [tap for tap in all_taps(axes) if tap[along] == 0]
    each = [alone(whole * rows, rest)] if rest else []
    if whole + len(each) > MOST_CHUNKS:
        shapes = jax.eval_shape(functools.partial(alone, 0, rows))
        start = [jnp.zeros(part.shape, part.dtype) for part in shapes]
        each.append(lax.fori_loop(np.int32(0), np.int32(whole), step, start))
    else:
        each += [alone(number * rows, rows) for number in range(whole)]
    return [total(parts) for parts in zip(*each, strict=True)]


def _some_together(sums: Sequence[Array], products: int) -> list[Array]:
    """Sums of so many products each, some of them by one loop."""
    most = max(1, min(MOST_TOGETHER, MOST_PRODUCTS // products))
    each = -(-len(sums) // -(-len(sums) // most))
    some = (sums[at : at + each] for at in range(0, len(sums), each))
    return [part for few in some for part in together(few)]


def _products(
    xs: Sequence[Array],
    y: Array,
    axes: Sequence[Axis],
    tap: Sequence[int],
    place: tuple[int, int],
    multiply: Multiply,
) -> Array:
    """The products of all rows of y, and of the images added up together, for all taps of the row
    axis and one of each other; each operand is cut once, or XLA would hold what is cut again."""
    first, along = place
    at, n, row = first + along, y.shape[0], axes[along]
    few = range(2, FEW_ROWS // row.taken + 1)
    together = max((images for images in few if n % images == 0), default=1)
    cuts, terms = tap_cuts(axes, tap, first), []
    errors = [(first + number, axis.origin, axis.taken, 1) for number, axis in enumerate(axes)]
    (begin, stride), taps = row.cuts[0], len(row.cuts)
    dilation = row.cuts[1][0] - begin if taps > 1 else 1
    for image, r in itertools.product(range(together), range(row.taken)):
        images = (0, image, n // together, together)
        cuts[along] = (at, begin + r * stride, taps, dilation)
        errors[along] = (at, row.origin + r, 1, 1)
        value = residue_cut(xs, [images, *cuts])
        terms.append(multiply(value, cut(y, [images, *errors])))
    return nested(terms, 8)
