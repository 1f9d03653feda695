"""Toom and Cook's products of polynomials, transposed by Winograd to short convolutions.

On a tile of m outputs of an axis, which read n = m + r - 1 inputs, the trilinear form of a window
of r taps has rank n instead of m r:

    <conv(d, g), e> = sum_i (B d)_i (G g)_i (A e)_i

as e and g are coefficients of polynomials, whose product, of which d asks for the coefficients, is
known from its values at n points, the last of them infinity. Sources: Winograd, Arithmetic
complexity of computations, 1980; Lavin and Gray, Fast algorithms for convolutional neural networks,
2015. The points are rational, and so are the matrices, computed exactly and rounded once.
"""

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jax import Array

#: Points for tiles of so many outputs and three taps, besides infinity; in pairs of both signs, for
#: which half of the work is shared. Those of four outputs have the least error of all tried.
POINTS = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
TAPS = 3

Matrix = tuple[tuple[float, ...], ...]
Grid = list[list[Array]]
Apply = Callable[[Matrix, Sequence[Array]], list[Array]]


class Matrices(NamedTuple):
    """B d of n inputs, G g of r taps and A e of m outputs; a row for each point."""

    inputs: Matrix
    taps: Matrix
    outputs: Matrix


@functools.cache
def matrices(outputs: int) -> Matrices:
    """Those of tiles of so many outputs."""
    points, of_inputs, of_taps = POINTS[outputs], [], []
    for at, point in enumerate(points):
        others = points[:at] + points[at + 1 :]
        scale = math.prod(point - other for other in others)
        of_inputs.append((*_with_roots(others), Fraction(0)))
        of_taps.append([power / scale for power in _powers(point, TAPS)])
    of_inputs.append(_with_roots(points))
    of_taps.append(_last(TAPS))
    of_outputs = [_powers(point, outputs) for point in points] + [_last(outputs)]
    return Matrices(*map(_rounded, (of_inputs, of_taps, of_outputs)))


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, the lowest first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [a - root * b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _powers(point: Fraction, count: int) -> list[Fraction]:
    return [point**power for power in range(count)]


def _last(count: int) -> list[Fraction]:
    """The value at infinity: the coefficient of the highest power."""
    return [Fraction(power == count - 1) for power in range(count)]


def _rounded(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(map(float, row)) for row in rows)


def spread(matrix: Matrix, terms: Sequence[Array]) -> list[Array]:
    """`sum_k matrix[i][k] terms[k]` for each i. Of two points of both signs even terms are the same
    and odd ones the negative."""
    results: dict[int, Array] = {}
    for one, other in _pairs(matrix):
        if other is None:
            results[one] = _weighted(matrix[one], terms)
        else:
            even, odd = (_weighted(matrix[one][k::2], terms[k::2]) for k in range(2))
            results[one], results[other] = even + odd, even - odd
    return [results[i] for i in range(len(matrix))]


def gathered(matrix: Matrix, terms: Sequence[Array]) -> list[Array]:
    """`sum_i matrix[i][k] terms[i]` for each k, the transpose of `spread`."""
    results = []
    pairs = _pairs(matrix)
    both = {pair: (terms[pair[0]] + terms[pair[1]], terms[pair[0]] - terms[pair[1]])
            for pair in pairs if pair[1] is not None}  # fmt: skip
    for k in range(len(matrix[0])):
        parts = [both[pair][k % 2] if pair in both else terms[pair[0]] for pair in pairs]
        results.append(_weighted([matrix[one][k] for one, _ in pairs], parts))
    return results


def on_both(apply: Apply, pair: tuple[Matrix, Matrix], grid: Sequence[Sequence[Array]]) -> Grid:
    """One matrix along the columns of a grid, the other along its rows."""
    columns = [apply(pair[0], column) for column in zip(*grid, strict=True)]
    return [apply(pair[1], row) for row in zip(*columns, strict=True)]


def _pairs(matrix: Matrix) -> list[tuple[int, int | None]]:
    """Rows with their counterparts, whose odd elements are the negative."""
    pairs: list[tuple[int, int | None]] = []
    left = list(range(len(matrix)))
    while left:
        one = left.pop(0)
        turned = tuple(-v if k % 2 else v for k, v in enumerate(matrix[one]))
        other = next((i for i in left if matrix[i] == turned), None)
        if other is not None:
            left.remove(other)
        pairs.append((one, other))
    return pairs


def _weighted(weights: Sequence[float], terms: Sequence[Array]) -> Array:
    """The sum of terms with these weights, not all of which are zero."""
    result = None
    for weight, term in zip(weights, terms, strict=True):
        if weight == 0:
            continue
        part = term if abs(weight) == 1 else term * np.asarray(abs(weight), term.dtype)
        if result is None:
            result = part if weight > 0 else -part
        else:
            result = result + part if weight > 0 else result - part
    if result is None:
        raise ValueError(f"some weight must not be zero; got {weights}")
    return result
