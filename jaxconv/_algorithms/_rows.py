"""Sums over taps, axis by axis: what `shift` is made of, and rows of products added up."""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._apart import apart
from ._frame import Frame, cut, framed, residue_cut, total
from ._several import together

#: Rows of one expression, images of at most so many rows being added up in it together; and
#: expressions written out, before there is a loop over them.
MOST_ROWS, FEW_ROWS, MOST_CHUNKS = 56, 28, 2
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
    """

    start: int
    length: int
    cuts: tuple[tuple[int, int], ...]
    taken: int
    residues: int
    crop: int
    size: int


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
    rows = -(-row.taken // -(-row.taken // MOST_ROWS))
    whole, rest = divmod(row.taken, rows)
    stride, last = row.cuts[0][1], row.cuts[-1][0]

    def chunk(number: Any, size: int, xs: Sequence[Array], y: Array) -> list[Array]:
        start, reach = number * rows, (size - 1) * stride + last + 1
        xs = [_part(x, at, start * stride, reach) for x in xs]
        y = _part(y, at, start, size)
        terms = [_products(xs, y, axes, tap, (first, along), multiply) for tap in others]
        return _some_together(terms, size)

    def alone(number: int, size: int) -> list[Array]:
        return apart(functools.partial(chunk, number, size), xs, y)

    def step(number: Any, sums: list[Array]) -> list[Array]:
        return [a + b for a, b in zip(sums, chunk(number, rows, xs, y), strict=True)]

    others = [tap for tap in all_taps(axes) if tap[along] == 0]
    each = [alone(whole, rest)] if rest else []
    if whole + len(each) > MOST_CHUNKS:
        shapes = jax.eval_shape(functools.partial(chunk, 0, rows), xs, y)
        start = [jnp.zeros(part.shape, part.dtype) for part in shapes]
        each.append(lax.fori_loop(np.int32(0), np.int32(whole), step, start))
    else:
        each += [alone(number, rows) for number in range(whole)]
    return [total(parts) for parts in zip(*each, strict=True)]


def _some_together(sums: Sequence[Array], products: int) -> list[Array]:
    """Sums of so many products each, some of them by one loop."""
    most = max(1, min(MOST_TOGETHER, MOST_PRODUCTS // products))
    each = -(-len(sums) // -(-len(sums) // most))
    shares = (sums[at : at + each] for at in range(0, len(sums), each))
    return [part for share in shares for part in together(share)]


def edge_rows(x: Array, axes: Sequence[Axis]) -> list[int]:
    """The rows along the last axis that lie in the padding with some of their taps."""
    row, size = axes[-1], x.shape[len(axes)]
    return [r for r in range(row.taken) if len(_inside(row, r, size)) < len(row.cuts)]


def unpadded_sums(x: Array, y: Array, axes: Sequence[Axis]) -> list[Array]:
    """`(taps, c)` for each tap of the other axes, of images `(n, *spatial, c)` that are not padded,
    rows along the last axis: what lies in the padding is left out, and the few rows that do so in
    part are summed on their own."""
    row, edges = axes[-1], edge_rows(x, axes)
    inner = [r for r in range(row.taken) if r not in edges]

    def summed(rows: list[int], taps: range, cuts: _Cuts) -> Array:
        products = functools.partial(_row_products, row, rows, taps, cuts)
        sums = apart(products, x, y).sum(tuple(range(len(axes))))
        return framed(sums, [Frame(0, -taps[0], len(row.cuts))])

    results = []
    for tap in all_taps(axes[:-1]):
        cuts = _within(x.shape, axes[:-1], tap)
        parts = [(inner[at : at + MOST_ROWS], range(len(row.cuts)))
                 for at in range(0, len(inner), MOST_ROWS)]  # fmt: skip
        parts += [([r], _inside(row, r, x.shape[len(axes)])) for r in edges]
        terms = [summed(rows, taps, cuts) for rows, taps in parts if taps] if cuts else []
        results.append(total(terms) if terms else jnp.zeros((len(row.cuts), x.shape[-1]), x.dtype))
    return results


#: What a tap reads of x and what it is multiplied with, as cuts.
_Cuts = tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]]]


def _inside(row: Axis, r: int, size: int) -> range:
    """The taps of a row that lie in an axis of so many elements."""
    places = [row.start + begin + r * step for begin, step in row.cuts]
    taps = [tap for tap, place in enumerate(places) if 0 <= place < size]
    return range(taps[0], taps[-1] + 1) if taps else range(0)


def _within(shape: Sequence[int], axes: Sequence[Axis], tap: Sequence[int]) -> _Cuts | None:
    """What a tap reads of images of this shape along these axes, and the results that do."""
    reads, errors = [], []
    for number, (axis, j) in enumerate(zip(axes, tap, strict=True)):
        (begin, step), size = axis.cuts[j], shape[1 + number]
        first = axis.start + begin
        low, high = max(0, -(first // step)), min(axis.taken, (size - 1 - first) // step + 1)
        if high <= low:
            return None
        reads.append((1 + number, first + low * step, high - low, step))
        errors.append((1 + number, low, high - low, 1))
    return reads, errors


def _row_products(
    row: Axis, rows: Sequence[int], taps: range, cuts: _Cuts, x: Array, y: Array
) -> Array:
    """Products of rows that have these taps, added over rows: `(n, *others, taps, c)`.

    All is cut here, in the loop of the products: what is cut out before it would be copied.
    """
    at, stride = x.ndim - 2, row.cuts[0][1]
    dilation = row.cuts[1][0] - row.cuts[0][0] if len(row.cuts) > 1 else 1
    first = row.start + row.cuts[taps[0]][0] + rows[0] * stride
    reach = (len(rows) - 1) * stride + (len(taps) - 1) * dilation + 1
    x = cut(x, [*cuts[0], (at, first, reach, 1)])
    y = cut(y, [*cuts[1], (at, rows[0], len(rows), 1)])
    own = row._replace(start=0, cuts=tuple((tap * dilation, stride) for tap in range(len(taps))))
    return _products([x], y, [own], (0,), (at, 0), operator.mul)


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
    at, n, rows, row = first + along, y.shape[0], y.shape[first + along], axes[along]
    few = range(2, FEW_ROWS // rows + 1)
    together = max((images for images in few if n % images == 0), default=1)
    cuts, terms = tap_cuts(axes, tap, first), []
    stride, taps = row.cuts[0][1], len(row.cuts)
    dilation = row.cuts[1][0] if taps > 1 else 1
    for image, r in itertools.product(range(together), range(rows)):
        images = (0, image, n // together, together)
        cuts[along] = (at, r * stride, taps, dilation)
        value = residue_cut(xs, [images, *cuts])
        terms.append(multiply(value, cut(y, [images, (at, r, 1, 1)])))
    return nested(terms, 8)


def _part(array: Array, axis: int, start: Any, length: int) -> Array:
    """So many elements of an axis; where they begin may be known in the loop only."""
    if isinstance(start, int):
        return cut(array, [(axis, start, length, 1)])
    return lax.dynamic_slice_in_dim(array, start, length, axis)
