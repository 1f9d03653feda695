"""`shift`'s kernel gradient: rows of products added up.

It sums over everything but taps and channels, and XLA:CPU's reductions are scalar and on one core
where they are fused with the products. So here rows are added up elementwise, some of them written
out as one expression; the axes within a row stay apart until the end.
"""

import math
import operator
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from .._form import Problem
from .._geometry import Geometry
from . import _regions
from ._apart import apart
from ._cast import cast
from ._frame import Frame, blocks, framed, residues, result_dtype, sum_dtype, total
from ._regions import Region, is_padded, read_frames, regions, whole
from ._rows import Axis, Multiply, frames, line_sums, positions, row_sums

#: Most sums of rows that it is taken apart into, lest an image be padded, and most taps of one:
#: compile time grows with them.
MOST_SUMS, MOST_IN_A_ROW = 70, 4
#: A cache: so many lines to a set, and bytes after which sets come again.
WAYS, PAGE = 12, 2**12
#: How many times as many positions are too many; channels that keep them apart; the largest image,
#: in bytes, that is copied to have them.
MOST_OVER, LANES, MOST_COPIED = 3, 16, 14 * 2**20


def kernel_grad(axes: list[Axis], problem: Problem, x: Array, y: Array) -> Array:
    """w[g, o, i, a] = sum_{n, s} x[n, g, i, s*stride + a*dilation - low] * y[n, g, o, s]."""
    form, dtype = problem.form, sum_dtype(problem)
    x, y = cast(x, dtype), cast(y, dtype)
    if form.layout.channels_last:
        channels, more = x.shape[-1], _more(x, axes)
        if more:
            lanes = [Frame(x.ndim - 1, 0, channels + more)]
            x, y = (apart(lambda image: framed(image, lanes), image) for image in (x, y))
        w = _channels_last(x, y, axes, form.geometry)[..., :channels]
    else:
        w = _channels_first(x, y, axes, _pairs(*blocks(form, problem.shapes, "kernel_grad")))
    shape = form.result_shape("kernel_grad", *problem.shapes)
    return cast(w.reshape(shape), result_dtype(problem))


def _more(x: Array, axes: Sequence[Axis]) -> int:
    """Channels of zeros that are put behind those of images, lest the positions that a vector is
    summed over lie in a few sets of the cache, which hold far fewer."""
    size = x.shape[-1] * x.dtype.itemsize
    held = WAYS * (PAGE // math.gcd(size, PAGE))
    aliased = positions(axes) > MOST_OVER * held
    return (
        LANES if aliased and len(axes) < 3 and math.prod(x.shape[:-1]) * size <= MOST_COPIED else 0
    )


def _pairs(groups: int, inputs: int, outputs: int) -> Multiply:
    """Products of all pairs of a group's channels: `(n, g, o, i, *spatial)`."""
    if inputs * outputs == 1:
        return operator.mul

    def multiply(x: Array, y: Array) -> Array:
        x = x.reshape(x.shape[0], groups, 1, inputs, *x.shape[2:])
        return x * y.reshape(y.shape[0], groups, outputs, 1, *y.shape[2:])

    return multiply


def _channels_last(x: Array, y: Array, axes: list[Axis], geometry: Geometry) -> Array:
    """`(*window, g)` of images `(n, *spatial, g)`."""
    if len(axes) == 1:
        sums = line_sums([framed(x, frames(axes, 1))], y, axes[0], 1, operator.mul)
        return jnp.stack([part.sum((0, 1)) for part in sums])
    parts, rows = regions(geometry, windows=True), math.prod(geometry.window[:-1])
    large = math.prod(x.shape) * x.dtype.itemsize >= _regions.LEAST_BYTES
    if not large or rows * len(parts) > MOST_SUMS or max(geometry.window) > MOST_IN_A_ROW:
        parts = [whole(geometry.output)]
    return total([_region_sums(x, y, axes, geometry, region) for region in parts])


def _region_sums(x: Array, y: Array, axes: list[Axis], geometry: Geometry, region: Region) -> Array:
    """`_channels_last` of a region's errors; x is copied only where some of it is padding."""
    read = read_frames(geometry, region)
    padded = is_padded(geometry, read)
    own = []
    for axis, part, frame in zip(axes, region, read, strict=True):
        origin = 0 if padded else frame.start
        cuts = tuple((origin + begin, step) for begin, step in axis.cuts)
        own.append(axis._replace(cuts=cuts, taken=part.size, origin=part.start))
    if padded:
        x = framed(x, read)
    sums = row_sums([x], y, own, 1, len(axes) - 1, operator.mul)
    return jnp.stack([part.sum((0, *range(1, len(axes)))) for part in sums])


def _channels_first(x: Array, y: Array, axes: list[Axis], multiply: Multiply) -> Array:
    """`(*channels, *window)` of images `(n, c, *spatial)`."""
    along = len(axes) - 2
    xs = residues(x, frames(axes, 2), axes[-1].cuts[0][1])
    if len(axes) == 1:
        sums = line_sums(xs, y, axes[0], 2, multiply)
        return jnp.stack([part.sum((0, part.ndim - 1)) for part in sums], -1)
    sums = row_sums(xs, y, axes, 2, along, multiply)
    first = sums[0].ndim - len(axes)
    lanes = [first + axis for axis in range(len(axes)) if axis != along]
    w = jnp.stack([part.sum((0, *lanes)) for part in sums], -1)
    others = (len(axis.cuts) for number, axis in enumerate(axes) if number != along)
    return jnp.moveaxis(w.reshape(*w.shape[:first], *others), first - 1, first - 1 + along)
