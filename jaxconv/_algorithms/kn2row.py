"""`kn2row`: the taps of the first axis as channels of one product, those of the others written out.

    output       z[t, a, o] = sum_k p[t, k] w[k, (a, o)],   y[t, o] = sum_a z[t + a*dilation, a, o]
    input_grad   the output for the kernel turned by 180 degrees
    kernel_grad  w[k, (a, o)] = sum_t p[t, k] y[t - a*dilation, o]

where p[t, k] holds the patches along all axes but the first, whose positions are t. For a kernel
gradient more of the first axes may be on the side of y: as makes the least that is written. Where
results are few, all axes' taps are channels of z, and nothing of x is written out:

    y[t, o] = sum_k z[t + k*dilation, k, o],   z[t, k, o] = sum_i x[t, i] w[k, i, o]

`patches` writes every element of x once for each tap of the window, this once for a tap of a row,
and as many results: less where results are few, and a product that is the window's first axis
times as wide. Source: Vasudevan, Anderson and Gregg, Parallel multi channel convolution using
general matrix multiplication, 2017, where all taps are; here mostly those of one axis.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._form import Problem
from .._geometry import Geometry
from . import _windows, patches
from ._algorithm import Algorithm
from ._apart import Block, apart, collected, cut_up, taken
from ._cast import cast
from ._frame import (
    Frame,
    as_output,
    block_bytes,
    blocks,
    cut,
    framed,
    read_frames,
    result_dtype,
    sum_dtype,
    total,
)
from ._layouts import channels_last, moved
from .taps import refuses as has_no_product

#: Results so few that all taps are channels of the product, by the number of axes.
FEW = {1: 4, 2: 8, 3: 16}


def refuses(problem: Problem) -> str | None:
    """What `taps` refuses, a stride of the first axis, and large windows or images."""
    geometry = problem.form.geometry
    if geometry.stride[0] > 1:
        return "it has no stride along the first axis"
    if math.prod(geometry.window[1:]) > patches.MOST_TAPS or geometry.window[0] > patches.MOST_TAPS:
        return f"it writes out at most {patches.MOST_TAPS} taps of a window"
    return has_no_product(problem) or _windows.refuses(problem)


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[t, o] = sum_a z[t + a*dilation, a, o]."""
    if is_of_few(problem) and not problem.form.layout.channels_last:
        return _output_of_few(problem, x, w)
    return channels_last(problem, _output, x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel turned by 180 degrees."""
    return as_output(problem, output, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w[k, (a, o)] = sum_t p[t, k] y[t - a*dilation, o]."""
    return channels_last(problem, _kernel_grad, x, y)


ALGORITHM = Algorithm(
    "kn2row", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _output(problem: Problem, x: Array, w: Array) -> Array:
    geometry, axes = problem.form.geometry, problem.form.geometry.rank if is_of_few(problem) else 1
    c_o, window = w.shape[-1], geometry.window[:axes]
    product = functools.partial(jnp.matmul, precision=problem.form.precision)
    matrix = jnp.moveaxis(cast(w, sum_dtype(problem)), range(axes), range(-1 - axes, -1))
    matrix = matrix.reshape(-1, c_o * math.prod(window))
    matrix = framed(matrix, [Frame(1, 0, patches.width(matrix.shape[1]))])

    def results(block: Block, matrix: Array, *xs: Array) -> Array:
        part = _windows_of(geometry, axes, block, *xs)
        z = apart(product, part.reshape(-1, part.shape[-1]), matrix)
        z = z.reshape(*part.shape[:-1], matrix.shape[1])

        def tap(z: Array, at: tuple[int, ...]) -> Array:
            counts = (block.rows, *geometry.output[1:])
            cuts = [(1 + n, a * geometry.dilation[n], counts[n], 1) for n, a in enumerate(at)]
            number = sum(a * math.prod(window[n + 1 :]) for n, a in enumerate(at))
            return cut(z, [*cuts, (z.ndim - 1, number * c_o, c_o, 1)])

        return apart(lambda z: total([tap(z, at) for at in np.ndindex(*window)]), z)

    parts = _blocks(problem, axes)
    y = collected(results, parts, 1, matrix, *_read(problem, x, axes, parts))
    return cast(y, result_dtype(problem))


def is_of_few(problem: Problem) -> bool:
    """Whether results are so few that all taps are channels of the product, where that writes less
    than one axis' taps would."""
    geometry = problem.form.geometry
    _, summed, results = blocks(problem.form, problem.shapes, problem.projection)
    sizes = geometry.output
    if problem.projection == "input_grad":
        summed, results, sizes = results, summed, geometry.spatial
    read = [n + e - 1 for n, e in zip(sizes, geometry.extent, strict=True)]
    window = geometry.window
    planes = math.prod(read[1:]) * (summed + results * math.prod(window))
    rows = math.prod(sizes[1:]) * (summed * math.prod(window[1:]) + results * window[0])
    few = results <= FEW[geometry.rank] and math.prod(window) <= patches.MOST_TAPS
    return few and set(geometry.stride) == {1} and planes <= rows


def _output_of_few(problem: Problem, x: Array, w: Array) -> Array:
    """Positions last in either layout: the results of all taps are planes, which are shifted and
    added up in one loop."""
    geometry, layout = problem.form.geometry, problem.form.layout
    last, dtype = layout.channels_last, sum_dtype(problem)
    matrix = jnp.swapaxes(moved("w", cast(w, dtype), last, True), -1, -2)
    matrix = matrix.reshape(-1, matrix.shape[-1])
    frames = read_frames(geometry, 1 if last else 2)
    x = apart(lambda x: framed(x, frames), cast(x, dtype))

    def product(x: Array, matrix: Array) -> Array:
        positions = x.reshape(x.shape[0], -1, x.shape[-1]) if last else x.reshape(*x.shape[:2], -1)
        alike = jnp.broadcast_to(matrix, (x.shape[0], *matrix.shape))
        sides = ((2,), (2 if last else 1,)), ((0,), (0,))
        return lax.dot_general(alike, positions, sides, precision=problem.form.precision)

    def results(block: Block, x: Array, matrix: Array) -> Array:
        part = _part(geometry, block, x, 1 if last else 2)
        z = apart(product, part, matrix)
        sizes = (block.rows + geometry.extent[0] - 1, *geometry.read[1:])
        z = z.reshape(block.images, *geometry.window, -1, *sizes)
        return apart(functools.partial(_added_up, geometry, block.rows), z)

    y = collected(results, _blocks(problem, geometry.rank), 2, x, matrix)
    return cast(jnp.moveaxis(y, 1, -1) if last else y, result_dtype(problem))


def _added_up(geometry: Geometry, rows: int, z: Array) -> Array:
    """`(n, *window, c, *positions)` to `(n, c, *results)`."""
    first = 2 + geometry.rank

    def tap(at: tuple[int, ...]) -> Array:
        sides = zip(at, geometry.dilation, (rows, *geometry.output[1:]), strict=True)
        cuts = [(first + axis, a * d, m, 1) for axis, (a, d, m) in enumerate(sides)]
        plane = cut(z, [*cuts, *((1 + axis, a, 1, 1) for axis, a in enumerate(at))])
        return plane.reshape(z.shape[0], *plane.shape[first - 1 :])

    return total([tap(at) for at in np.ndindex(*geometry.window)])


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    geometry, axes, c_o = problem.form.geometry, errors_axes(problem), y.shape[-1]
    parts, y = _blocks(problem, axes), cast(y, sum_dtype(problem))
    most = max(block.rows for block in parts)
    whole = most == geometry.output[0]

    def operands(block: Block, y: Array, starts: Array, *xs: Array) -> tuple[Array, Array]:
        shifts, own = _shifts(geometry, axes, block.rows, c_o), block
        if not whole:  # What other blocks have is zero here.
            y = _surrounded(geometry, axes, taken(y, block, 1))
            own = Block(0, block.images, 0, block.rows)
        errors = _windows.written_out(shifts, own, y, starts)
        counts = [walk.places for walk in shifts.axes[: geometry.rank]]
        return _windows_of(geometry, axes, block, *xs), errors.reshape(block.images, *counts, -1)

    y = _surrounded(geometry, axes, y) if whole else y
    starts = _windows.starts(_shifts(geometry, axes, most, c_o))
    w = patches.summed_across(problem, operands, parts, y, starts, *_read(problem, x, axes, parts))
    window = geometry.window
    w = w.reshape(*window[axes:], x.shape[-1], *window[:axes], c_o)
    here = len(window) - axes + 1
    w = lax.rev(w, range(here, here + axes))
    order = (*range(here, here + axes), *range(here), w.ndim - 1)
    return cast(w.transpose(order), result_dtype(problem))


def errors_axes(problem: Problem) -> int:
    """How many axes' taps, from the first on, a kernel gradient has on the side of the errors: as
    makes the least that is written."""
    most = most_axes(problem.form.geometry)
    return min(range(1, most + 1), key=functools.partial(_written, problem))


def most_axes(geometry: Geometry) -> int:
    """How many axes, from the first on, have no stride, and taps few enough to be written out."""
    strided = next((axis for axis, s in enumerate(geometry.stride) if s > 1), geometry.rank)
    taps = itertools.accumulate(geometry.window[:strided], operator.mul)
    return max(1, sum(count <= patches.MOST_TAPS for count in taps))


def _written(problem: Problem, axes: int) -> int:
    """Numbers that are written out to a row of results, so many axes' taps as channels of it."""
    geometry = problem.form.geometry
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    sizes = (*geometry.read[1:axes], *geometry.output[max(axes, 1) :])
    window = geometry.window
    columns = inputs * math.prod(window[axes:]) + outputs * math.prod(window[:axes])
    return math.prod(sizes) * columns


def _spans(geometry: Geometry, axes: int) -> list[int]:
    """How far the taps of the first axes reach."""
    spans = zip(geometry.window, geometry.dilation, strict=True)
    return [(k - 1) * d if axis < axes else 0 for axis, (k, d) in enumerate(spans)]


def _surrounded(geometry: Geometry, axes: int, y: Array) -> Array:
    """Rows of errors, in as many zeros as the taps reach."""
    spans = enumerate(zip(y.shape[1:], _spans(geometry, axes), strict=False))
    return _windows.rows(y, [Frame(1 + at, -r, n + 2 * r) for at, (n, r) in spans])


def _shifts(geometry: Geometry, axes: int, rows: int, channels: int) -> _windows.Windows:
    """So many rows of `_surrounded` once for each tap of the first axes, the last one first, so far
    on, as long as what is read."""
    sizes = list(zip((rows, *geometry.output[1:]), _spans(geometry, axes), strict=True))
    walks = functools.partial(_windows.walks, [n + 2 * r for n, r in sizes], channels)
    places = walks([n + r for n, r in sizes], [1] * len(sizes))
    return _windows.Windows((*places, *walks(geometry.window, geometry.dilation)[:axes]), channels)


def _blocks(problem: Problem, axes: int = 1) -> list[Block]:
    """All images and rows, in as few blocks as the limit allows."""
    row = _written(problem, axes) * sum_dtype(problem).itemsize
    return cut_up(
        problem.shapes[0][0], problem.form.geometry.output[0], block_bytes(problem) // row
    )


def _read(problem: Problem, x: Array, axes: int, parts: Sequence[Block]) -> list[Array]:
    """The rows that are read of x, and where the windows of a block are in them, if there are any
    but the rows."""
    geometry, channels = problem.form.geometry, x.shape[-1]
    x = _windows.rows(cast(x, sum_dtype(problem)), read_frames(geometry, 1))
    if axes == geometry.rank:
        return [x]
    here = _along_others(geometry, axes, max(block.rows for block in parts), channels)
    return [x, _windows.starts(here)]


def _along_others(geometry: Geometry, axes: int, rows: int, channels: int) -> _windows.Windows:
    """All places of the first axes that so many rows of results read, windows along the others."""
    walks = functools.partial(_windows.walks, geometry.read, channels)
    read = (rows + geometry.extent[0] - 1, *geometry.read[1:axes])
    places = walks((*read, *geometry.output[axes:]), geometry.stride)
    taps = walks(geometry.window, geometry.dilation)[axes:]
    return _windows.Windows((*places, *taps), channels)


def _windows_of(geometry: Geometry, axes: int, block: Block, x: Array, *starts: Array) -> Array:
    """Patches along all axes but the first ones, `(n, *positions, taps * c_i)`; as they are where
    there is no other axis."""
    channels = x.shape[-1] // geometry.read[-1]
    if axes == geometry.rank:
        return _part(geometry, block, x.reshape(len(x), *geometry.read, channels), 1)
    here = _along_others(geometry, axes, block.rows, channels)
    counts = [places for places, _ in here.axes[: geometry.rank]]
    return _windows.written_out(here, block, x, *starts).reshape(block.images, *counts, -1)


def _part(geometry: Geometry, block: Block, x: Array, axis: int) -> Array:
    return taken(x, block, axis, block.row, block.rows + geometry.extent[0] - 1)
