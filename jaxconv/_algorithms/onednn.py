"""`onednn`: the convolution of oneDNN, which XLA:CPU has inside, see `_library`.

    output       y = conv(x, w), as it is
    input_grad   of stride 1: the output for the kernel turned by 180 degrees

Arrays are taken in either layout, groups and channels as they lie. It is torch's own convolution on
a CPU. There is no such call for kernel gradients: those are matrix products of `patches` and
others, which take oneDNN's products.

Where oneDNN has no kernel of its own for a convolution it takes matrix products, from several
threads at once, of which each waits for all others: XLA's threads then wait for ever. So what is
taken here is what it was seen to have kernels for, in some ten thousand convolutions by lot, on
AVX2 and AVX-512, with 1 to 32 threads: all that is ungrouped, and groups but for some that are
hardly ever wanted, see `refuses`; for what dtypes and layouts, see `_library.takes`. Lines of
channels on their own have no kernel as such, but as images of one row. Dilated, such channels have
one where padding is not wider than the results that it holds in registers, four by AVX2. Of few of
them and a wide window in bfloat16 it makes a kernel for ever.
"""

import math
from collections.abc import Sequence

import numpy as np
from jax import Array

from .._form import Problem
from .._geometry import Geometry
from . import _library
from ._algorithm import Algorithm
from ._cast import cast
from ._frame import (
    Frame,
    as_output,
    blocks,
    framed,
    of_outputs,
    result_dtype,
    rotated,
    sum_dtype,
)

#: The widest padding of dilated channels on their own that is left to oneDNN.
MOST_PADDING = 4
#: In bfloat16, channels on their own and the width of their window: so few and wider are widened.
FEW_ALONE, WIDE = 16, 12


def refuses(problem: Problem) -> str | None:
    """Programs for elsewhere, other than single and half precision, strided input gradients, and
    what oneDNN may have no kernel for."""
    geometry = problem.form.geometry
    if not _library.is_for(problem):
        return "it is for programs that are compiled for this machine's CPU, if XLA has oneDNN"
    if sum_dtype(problem) != np.float32:
        return f"it sums in float32; the sum is {sum_dtype(problem)}"
    if problem.projection == "input_grad" and max(geometry.stride) > 1:
        return "it has no strided input gradient"
    result = problem.form.result_shape(problem.projection, *problem.shapes)
    if max(math.prod(shape) for shape in (*problem.shapes, result)) > _library.MOST_ELEMENTS:
        return f"it counts at most {_library.MOST_ELEMENTS} elements of an array"
    last = problem.form.layout.channels_last
    if not _library.takes((np.float32,) * 3, last):
        return "with channels first it needs a processor with AVX-512"
    if not last and math.prod(geometry.window) == 1:
        return "with channels first it has no windows of one element, see matmul"
    sizes, padding, results = _read(problem)
    frames = _frames(geometry, sizes, padding, results, _is_alone(problem))
    kept = [length for _, length, _ in frames]
    if min(kept) < 1:
        return "it has no image of padding alone"
    return _refuses_groups(problem, kept) if geometry.groups > 1 else None


def _is_alone(problem: Problem) -> bool:
    """Whether each channel is on its own, as in depthwise convolutions."""
    groups, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    return groups > 1 and inputs == outputs == 1


def _refuses_groups(problem: Problem, kept: Sequence[int]) -> str | None:
    geometry, last = problem.form.geometry, problem.form.layout.channels_last
    if any(e > n for e, n in zip(geometry.extent, kept, strict=True)):
        return f"in groups its window is not larger than the image; here it spans {geometry.extent}"
    dilated = max(geometry.dilation) > 1
    if not _is_alone(problem) or not (dilated or geometry.rank == 1):
        return None
    if not last:
        return "its groups of one channel, channels first, have two axes or three, and no dilation"
    return "its groups of one channel have no dilation in volumes" if geometry.rank == 3 else None


def _in_single(problem: Problem) -> bool:
    """Whether half precision is widened before: channels on their own for which that is not known,
    or known not to work."""
    geometry = problem.form.geometry
    if not _is_alone(problem):
        return False
    few = geometry.groups <= FEW_ALONE and geometry.window[-1] > WIDE
    return few or geometry.rank == 1 or max(geometry.dilation) > 1


def _read(problem: Problem) -> tuple[Sequence[int], Sequence[tuple[int, int]], Sequence[int]]:
    """The sizes and the padding of the image that is convolved: of an input gradient, of errors.
    And the sizes of the result."""
    geometry = problem.form.geometry
    if problem.projection == "output":
        return geometry.spatial, geometry.padding, geometry.output
    axes = zip(geometry.extent, geometry.padding, geometry.spatial, geometry.output, strict=True)
    padding = [(e - 1 - low, n + low - m) for e, (low, _), n, m in axes]
    return geometry.output, padding, geometry.spatial


def _frames(
    geometry: Geometry,
    sizes: Sequence[int],
    padding: Sequence[tuple[int, int]],
    results: Sequence[int],
    alone: bool,
) -> list[tuple[int, int, tuple[int, int]]]:
    """`(start, length, padding left)` of each axis: what is cropped is gone before, and padding
    from the window's extent on is written: there oneDNN reads what is not its own. So is padding
    too wide for dilated channels on their own."""
    dilated = alone and max(geometry.dilation) > 1
    frames = []
    for n, e, pair, m in zip(sizes, geometry.extent, padding, results, strict=True):
        most = min(e - 1, MOST_PADDING, m) if dilated else e - 1
        left = [min(max(side, 0), most) for side in pair]
        (low, high), (first, last) = pair, left
        frames.append((first - low, n + low - first + high - last, (first, last)))
    return frames


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y = conv(x, w)."""
    return _convolved(problem, x, w, problem.form.layout.kernel_axes)


def _convolved(problem: Problem, x: Array, w: Array, kernel_axes: tuple[int, int]) -> Array:
    """y = conv(x, w), with output and input channels along these axes of w."""
    form, layout, geometry = problem.form, problem.form.layout, problem.form.geometry
    dtype = result_dtype(problem)
    taken = _library.takes((x.dtype, w.dtype, dtype), layout.channels_last)
    if not taken or _in_single(problem):
        dtype = sum_dtype(problem)
        x, w = cast(x, dtype), cast(w, dtype)
    first, (outer, channels) = layout.first_spatial(x.ndim), kernel_axes
    alone = _is_alone(problem)
    frames = _frames(geometry, geometry.spatial, geometry.padding, geometry.output, alone)
    x = framed(x, [Frame(first + axis, *frame[:2]) for axis, frame in enumerate(frames)])
    shape = form.result_shape("output", *problem.shapes)
    stride, sides, dilation = geometry.stride, [frame[2] for frame in frames], geometry.dilation
    if alone and geometry.rank == 1:  # Lines are images of one row.
        x, w, shape = x[:, None], w[None], (shape[0], 1, *shape[1:])
        stride, sides, dilation = (1, *stride), [(0, 0), *sides], (1, *dilation)
        outer, channels = outer + 1, channels + 1
    spatial = tuple(range(first, first + len(stride)))
    image = _library.Axes(0, 1 if first > 1 else x.ndim - 1, spatial)
    window = tuple(axis for axis in range(w.ndim) if axis not in (outer, channels))
    axes = image, _library.Axes(outer, channels, window), image
    steps = stride, sides, dilation, geometry.groups
    y = _library.convolution(x, w, axes, shape, dtype, *steps)
    return cast(y.reshape(form.result_shape("output", *problem.shapes)), result_dtype(problem))


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel turned by 180 degrees, its channels exchanged: in one group oneDNN
    is told so, as it puts kernels in an order of its own all the same, and XLA:CPU is slow to."""
    if problem.form.geometry.groups > 1:
        return as_output(problem, output, y, w)
    outer, inner = problem.form.layout.kernel_axes
    shape = list(w.shape)
    shape[outer], shape[inner] = shape[inner], shape[outer]
    outputs = of_outputs(problem, y.shape, tuple(shape))
    return _convolved(outputs, y, rotated(problem, w), (inner, outer))


ALGORITHM = Algorithm("onednn", {"output": output, "input_grad": input_grad}, refuses)
