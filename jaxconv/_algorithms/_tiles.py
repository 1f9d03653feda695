"""How `winograd` cuts outputs up into tiles, and how many tiles it takes at once.

Tiles of 2x2 multiply by 0, 1 and 1/2 alone and are as exact as the direct form. Errors of those of
2x4 are about twice as large, of 4x4 they would be six to sixteen times.
"""

import math
from typing import NamedTuple

from .._form import Problem
from . import _toom
from ._apart import Block, cut_up
from ._frame import blocks, sum_dtype

#: Outputs of a tile along both axes.
TILES = ((2, 4), (4, 2), (2, 2))
#: As how many tiles the kernel counts, which has as many points as they have; its gradient's are
#: added up part by part.
KERNEL, GRADIENT = 64, 160
#: Tiles that are as exact as the direct form, and channels of a sum up to which others are to be
#: taken: their errors, twice as large on their own, add up.
EXACT, MOST_SUMMED = (2, 2), 128
#: Bytes of both factors of all products that are held at once: what stays in the shared cache.
MOST_BYTES = 10 * 2**20


class Tiles(NamedTuple):
    """How the outputs of an image are cut up.

    Attributes:
        size: outputs of a tile along each axis.
        counts: rows and columns of tiles, each as many tiles as the dilation side by side.
        steps: the dilation: how far outputs of a tile are apart.
    """

    size: tuple[int, int]
    counts: tuple[int, int]
    steps: tuple[int, int]

    @property
    def points(self) -> int:
        """Products of a tile."""
        return math.prod(m + _toom.TAPS - 1 for m in self.size)

    @property
    def number(self) -> int:
        """Tiles of an image."""
        return math.prod(self.counts) * math.prod(self.steps)

    @property
    def rows(self) -> int:
        """Rows of outputs to a row of tiles."""
        return self.size[0] * self.steps[0]

    def matrices(self, name: str) -> tuple[_toom.Matrix, _toom.Matrix]:
        first, second = (getattr(_toom.matrices(m), name) for m in self.size)
        return first, second


def tiles(problem: Problem) -> Tiles:
    """The tiles that take the least time for what a problem's images are."""
    geometry = problem.form.geometry
    sizes = geometry.spatial if problem.projection == "input_grad" else geometry.output
    d1, d2 = geometry.dilation

    def of(size: tuple[int, int]) -> Tiles:
        rows, columns = (-(-n // (m * d)) for n, m, d in zip(sizes, size, (d1, d2), strict=True))
        return Tiles(size, (rows, columns), (d1, d2))

    images = problem.shapes[0][0]
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    summed = {"output": inputs, "input_grad": outputs, "kernel_grad": 1}[problem.projection]
    sizes_of_tiles = TILES if summed <= MOST_SUMMED else (EXACT,)
    kernel = GRADIENT if problem.projection == "kernel_grad" else KERNEL
    return min(map(of, sizes_of_tiles), key=lambda cut: (images * cut.number + kernel) * cut.points)


def parts(problem: Problem) -> tuple[list[Block], list[Block]]:
    """Some images at a time, and some rows of their tiles, so that what is held stays within the
    cache and, the points of the kernel and what is read included, twice of operands and result."""
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    cut, images = tiles(problem), problem.shapes[0][0]
    result = problem.form.result_shape(problem.projection, *problem.shapes)
    given = 2 * sum(map(math.prod, (*problem.shapes, result)))
    held = cut.points * inputs * outputs + math.prod(problem.shapes[0]) // 2
    most = min(MOST_BYTES // sum_dtype(problem).itemsize, max(given - held, given // 4))
    row = cut.points * (inputs + outputs) * cut.number // cut.counts[0]
    rows = cut.counts[0]
    return cut_up(images, 1, most // (row * rows)), cut_up(1, rows, min(most // row, rows))
