"""`shift`: every tap written out, multiplied and added, for few channels to a group.

    output       y[g, o, s] = sum_{i, a} x[g, i, s*stride + a*dilation - low] * w[g, o, i, a]
    input_grad   x[g, i, Q*stride + r - low] = sum_{o, j} y[g, o, Q - j] * w[g, o, i, a(j, r)]
    kernel_grad  w[g, o, i, a] = sum_{n, s} x[n, g, i, s*stride + a*dilation - low] * y[n, g, o, s]

The first two are one elementwise loop over the result, which XLA:CPU vectorises over the minor axis
and splits over the cores: its own grouped convolution does neither, and takes 10 to 400 times as
long. Of a strided input gradient, tap a = r + j*stride meets residue r alone: all residues are
computed at once, as an axis of their own behind Q, and merged by a reshape.

The kernel gradient is in `_by_rows`.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

from .._form import Problem, Shape
from .._geometry import Geometry
from . import _by_rows, _regions
from ._algorithm import Algorithm
from ._apart import apart
from ._cast import cast
from ._frame import Frame, blocks, cut, framed, quotients, result_dtype, sum_dtype, widened
from ._layouts import channels_first
from ._regions import MOST_TAPS, Region, regions, starts
from ._rows import Axis, all_taps, frames, nested, tap_cuts

#: Most products that one expression adds up: compile time grows with them.
MOST_TERMS = 256
#: Around the middle loops are short: images are padded where that is less of them.
LEAST_INSIDE = 7 / 8
#: Channels last, fewer channels than this do not fill a vector: computed channels first.
FEWEST_LANES = 8


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[g, o, s] = sum_{i, a} x[g, i, s*stride + a*dilation - low] * w[g, o, i, a]."""
    return _by_layout(problem, _output, _axes(problem, _output_axis), x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """x[g, i, t] = sum_{o, j} y[g, o, Q - j] * w[g, o, i, a(j, r)], t = Q*stride + r - low."""
    return _by_layout(problem, _input_grad, _axes(problem, _input_grad_axis), y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w[g, o, i, a] = sum_{n, s} x[n, g, i, s*stride + a*dilation - low] * y[n, g, o, s]."""
    return _by_layout(problem, _by_rows.kernel_grad, _axes(problem, _output_axis), x, y)


def refuses(problem: Problem) -> str | None:
    """It is written for groups with few channels and windows with few taps."""
    geometry = problem.form.geometry
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    summed = {"output": inputs, "input_grad": outputs, "kernel_grad": 1}[problem.projection]
    terms = summed * math.prod(geometry.window)
    if terms > MOST_TERMS:
        return f"it writes out at most {MOST_TERMS} products, and there are {terms} to a result"
    if problem.projection == "input_grad":
        steps = zip(geometry.stride, geometry.dilation, strict=True)
        if any(s > 1 and d > 1 for s, d in steps):
            return "it has no input gradient with both stride and dilation on an axis"
    if problem.projection == "kernel_grad" and inputs * outputs > MOST_TERMS:
        return f"it takes at most {MOST_TERMS} pairs of channels to a group"
    return None


ALGORITHM = Algorithm(
    "shift", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _axes(problem: Problem, axis: Callable[[Geometry, int], Axis]) -> list[Axis]:
    geometry = problem.form.geometry
    return [axis(geometry, number) for number in range(geometry.rank)]


def _by_layout(
    problem: Problem, compute: Callable[..., Array], axes: list[Axis], image: Array, other: Array
) -> Array:
    """`compute` in the layout that suits it; single precision beforehand where more than a few
    sums, or what is put together again, would have it widened again and again."""
    in_layout = functools.partial(_in_layout, compute, axes)
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    put_together = any(axis.residues > 1 for axis in axes)
    put_together &= not problem.form.layout.channels_last
    if problem.projection == "kernel_grad" or inputs * outputs > 16 or put_together:
        return widened(problem, in_layout, image, other)
    return in_layout(problem, image, other)


def _in_layout(
    compute: Callable[..., Array], axes: list[Axis], problem: Problem, image: Array, other: Array
) -> Array:
    """Channels last where each group has one channel and there are enough groups for a vector.

    What is moved to channels first is padded after, by itself: XLA:CPU moves axes four times as
    fast where it does nothing else in the same loop.
    """
    if not problem.form.layout.channels_last:
        return compute(axes, problem, image, other)
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    if inputs == outputs == 1 and groups >= FEWEST_LANES:
        return compute(axes, problem, image, other)

    def moved(problem: Problem, image: Array, other: Array) -> Array:
        image = apart(lambda image: framed(image, frames(axes, 2)), image)
        return compute([axis._replace(start=0) for axis in axes], problem, image, other)

    return channels_first(problem, moved, image, other)


def _output_axis(geometry: Geometry, axis: int) -> Axis:
    s, d, m = geometry.stride[axis], geometry.dilation[axis], geometry.output[axis]
    cuts = tuple((a * d, s) for a in range(geometry.window[axis]))
    return Axis(-geometry.padding[axis][0], geometry.read[axis], cuts, m, 1, 0, m)


def _input_grad_axis(geometry: Geometry, axis: int) -> Axis:
    """Tap `r + j*s` of a strided axis, or tap j of a dilated one, reads `y[Q - j*d]`."""
    s, d = geometry.stride[axis], geometry.dilation[axis]
    first, count = quotients(geometry, axis)
    reach = (-(-geometry.window[axis] // s) - 1) * d
    cuts = tuple((reach - j, 1) for j in range(0, reach + 1, d))
    crop = geometry.padding[axis][0] % s
    return Axis(first - reach, count + reach, cuts, count, s, crop, geometry.spatial[axis])


def _output(axes: list[Axis], problem: Problem, x: Array, w: Array) -> Array:
    layout = problem.form.layout
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "output")
    dtype = sum_dtype(problem)
    x, w = cast(x, dtype), cast(w, dtype)
    if layout.channels_last:
        weights = w.reshape(*problem.form.geometry.window, groups)
        terms = [weights[at] for at in all_taps(axes)]
        y = _sum_by_regions(x, terms, axes, regions(problem.form.geometry, windows=True))
    else:
        weights = w.reshape(groups, outputs, inputs, *w.shape[2:])
        x = x.reshape(x.shape[0], groups, 1, inputs, *x.shape[2:])
        y = _sum_first(x, jnp.moveaxis(weights, 2, 0), axes)
    return cast(y, result_dtype(problem))


def _input_grad(axes: list[Axis], problem: Problem, y: Array, w: Array) -> Array:
    layout = problem.form.layout
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "input_grad")
    dtype = sum_dtype(problem)
    y, w = cast(y, dtype), cast(w, dtype)
    if layout.channels_last:
        weights = _by_residue(w.reshape(*w.shape[: layout.rank], groups), axes, 0)
        terms = [weights[at] for at in _interleaved(axes)]
        if any(axis.residues > 1 for axis in axes):
            x = _sum_last(y, terms, axes)
        else:
            x = _sum_by_regions(y, terms, axes, regions(problem.form.geometry, windows=False))
    else:
        weights = jnp.moveaxis(w.reshape(groups, outputs, inputs, *w.shape[2:]), (1, 2), (0, 2))
        y = y.reshape(y.shape[0], groups, 1, outputs, *y.shape[2:])
        x = _sum_first(y, weights, axes)
    return cast(x, result_dtype(problem))


def _interleaved(axes: Sequence[Axis]) -> list[tuple]:
    """Where `_by_residue` has the weights of each term: all residues of each axis."""
    every = slice(None)
    return [tuple(part for j in at for part in (j, every)) for at in all_taps(axes)]


def _by_residue(w: Array, axes: Sequence[Axis], first: int) -> Array:
    """The taps of each axis from `first` on as `(j, residue)`, with zeros where there is none."""
    frames, shape = [], list(w.shape[:first])
    for at, axis in enumerate(axes):
        frames.append(Frame(first + at, 0, len(axis.cuts) * axis.residues))
        shape += [len(axis.cuts), axis.residues]
    return framed(w, frames).reshape(*shape, *w.shape[first + len(axes) :])


def _sum_by_regions(
    image: Array, weights: Sequence[Array], axes: Sequence[Axis], parts: Sequence[Region]
) -> Array:
    """`_sum_last`, but where a large image would be copied to be padded: what reads no padding, and
    what is around it, written into one array."""
    large = image.size * image.dtype.itemsize >= _regions.LEAST_BYTES
    sizes = [axis.taken for axis in axes]
    inside = math.prod(part.size for part in parts[0]) / math.prod(sizes)
    if not large or len(weights) > MOST_TAPS or len(parts) == 1 or inside < LEAST_INSIDE:
        return _sum_last(image, weights, axes)
    result = jnp.zeros((image.shape[0], *sizes, image.shape[-1]), image.dtype)
    for region in parts:
        part = _sum_last(image, weights, _of_region(axes, region))
        result = lax.dynamic_update_slice(result, part, starts(region))
    return result


def _of_region(axes: Sequence[Axis], region: Region) -> list[Axis]:
    """The axes of a region of results."""
    own = []
    for axis, part in zip(axes, region, strict=True):
        begins, step = [begin for begin, _ in axis.cuts], axis.cuts[0][1]
        start, length = axis.start + part.start * step, (part.size - 1) * step + max(begins) + 1
        own.append(
            axis._replace(start=start, length=length, taken=part.size, crop=0, size=part.size)
        )
    return own


def _sum_last(image: Array, weights: Sequence[Array], axes: Sequence[Axis]) -> Array:
    """Channels last, `(n, *spatial, c)`: all channels of a group of one are a vector's lanes.

    A weight is `(c,)`, or `(*residues, c)`: an axis of residues stands behind each spatial axis.
    """
    image = framed(image, frames(axes, 1))
    strided = any(axis.residues > 1 for axis in axes)
    terms = []
    for at, weight in zip(all_taps(axes), weights, strict=True):
        value = cut(image, tap_cuts(axes, at, 1))
        if strided:
            value = value.reshape(_with_ones(value.shape, 1, len(axes)))
            weight = weight.reshape(1, *(n for r in weight.shape[:-1] for n in (1, r)), -1)
        else:
            weight = weight.reshape(*(1,) * (value.ndim - 1), -1)
        terms.append(value * weight)
    result = nested(terms, len(axes[-1].cuts))
    return _cropped(
        result.reshape(_merged(result.shape, 1, len(axes))) if strided else result, axes, 1
    )


def _sum_first(image: Array, weights: Array, axes: Sequence[Axis]) -> Array:
    """Channels first: image `(n, g, 1, i, *spatial)`, weights `(i, g, o, *window)`.

    The residues of the minor axis are computed one after the other and stacked, as an axis of so
    few elements would not fill a vector; those of the others are an axis behind each.
    """
    rank = len(axes)
    minor = axes[-1]
    image = framed(image, frames(axes, 4))
    weights = _by_residue(weights, axes, 3)
    rows = []
    for residue in range(minor.residues):
        terms = []
        for i in range(weights.shape[0]):
            for at in all_taps(axes):
                place = (
                    i,
                    slice(None),
                    slice(None),
                    *(p for j in at[:-1] for p in (j, slice(None))),
                )
                weight = weights[(*place, at[-1], residue)]
                value = cut(image, [(3, i, 1, 1), *tap_cuts(axes, at, 4)])
                value = value.reshape(*value.shape[:3], *_with_ones(value.shape[4:], 0, rank - 1))
                weight = weight.reshape(
                    1, *weight.shape[:2], *(n for r in weight.shape[2:] for n in (1, r)), 1
                )
                terms.append(value * weight)
        rows.append(nested(terms, len(minor.cuts)))
    result = jnp.stack(rows, -1) if len(rows) > 1 else rows[0][..., None]
    n, groups, outputs = result.shape[:3]
    merged = result.reshape(n, groups * outputs, *_merged(result.shape[3:], 0, rank))
    return _cropped(merged, axes, 2)


def _with_ones(shape: Shape, first: int, count: int) -> Shape:
    """An axis of one element behind each of so many axes from `first` on."""
    middle = (size for n in shape[first : first + count] for size in (n, 1))
    return (*shape[:first], *middle, *shape[first + count :])


def _merged(shape: Shape, first: int, count: int) -> Shape:
    """So many pairs of axes from `first` on made one each."""
    pairs = zip(
        shape[first : first + 2 * count : 2], shape[first + 1 : first + 2 * count : 2], strict=True
    )
    return (*shape[:first], *(a * b for a, b in pairs), *shape[first + 2 * count :])


def _cropped(result: Array, axes: Sequence[Axis], first: int) -> Array:
    return framed(result, [Frame(first + at, axis.crop, axis.size) for at, axis in enumerate(axes)])
