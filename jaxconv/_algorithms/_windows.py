"""Windows written out, channels last: one gather of runs of numbers that lie side by side.

XLA:CPU computes such a gather in one loop over its result, in parallel, and copies each run in
vectors; of slices that are put together it asks for each number which of them it is from.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._form import PROJECTIONS, Problem
from .._geometry import Geometry
from ._apart import Block, apart
from ._frame import Frame, framed

#: Channels of a tap that are copied as a run of their own; fewer or more go with their neighbours.
LEAST_ALONE, MOST_ALONE = 8, 31
#: Starts of runs that a program has as constants.
MOST_CONSTANTS = 2**12
#: What 32 bits count.
MOST_NUMBERS = 2**31 - 1


class Walk(NamedTuple):
    """One axis of what is written out: how many places, and how many numbers apart."""

    places: int
    step: int


class Windows(NamedTuple):
    """What is written out of images.

    Attributes:
        axes: rows first, then all other axes of the result, but for channels.
        channels: of a group.
        groups: how many there are, side by side in an image, and in front of the result.
    """

    axes: tuple[Walk, ...]
    channels: int
    groups: int = 1

    @property
    def runs(self) -> tuple[tuple[Walk, ...], int]:
        """The axes of the runs, and the numbers in one: taps that lie side by side make one."""
        outer, run = list(self.axes), self.channels
        if not LEAST_ALONE <= run <= MOST_ALONE:
            while len(outer) > 1 and outer[-1].step == run:
                run *= outer.pop().places
        return tuple(outer), run


def refuses(problem: Problem) -> str | None:
    """Images of which 32 bits do not count the numbers, padding included."""
    form, geometry = problem.form, problem.form.geometry
    shapes = (*problem.shapes, form.result_shape(problem.projection, *problem.shapes))
    named = zip(PROJECTIONS[problem.projection], shapes, strict=True)
    channels = max(form.layout.channels(shape) for name, shape in named if name != "w")
    sides = zip(geometry.read, geometry.spatial, geometry.output, strict=True)
    spare = zip(geometry.extent, geometry.stride, strict=True)
    sizes = (max(own) + 2 * (e - 1) + s for own, (e, s) in zip(sides, spare, strict=True))
    if channels * math.prod(sizes) > MOST_NUMBERS:
        return f"it counts at most {MOST_NUMBERS} numbers of an image"
    return None


def rows(x: Array, frames: Sequence[Frame]) -> Array:
    """What lies in the frames of images, `(n, *sizes)` with the last axis and channels as one."""
    *others, (axis, start, length) = frames
    c = x.shape[-1]
    line = Frame(axis, start * c, length * c)
    return apart(lambda x: framed(x.reshape(*x.shape[:-2], -1), [*others, line]), x)


def walks(
    sizes: Sequence[int], channels: int, counts: Sequence[int], steps: Sequence[int]
) -> tuple[Walk, ...]:
    """So many places of each axis, so many elements apart, of images of these sizes."""
    strides = [math.prod(sizes[axis + 1 :]) * channels for axis in range(len(sizes))]
    pairs = zip(counts, steps, strides, strict=True)
    return tuple(Walk(count, step * stride) for count, step, stride in pairs)


def of_results(geometry: Geometry, rows: int, channels: int) -> Windows:
    """The windows of so many rows of results: `(rows, *positions, *taps)`."""
    counts = rows, *geometry.output[1:]
    places = walks(geometry.read, channels, counts, geometry.stride)
    taps = walks(geometry.read, channels, geometry.window, geometry.dilation)
    return Windows((*places, *taps), channels)


def starts(windows: Windows) -> Array:
    """Where the runs of `written_out` begin, from where the first does."""
    outer, _ = windows.runs
    places = [np.arange(count) * step for count, step in outer]
    return sums(places, [count for count, _ in outer])


def sums(parts: Sequence[np.ndarray], shape: Sequence[int]) -> Array:
    """All sums of one number of each part, where runs begin, in memory of their own: computed in
    the loop of the gather they take as long as it does."""
    parts = [part.astype(np.int32) for part in parts]
    if math.prod(shape) <= MOST_CONSTANTS:
        return jnp.asarray(functools.reduce(np.add.outer, parts).reshape(shape))

    def summed(*parts: Array) -> Array:
        sizes = [len(part) for part in parts]
        along = [lax.broadcast_in_dim(part, sizes, (at,)) for at, part in enumerate(parts)]
        return functools.reduce(operator.add, along)

    return apart(summed, *map(jnp.asarray, parts)).reshape(shape)


def gathered(
    place: Callable[..., tuple[Array, Array]],
    run: int,
    images: Array,
    starts: Array,
    *begin: Array | int,
) -> Array:
    """Runs of images `(n, numbers)`, a computation of its own: `(*places, run)`. `place` says of
    starts, and where a block begins, which image each run is of, and where in it."""

    def runs(images: Array, starts: Array, *moving: Array) -> Array:
        image, at = place(starts, *(jnp.asarray(part, np.int32) for part in moving or begin))
        # As they are: what is cut out of all images first is cut out for each number anew.
        dims = lax.GatherDimensionNumbers((at.ndim,), (0,), (0, 1))
        mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
        return lax.gather(images, jnp.stack([image, at], -1), dims, (1, run), mode=mode)

    known = all(isinstance(part, int) for part in begin)
    return apart(runs, images, starts, *([] if known else (jnp.int32(part) for part in begin)))


def written_out(
    windows: Windows, block: Block, images: Array, starts: Array, group: Array | int = 0
) -> Array:
    """The channels at all places of all axes, of a block's images and rows, from a group on, a
    computation of its own: `(n, *counts, c)`, neighbours merged, groups in front if there are any.
    `starts` may be of more rows."""
    outer, run = windows.runs
    grouped = windows.groups > 1

    def place(starts: Array, image: Array, row: Array, group: Array) -> tuple[Array, Array]:
        first = row * windows.axes[0].step + group * windows.channels
        places = starts[: outer[0].places] + first
        shape = (windows.groups,) * grouped + (block.images, *places.shape)
        at = jnp.broadcast_to(places, shape)
        if grouped:
            at += lax.broadcasted_iota(np.int32, shape, 0) * np.int32(windows.channels)
        return lax.broadcasted_iota(np.int32, shape, int(grouped)) + image, at

    flat = images.reshape(len(images), -1)
    return gathered(place, run, flat, starts, block.image, block.row, group)
