"""Which maps of windows the table in `_choice` has rows about.

Measured as the other rules are, see `_rules`.
"""

import math

from ._algorithms import _regions, axes, batches, slices
from ._algorithms._apart import MOST_UNROLLED
from ._form import Problem
from ._geometry import Partition
from ._rules import is_half, on_one_cpu

#: Pools, and what is their transpose, without winners.
SIMPLE = ("window_max", "window_sum", "window_spread")
#: Rows of so many numbers are neither so short that a loop over slices of them does little at a
#: time, nor so long that the copy it reads costs more than a second pass.
FROM_WIDTH, TO_WIDTH = 16, 48
#: Numbers of a row of a few channels that are many.
WIDE = 300
#: From so many channels, or numbers of a row of one, slices of an image are as good as an image.
FROM_CHANNELS, LEAST_ROW = 32, 40


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
    if isinstance(geometry, Partition) or not (
        any(map(any, geometry.padding)) or slices.overlaps(geometry)
    ):
        return False  # Nothing overlaps, so nothing is copied.
    if _regions.is_by_regions(problem):
        return False
    return problem.choose(batches.part(problem))[0].name in ("axes", "slices", "winners")


def is_axis_by_axis(problem: Problem) -> bool:
    """Windows that overlap, of three taps or more along an axis, but for small sums where nothing
    is padded; of two where channels are few; winners among many taps."""
    geometry = problem.form.geometry
    if problem.projection not in axes.ALGORITHM.maps or not on_one_cpu(problem):
        return False
    if (
        isinstance(geometry, Partition)
        or not slices.overlaps(geometry)
        or slices.is_whole(geometry)
    ):
        return False
    taps, longest = math.prod(geometry.window), max(geometry.window)
    strided, half = max(geometry.stride) > 1, is_half(problem)
    if problem.projection == "window_argmax":
        some = taps > 9 and geometry.rank > 1 and not (strided or half)
        return some or taps > _regions.MOST_TAPS
    bare = axes.is_bare(problem)
    if longest == 2:
        few = problem.shapes[0][-1] < FROM_CHANNELS
        return few and geometry.rank > 1 and not (bare or half or _is_padded(problem))
    small = problem.projection == "window_sum" and taps <= slices.MOST_TAPS
    if small and not (half or _is_padded(problem)):
        row = geometry.spatial[-1] * problem.shapes[0][-1]
        return bare and row < LEAST_ROW
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
    """Windows of two by two that overlap, and are padded: so few that XLA:CPU's loop is in vectors,
    and an image is not copied."""
    geometry = problem.form.geometry
    if problem.projection not in SIMPLE or not on_one_cpu(problem):
        return False
    if isinstance(geometry, Partition) or axes.is_bare(problem) or is_half(problem):
        return False
    strided = max(geometry.stride) > 1 and problem.projection == "window_spread"
    if strided or not slices.overlaps(geometry) or max(geometry.window) > 2:
        return False
    return geometry.rank == 1 or (geometry.rank == 2 and _is_padded(problem))


def _is_padded(problem: Problem) -> bool:
    """Whether windows read more than there is."""
    geometry = problem.form.geometry
    pads = geometry.padding
    if problem.projection == "window_spread":
        reaches = (extent - 1 for extent in geometry.extent)
        pairs = zip(reaches, pads, strict=True)
        pads = [(reach - low, reach - high) for reach, (low, high) in pairs]
    return any(low > 0 or high > 0 for low, high in pads)
