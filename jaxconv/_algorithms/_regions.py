"""Parts of a plane: the middle, where no window holds padding, and what is around it.

XLA:CPU copies an image to pad it. The middle needs none, and written into one array region by
region, all that is copied is a little around the edge.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from .._arrays import HALF
from .._form import Problem
from .._geometry import Geometry
from ._frame import Frame
from .slices import steps

#: Images are copied rather than taken apart below this, or with fewer channels, no vector of them.
LEAST_BYTES, LEAST_CHANNELS = 2**21, 8
#: Most taps of a window: they are written out, for each region.
MOST_TAPS = 16


class Part(NamedTuple):
    """Elements or windows `start` to `stop` of an axis."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


Region = tuple[Part, ...]


def regions(geometry: Geometry, windows: bool) -> list[Region]:
    """The windows that hold no padding, or the elements all of whose windows there are where
    nothing is strided; and then what is around them."""
    inner, sizes = [], []
    for axis in range(geometry.rank):
        k, d, s, outputs = steps(geometry, axis)
        n, low, reach = geometry.spatial[axis], geometry.padding[axis][0], (k - 1) * d
        size = outputs if windows else n
        first = -(-low // s) if windows else reach - low
        end = (n + low - reach - 1) // s + 1 if windows else outputs - low
        start = min(max(first, 0), size)
        stop = max(min(end, size), start)
        inner.append(Part(start, stop))
        sizes.append(size)
    return _with_rest(tuple(inner), sizes)


def _with_rest(middle: Region, sizes: Sequence[int]) -> list[Region]:
    """A region, and what is around it."""
    found = [middle]
    for axis, part in enumerate(middle):
        sides = Part(0, part.start), Part(part.stop, sizes[axis])
        found += [(*middle[:axis], side, *whole(sizes[axis + 1 :])) for side in sides]
    return [region for region in found if all(part.size > 0 for part in region)]


def whole(sizes: Sequence[int]) -> Region:
    """All elements or windows of a plane."""
    return tuple(Part(0, size) for size in sizes)


def read_frames(geometry: Geometry, region: Region) -> list[Frame]:
    """What a region's windows read of images `(n, *spatial, c)`."""
    axes = zip(region, geometry.stride, geometry.padding, geometry.extent, strict=True)
    return [
        Frame(1 + axis, part.start * s - low, (part.size - 1) * s + extent)
        for axis, (part, s, (low, _), extent) in enumerate(axes)
    ]


def is_padded(geometry: Geometry, frames: Sequence[Frame]) -> bool:
    """Whether some of what is read is padding."""
    sizes = zip(frames, geometry.spatial, strict=True)
    return any(frame.start < 0 or frame.start + frame.length > n for frame, n in sizes)


def starts(region: Region) -> tuple[int, ...]:
    """Where a region begins in an array of images."""
    return (0, *(part.start for part in region), 0)


def is_by_regions(problem: Problem) -> bool:
    """Whether images are so large that to copy them would cost more than a few loops."""
    geometry, (operand, *_) = problem.form.geometry, problem.shapes
    placed = problem.projection == "place"
    if not (placed or problem.projection == "window_argmax"):
        return False
    if not isinstance(geometry, Geometry) or math.prod(geometry.window) > MOST_TAPS:
        return False
    if placed and (max(geometry.stride) > 1 or problem.form.dtypes[1] in HALF):
        return False
    large = math.prod(operand) * problem.form.dtypes[int(placed)].itemsize >= LEAST_BYTES
    return large and operand[-1] >= LEAST_CHANNELS
