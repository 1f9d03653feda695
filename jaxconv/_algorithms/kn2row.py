"""`kn2row`: the taps of the first axis as channels of one product, those of the others written out.

    output       z[t, a, o] = sum_k p[t, k] w[k, (a, o)],   y[t, o] = sum_a z[t + a*dilation, a, o]
    input_grad   the output for the kernel turned by 180 degrees
    kernel_grad  w[k, (a, o)] = sum_t p[t, k] y[t - a*dilation, o]

where p[t, k] holds the patches along all axes but the first, whose positions are t.

`patches` writes every element of x once for each tap of the window, this once for a tap of a row,
and as many results: less where results are few, and a product that is the window's first axis
times as wide. Source: Vasudevan, Anderson and Gregg, Parallel multi channel convolution using
general matrix multiplication, 2017, here for one axis of the window.
"""

import functools
import math

import jax.numpy as jnp
from jax import Array

from .._form import Problem
from .._geometry import Geometry
from . import patches
from ._algorithm import Algorithm
from ._apart import Block, apart, collected, cut_up, summed, taken
from ._frame import (
    Frame,
    as_output,
    block_bytes,
    blocks,
    channels_last,
    cut,
    framed,
    padded,
    read_frames,
    result_dtype,
    sum_dtype,
    total,
)
from .taps import refuses as has_no_product

#: Columns that XLA:CPU's product computes at once: 30 take longer than 32.
LANES = 32


def refuses(problem: Problem) -> str | None:
    """What `taps` refuses, a stride of the first axis, and large windows."""
    geometry = problem.form.geometry
    if geometry.stride[0] > 1:
        return "it has no stride along the first axis"
    if math.prod(geometry.window[1:]) > patches.MOST_TAPS or geometry.window[0] > patches.MOST_TAPS:
        return f"it writes out at most {patches.MOST_TAPS} taps of a window"
    return has_no_product(problem)


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[t, o] = sum_a z[t + a*dilation, a, o]."""
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
    geometry = problem.form.geometry
    c_o = w.shape[-1]
    taps, d = geometry.window[0], geometry.dilation[0]
    product = functools.partial(jnp.matmul, precision=problem.form.precision)
    matrix = jnp.moveaxis(w.astype(sum_dtype(problem)), 0, -2).reshape(-1, taps * c_o)
    matrix = framed(matrix, [Frame(1, 0, _width(taps * c_o))])

    def results(block: Block, x: Array, matrix: Array) -> Array:
        patches = apart(functools.partial(_written_out, geometry), _part(geometry, block, x))
        z = apart(product, patches, matrix)
        rows = block.rows + (taps - 1) * d
        z = z.reshape(block.images, rows, *geometry.output[1:], matrix.shape[1])

        def tap(z: Array, a: int) -> Array:
            return cut(z, [(1, a * d, block.rows, 1), (z.ndim - 1, a * c_o, c_o, 1)])

        return apart(lambda z: total([tap(z, a) for a in range(taps)]), z)

    y = collected(results, _blocks(problem), 1, _read(problem, x), matrix)
    return y.astype(result_dtype(problem))


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    geometry = problem.form.geometry
    c_i, c_o = x.shape[-1], y.shape[-1]
    taps, d = geometry.window[0], geometry.dilation[0]
    product = functools.partial(jnp.matmul, precision=problem.form.precision)
    reach = (taps - 1) * d

    def shifted(y: Array) -> Array:
        parts = [framed(y, [Frame(1, -a * d, y.shape[1] + reach)]) for a in range(taps)]
        return jnp.stack(parts).transpose(0, y.ndim, *range(1, y.ndim)).reshape(taps * c_o, -1)

    def results(block: Block, x: Array, y: Array) -> Array:
        errors = apart(shifted, taken(y, block, 1))
        patches = apart(functools.partial(_written_out, geometry), _part(geometry, block, x))
        return apart(product, errors, patches)

    y = y.astype(sum_dtype(problem))
    w = summed(results, _blocks(problem), _read(problem, x), y)
    w = w.reshape(taps, c_o, *geometry.window[1:], c_i)
    return jnp.moveaxis(w, 1, -1).astype(result_dtype(problem))


def _blocks(problem: Problem) -> list[Block]:
    """All images and rows, in as few blocks as the limit allows."""
    geometry, shapes = problem.form.geometry, problem.shapes
    _, inputs, outputs = blocks(problem.form, shapes, problem.projection)
    written = inputs * math.prod(geometry.window[1:]) + outputs * geometry.window[0]
    row = math.prod(geometry.output[1:]) * written * sum_dtype(problem).itemsize
    return cut_up(shapes[0][0], geometry.output[0], block_bytes(problem) // row)


def _read(problem: Problem, x: Array) -> Array:
    frames = read_frames(problem.form.geometry, 1)
    return apart(lambda x: padded(x, frames), x.astype(sum_dtype(problem)))


def _part(geometry: Geometry, block: Block, x: Array) -> Array:
    reach = (geometry.window[0] - 1) * geometry.dilation[0]
    return taken(x, block, 1, block.row, block.rows + reach)


def _written_out(geometry: Geometry, x: Array) -> Array:
    """Patches along all axes but the first: `(positions, taps * c_i)`."""

    def read(tap: tuple[int, ...]) -> Array:
        axes = zip(
            tap, geometry.dilation[1:], geometry.output[1:], geometry.stride[1:], strict=True
        )
        return cut(x, [(2 + at, b * d, m, s) for at, (b, d, m, s) in enumerate(axes)])

    stacked = patches.stacked(read, geometry.window[1:], x.ndim - 1)
    return stacked.reshape(-1, math.prod(geometry.window[1:]) * x.shape[-1])


def _width(columns: int) -> int:
    """Columns of a product, up to a multiple of what XLA:CPU computes at once, if that is near."""
    whole = -(-columns // LANES) * LANES
    return whole if whole * 4 <= columns * 5 else columns
