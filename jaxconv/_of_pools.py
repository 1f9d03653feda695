"""Which maps of windows the table in `_choice` has rows about.

Measured as the other rules are, see `_rules`.
"""

import math
import operator

from ._algorithms import _regions, axes, batches, slices
from ._algorithms._apart import MOST_UNROLLED
from ._arrays import HALF
from ._form import Problem
from ._geometry import Partition
from ._rules import on_one_cpu

#: Rows of so many numbers are neither so short that a loop over slices of them does little at a
#: time, nor so long that the copy it reads costs more than a second pass.
FROM_WIDTH, TO_WIDTH = 16, 48
#: Numbers of a row of a few channels that are many.
WIDE = 300


def is_adaptive(problem: Problem) -> bool:
    return problem.projection.startswith("window") and isinstance(problem.form.geometry, Partition)


def is_columns(problem: Problem) -> bool:
    return problem.projection in ("unfold", "fold")


def is_large_pool(problem: Problem) -> bool:
    """A pool of more images than there is memory at hand for, by what holds copies besides."""
    if problem.projection not in batches.WINDOW_MAPS or not on_one_cpu(problem):
        return False
    if batches.image_bytes(problem) <= batches.MOST_WHOLE:
        return False
    if len(batches.parts(problem)) <= MOST_UNROLLED or problem.choose is None:
        return False
    geometry = problem.form.geometry
    if isinstance(geometry, Partition) or not (any(map(any, geometry.padding)) or _meet(problem)):
        return False  # Nothing overlaps, so nothing is copied.
    if _regions.is_by_regions(problem):
        return False
    return problem.choose(batches.part(problem))[0].name in ("axes", "slices", "winners")


def is_axis_by_axis(problem: Problem) -> bool:
    """Windows that overlap, of three taps or more along an axis; winners among many taps."""
    geometry = problem.form.geometry
    if problem.projection not in axes.ALGORITHM.maps or not on_one_cpu(problem):
        return False
    if isinstance(geometry, Partition) or not _meet(problem) or slices.is_whole(geometry):
        return False
    taps, longest = math.prod(geometry.window), max(geometry.window)
    strided, half = max(geometry.stride) > 1, _is_half(problem)
    if problem.projection == "window_argmax":
        some = taps > 9 and geometry.rank > 1 and not (strided or half)
        return some or taps > _regions.MOST_TAPS
    if longest == 2:
        return False
    bare = axes.is_bare(problem)
    if half:  # Slices widen in the loop that sums; integers in the place of halves need not.
        if bare:
            return problem.projection == "window_max" and strided and geometry.rank > 1
        return taps > slices.MOST_TAPS
    if not bare:
        return True
    if geometry.rank == 1:
        large = math.prod(problem.shapes[0]) * problem.form.dtypes[0].itemsize > slices.MOST_BYTES
        return large or (longest > 5 and not strided)
    if problem.shapes[0][-1] > 1:
        wide = geometry.spatial[-1] * problem.shapes[0][-1] >= WIDE
        return strided or longest > 8 or (longest > 3 and wide)
    some = longest == 3 or longest > 8 or not FROM_WIDTH <= geometry.spatial[-1] < TO_WIDTH
    return strided or some


def is_in_pairs(problem: Problem) -> bool:
    """Windows of two by two that overlap: so few that XLA:CPU's loop is in vectors."""
    geometry = problem.form.geometry
    if problem.projection not in ("window_max", "window_sum") or not on_one_cpu(problem):
        return False
    if isinstance(geometry, Partition) or axes.is_bare(problem) or _is_half(problem):
        return False
    return _meet(problem) and max(geometry.window) == 2 and geometry.rank < 3


def _meet(problem: Problem) -> bool:
    """Whether windows overlap."""
    return any(map(operator.gt, problem.form.geometry.window, problem.form.geometry.stride))


def _is_half(problem: Problem) -> bool:
    return any(dtype in HALF for dtype in problem.form.dtypes)
