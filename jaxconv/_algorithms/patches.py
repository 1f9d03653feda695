"""`patches`: the windows written out, some images or rows at a time, and one product for all taps.

    output       y[o, s] = sum_k w[o, k] p[k, s],   p[(i, a), s] = x[i, s*stride + a*dilation - low]
    input_grad   of stride 1: the output for the kernel turned by 180 degrees
    kernel_grad  w[o, k] = sum_s y[o, s] p[k, s]

XLA:CPU's convolution does that too, patch by patch: where its products are narrow, with few
channels or few results, writing out whole blocks first and multiplying by `dot_general` is faster.
How large a block is, `_frame.block_bytes` says. Where channels are few, positions are written
last, else channels, so that long runs are copied; for a kernel gradient positions are last where
they are in the images, as nothing then has to be turned. What is written out and what is multiplied
stand apart: XLA:CPU runs whatever it finds ready, and both need both cores.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from .._form import Problem
from .._geometry import Geometry
from . import _lines, _windows, taps
from ._algorithm import Algorithm
from ._apart import Block, apart, collected, cut_up, summed, taken
from ._cast import cast
from ._frame import (
    Frame,
    as_output,
    block_bytes,
    blocks,
    framed,
    read_frames,
    residue_cut,
    residues,
    result_dtype,
    sum_dtype,
)
from ._layouts import channels_first, channels_last
from ._library import across, factor_dtype, is_turned, multiplied

#: Fewer input channels than this are not worth being last.
FEWEST_LANES = 6
#: Channels of errors that a product of what lies side by side is not too narrow for.
FEWEST_RESULTS = 8
#: So many times as many channels of errors as numbers of a patch are left where they are.
WIDE = 16
#: Taps that are written out one by one, and in runs.
MOST_TAPS, MOST_TAPS_IN_RUNS = 128, 2048
#: Columns of a product that XLA:CPU computes in less time than fewer: 12 take longer than 16.
WIDTHS = (1, 2, 4, 8, 16, 24, 32)


def refuses(problem: Problem) -> str | None:
    """Groups, strided input gradients, large windows, images that 32 bits do not count."""
    most = MOST_TAPS_IN_RUNS if problem.projection == "kernel_grad" else MOST_TAPS
    if math.prod(problem.form.geometry.window) > most:
        return f"it writes out at most {most} taps of a window"
    return taps.refuses(problem) or _windows.refuses(problem)


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[o, s] = sum_k w[o, k] p[k, s]."""
    return _in_order(problem, x)(problem, _output, x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel turned by 180 degrees."""
    return as_output(problem, output, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w[o, k] = sum_s y[o, s] p[k, s]."""
    several = problem.form.layout.channels(y.shape) >= FEWEST_RESULTS
    if several and _lines.fits(problem):
        return _kernel_grad_by_lines(problem, x, y)
    return channels_last(problem, _kernel_grad, x, y)


ALGORITHM = Algorithm(
    "patches", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _in_order(problem: Problem, x: Array) -> Callable[..., Array]:
    """Positions last where channels are too few to be."""
    return channels_first if _is_few(problem, x) else channels_last


def _is_few(problem: Problem, x: Array) -> bool:
    return problem.form.layout.channels(x.shape) < FEWEST_LANES


def _output(problem: Problem, x: Array, w: Array) -> Array:
    layout, sizes = problem.form.layout, problem.form.geometry.output
    last, w = layout.channels_last, cast(w, sum_dtype(problem))
    c_o, _, _ = layout.split_kernel(w.shape)
    matrix = w.reshape((-1, c_o) if last else (c_o, -1))
    if last:
        matrix = framed(matrix, [Frame(1, 0, width(c_o))])

    def products(block: Block, patches: Array) -> Array:
        if last:
            y = _dot(problem, patches.reshape(-1, patches.shape[-1]), matrix, (1, 0))[:, :c_o]
        else:
            alike = jnp.broadcast_to(matrix, (block.images, *matrix.shape))
            y = _dot(problem, alike, patches.reshape(*patches.shape[:2], -1), (2, 1), 1)
        return y.reshape(layout.image((block.images,), c_o, (block.rows, *sizes[1:])))

    def results(block: Block, *xs: Array) -> Array:
        patches = _of_block(problem, block, xs)
        return apart(functools.partial(products, block), patches)

    parts = _blocks(problem, x.shape[0])
    xs = _read(problem, cast(x, sum_dtype(problem)), parts)
    y = collected(results, parts, 1 if last else 2, *xs)
    return cast(y, result_dtype(problem))


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    def operands(block: Block, y: Array, *xs: Array) -> tuple[Array, Array]:
        patches = _of_block(problem, block, xs)
        return patches, taken(y, block, 1)

    dtype, parts = factor_dtype(problem), _blocks(problem, x.shape[0])
    xs = _read(problem, cast(x, dtype), parts)
    w = summed_across(problem, operands, parts, cast(y, dtype), *xs)
    shape = problem.form.result_shape("kernel_grad", *problem.shapes)
    return cast(w.reshape(shape), result_dtype(problem))


def _kernel_grad_by_lines(problem: Problem, x: Array, y: Array) -> Array:
    """Positions last, as they are. Errors of many more channels than a patch has numbers would take
    longer to put side by side than slower products, one to an image."""
    geometry, parts = problem.form.geometry, _blocks(problem, len(x))
    by_image = y.shape[1] >= WIDE * x.shape[1] * math.prod(geometry.window)
    dtype = sum_dtype(problem) if by_image else factor_dtype(problem)
    images = _lines.read(geometry, cast(x, dtype))
    starts = _lines.starts(geometry, x.shape[1], max(block.rows for block in parts))

    def product(patches: Array, errors: Array) -> Array:
        if by_image:
            pair = patches, errors.reshape(*errors.shape[:2], -1)
            return _dot(problem, *pair, (2, 2), 1).sum(0)
        return multiplied(problem, patches, errors, (1, 1))

    def results(block: Block, y: Array, images: Array, starts: Array) -> Array:
        patches = _lines.written_out(geometry, block, images, starts, by_image)
        errors = taken(y, block, 2) if by_image else _lines.errors(block, y)
        return apart(product, patches, errors)

    w = summed(results, parts, cast(y, dtype), images, starts)
    shape = problem.form.result_shape("kernel_grad", *problem.shapes)
    return cast(w.T.reshape(shape), result_dtype(problem))


def summed_across(
    problem: Problem,
    pair: Callable[..., tuple[Array, Array]],
    blocks: Sequence[Block],
    *operands: Array,
) -> Array:
    """`a' b` of each block's pair, added up: sums over all axes but the last. `a` and `b` change
    places where that is faster, see `_library.is_turned`."""
    a, b = jax.eval_shape(lambda: pair(blocks[0], *operands))
    turned = is_turned(problem, a.shape[-1], b.shape[-1])

    def product(a: Array, b: Array) -> Array:
        a, b = (side.reshape(-1, side.shape[-1]) for side in (a, b))
        return across(problem, a, b)

    def results(block: Block, *operands: Array) -> Array:
        a, b = pair(block, *operands)
        return apart(product, b, a) if turned else apart(product, a, b)

    sums = summed(results, blocks, *operands)
    # Where a single block is all, XLA would turn the product round.
    return apart(jnp.transpose, sums) if turned else sums


def _blocks(problem: Problem, images: int) -> list[Block]:
    """All images and rows, in as few blocks as the limits allow."""
    (height, *rest), window = problem.form.geometry.output, problem.form.geometry.window
    _, inputs, _ = blocks(problem.form, problem.shapes, problem.projection)
    row = math.prod((inputs, *window, *rest)) * sum_dtype(problem).itemsize
    return cut_up(images, height, block_bytes(problem) // row)


def _read(problem: Problem, x: Array, parts: Sequence[Block]) -> list[Array]:
    """What is read of x: with channels last its rows, and where the windows of a block are in them;
    else its positions, one array for each residue of the last axis by its stride."""
    geometry = problem.form.geometry
    if problem.form.layout.channels_last:
        windows = _windows.of_results(geometry, max(block.rows for block in parts), x.shape[-1])
        return [_windows.rows(x, read_frames(geometry, 1)), _windows.starts(windows)]
    frames, stride = read_frames(geometry, 2), geometry.stride[-1]
    return apart(lambda x: residues(x, frames, stride), x)


def _of_block(problem: Problem, block: Block, xs: Sequence[Array]) -> Array:
    """The patches of a block, `(n, *positions, patch)` or `(n, patch, *positions)`, a computation
    of their own."""
    geometry = problem.form.geometry
    if not problem.form.layout.channels_last:
        part = _part(problem, block, xs)
        return apart(functools.partial(_planes, geometry, block.rows), part)
    x, starts = xs
    windows = _windows.of_results(geometry, block.rows, x.shape[-1] // geometry.read[-1])
    patches = _windows.written_out(windows, block, x, starts)
    return patches.reshape(block.images, block.rows, *geometry.output[1:], -1)


def _part(problem: Problem, block: Block, xs: Sequence[Array]) -> list[Array]:
    """What a block reads, along an axis that may be the one that is taken apart."""
    geometry = problem.form.geometry
    s, reach = geometry.stride[0], (geometry.window[0] - 1) * geometry.dilation[0]
    if geometry.rank == 1:
        s, reach = 1, reach // s
    return [taken(x, block, 2, block.row * s, (block.rows - 1) * s + reach + 1) for x in xs]


def _planes(geometry: Geometry, rows: int, xs: Sequence[Array]) -> Array:
    """The patches of a block, `(n, patch, *positions)`, of one x for each residue of the last axis
    by its stride."""

    def read(tap: tuple[int, ...]) -> Array:
        counts = (rows, *geometry.output[1:])
        axes = enumerate(zip(tap, geometry.dilation, counts, geometry.stride, strict=True))
        return residue_cut(xs, [(2 + axis, a * d, m, s) for axis, (a, d, m, s) in axes])

    patches = stacked(read, geometry.window, 2)
    return lax.collapse(patches, 1, 2 + geometry.rank)


def stacked(read: Callable[..., Array], window: Sequence[int], axis: int) -> Array:
    """What is read at all taps, with the window's axes from `axis` on; the last one outermost, in
    which order XLA:CPU fills blocks in less time."""
    if not window:
        return read(())
    *others, last = window
    parts = [stacked(lambda tap, a=a: read((*tap, a)), others, axis) for a in range(last)]
    return jnp.stack(parts, axis + len(others))


def width(columns: int) -> int:
    """Columns of a product, up to a number that XLA:CPU computes in less time."""
    return next((whole for whole in WIDTHS if whole >= columns), columns)


def _dot(problem: Problem, a: Array, b: Array, axes: tuple[int, int], batch: int = 0) -> Array:
    """The product of two matrices, or of pairs of them, summed over these axes."""
    contracted, alike = ((axes[0],), (axes[1],)), tuple(range(batch))
    return lax.dot_general(a, b, (contracted, (alike, alike)), precision=problem.form.precision)
