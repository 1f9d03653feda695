"""Sums over taps, axis by axis: what `shift` is made of, and rows of products added up."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._frame import Frame, cut, framed, total

#: Rows written out in one step of the kernel gradient's loop: fewer, and XLA computes the slices
#: that they are cut from again and again, inside of the sum.
FEWEST_ROWS, MOST_ROWS = 17, 56


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


def lines_as_rows(x: Array, y: Array, axis: Axis) -> tuple[Array, Array, list[Axis]]:
    """One spatial axis broken into rows, as long as windows at least; x's rows overlap."""
    stride = axis.cuts[0][1]
    halo = axis.length - (axis.taken - 1) * stride - 1
    length = max(-(-axis.taken // MOST_ROWS), -(-halo // stride), min(16, axis.taken))
    rows = -(-axis.taken // length)
    y = framed(y, [Frame(4, 0, rows * length)]).reshape(*y.shape[:4], rows, length)
    x = framed(x, [Frame(4, 0, (rows + 1) * length * stride)])
    x = x.reshape(*x.shape[:4], rows + 1, length * stride)
    x = jnp.concatenate([x[..., :-1, :], x[..., 1:, :halo]], -1)
    row = Axis(0, rows, ((0, 1),), rows, 1, 0, rows)
    return x, y, [row, axis._replace(start=0, length=x.shape[-1], taken=length)]


def row_sums(x: Array, y: Array, axes: Sequence[Axis], first: int) -> list[Array]:
    """For each tap of the minor axes: products of rows, added over rows and images.

    Rows are along axis `first`, where the sums have that axis's taps; the minor axes stay apart.
    """
    (row, *minor), n = axes, x.shape[0]
    taps, stride = len(row.cuts), row.cuts[0][1]
    dilation = row.cuts[1][0] if taps > 1 else 1
    rows, together, chunks = _steps(n, row.taken)
    reach = (rows - 1) * stride + (taps - 1) * dilation + 1
    x = framed(x, [Frame(first, 0, (chunks - 1) * rows * stride + reach)])
    y = framed(y, [Frame(first, 0, chunks * rows)])

    def products(x: Array, y: Array, at: Sequence[int]) -> Array:
        terms = []
        for image, r in itertools.product(range(together), range(rows)):
            window = [(0, image, 1, 1), (first, r * stride, taps, dilation)]
            value = cut(x, [*window, *tap_cuts(minor, at, first + 1)])
            terms.append(value * cut(y, [(0, image, 1, 1), (first, r, 1, 1)]))
        return nested(terms, 4)

    def step(number: Array, sums: list[Array]) -> list[Array]:
        begin, chunk = number // chunks * together, number % chunks * rows
        here = _part(x, first, begin, together, chunk * stride, reach)
        there = _part(y, first, begin, together, chunk, rows)
        return [
            part + products(here, there, at) for part, at in zip(sums, all_taps(minor), strict=True)
        ]

    lanes = (axis.taken for axis in minor)
    shape = jnp.broadcast_shapes(x.shape[1:first], y.shape[1:first])
    zeros = jnp.zeros((1, *shape, taps, *lanes, *x.shape[first + len(axes) :]), x.dtype)
    start = [zeros for _ in all_taps(minor)]
    return lax.fori_loop(np.int32(0), np.int32(n // together * chunks), step, start)


def _steps(n: int, height: int) -> tuple[int, int, int]:
    """Rows and images written out in one step, and steps to an image; two steps at least, as XLA
    takes a loop of one apart and adds up by its scalar reduction after all."""
    chunks = -(-height // MOST_ROWS)
    rows = -(-height // chunks)
    divisors = [part for part in range(1, n + 1) if n % part == 0]
    together = next((part for part in divisors if part * rows >= FEWEST_ROWS), n)
    if together == n and chunks == 1 and height > 1:
        chunks, rows = 2, -(-height // 2)
    return rows, together, chunks


def _part(array: Array, first: int, begin: Array, images: int, row: Array, rows: int) -> Array:
    """Some images, and some rows of them."""
    part = lax.dynamic_slice_in_dim(array, begin, images, 0)
    return lax.dynamic_slice_in_dim(part, row, rows, first)
