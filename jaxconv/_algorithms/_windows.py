"""Windows written out, channels last: one gather of runs of numbers that lie side by side.

XLA:CPU computes such a gather in one loop over its result, in parallel, and copies each run in
vectors; of slices that are put together it asks for each number which of them it is from.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._apart import Block, apart
from ._frame import Frame, framed

#: Channels of a tap that are copied as a run of their own; fewer or more go with their neighbours.
LEAST_ALONE, MOST_ALONE = 8, 31
#: What 32 bits count.
MOST_NUMBERS = 2**31 - 1


class Walk(NamedTuple):
    """One axis of what is written out: how many places, and how many numbers apart."""

    count: int
    step: int


def rows(x: Array, frames: Sequence[Frame]) -> Array:
    """What lies in the frames of images, `(n, *sizes)` with the last axis and channels as one."""
    *others, (axis, start, length) = frames
    c = x.shape[-1]
    line = Frame(axis, start * c, length * c)
    return apart(lambda x: framed(x.reshape(*x.shape[:-2], -1), [*others, line]), x)


def walks(
    sizes: Sequence[int], channels: int, counts: Sequence[int], steps: Sequence[int]
) -> list[Walk]:
    """So many places of each axis, so many elements apart, of images of these sizes."""
    strides = [math.prod(sizes[axis + 1 :]) * channels for axis in range(len(sizes))]
    pairs = zip(counts, steps, strides, strict=True)
    return [Walk(count, step * stride) for count, step, stride in pairs]


def starts(axes: Sequence[Walk], channels: int) -> Array:
    """Where the runs of `written_out` begin, from where the first does: `counts`.

    In memory of their own: computed in the loop of the gather they take as long as it does.
    """
    outer, _ = _runs(axes, channels)
    counts = [count for count, _ in outer]

    def places() -> Array:
        at = jnp.zeros(counts, np.int32)
        for axis, (_, step) in enumerate(outer):
            at += lax.broadcasted_iota(np.int32, at.shape, axis) * np.int32(step)
        return at

    return apart(places)


def written_out(
    images: Array,
    starts: Array,
    axes: Sequence[Walk],
    channels: int,
    block: Block,
    first: Array | int = 0,
) -> Array:
    """The channels at all places of all axes, of a block's images, from a number of each of them
    on: `(n, *counts, c)` with neighbours merged. The first axis may have fewer places than what
    `starts` is of."""
    outer, run = _runs(axes, channels)
    places = starts[: outer[0].count] + jnp.asarray(first, np.int32)
    shape = (block.images, *places.shape)
    image = lax.broadcasted_iota(np.int32, shape, 0) + jnp.asarray(block.image, np.int32)
    # Both as they are: what is cut out of the images first would be cut out for each number anew.
    begin = jnp.stack([image, jnp.broadcast_to(places, shape)], -1)
    dims = lax.GatherDimensionNumbers((len(shape),), (0,), (0, 1))
    mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return lax.gather(images.reshape(len(images), -1), begin, dims, (1, run), mode=mode)


def _runs(axes: Sequence[Walk], channels: int) -> tuple[list[Walk], int]:
    """The axes of the runs, and the numbers in one: taps that lie side by side make one."""
    outer, run = list(axes), channels
    if not LEAST_ALONE <= channels <= MOST_ALONE:
        while len(outer) > 1 and outer[-1].step == run:
            run *= outer.pop().count
    return outer, run
