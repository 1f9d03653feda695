"""`grouped`: the windows of all groups written out, one batch of products for groups and images.

    output       y[n, g, o, s] = sum_k w[g, o, k] p[n, g, k, s], with patches p as in `patches`
    input_grad   of stride 1: the output for the kernel turned by 180 degrees
    kernel_grad  w[g, o, k] = sum_s y[g, o, s] p[g, k, s], positions s of all images

For groups of some channels: too many for `shift`, whose loops write out every product, and too few
for `groups`, which takes them one after the other.
"""

import functools
import math

import jax.numpy as jnp
from jax import Array, lax

from .._form import Problem
from . import _lines, _windows, patches
from ._algorithm import Algorithm
from ._apart import Block, apart, collected, cut_up, taken
from ._cast import cast
from ._frame import (
    as_output,
    block_bytes,
    blocks,
    read_frames,
    residue_cut,
    residues,
    result_dtype,
    sum_dtype,
)
from ._layouts import channels_first, channels_last


def refuses(problem: Problem) -> str | None:
    """Strided input gradients, large windows or images."""
    geometry = problem.form.geometry
    gradient = problem.projection == "kernel_grad"
    most = patches.MOST_TAPS_IN_RUNS if gradient else patches.MOST_TAPS
    if math.prod(geometry.window) > most:
        return f"it writes out at most {most} taps of a window"
    if problem.projection == "input_grad" and geometry.stride != (1,) * geometry.rank:
        return "it has no strided input gradient"
    return _windows.refuses(problem)


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[n, g, o, s] = sum_k w[g, o, k] p[n, g, k, s]."""
    return channels_first(problem, _output, x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel turned by 180 degrees."""
    return as_output(problem, output, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w[g, o, k] = sum_s y[g, o, s] p[g, k, s]."""
    if _lines.fits(problem):
        return _kernel_grad_by_lines(problem, x, y)
    return channels_last(problem, _kernel_grad, x, y)


ALGORITHM = Algorithm(
    "grouped", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _output(problem: Problem, x: Array, w: Array) -> Array:
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "output")
    window, positions = math.prod(geometry.window), math.prod(geometry.output)
    matrices = cast(w, dtype).reshape(groups, outputs, inputs * window)
    frames, stride = read_frames(geometry, 2), geometry.stride[-1]
    xs = apart(lambda x: residues(x, frames, stride), cast(x, dtype))

    def read(xs: list[Array], tap: tuple[int, ...]) -> Array:
        axes = enumerate(zip(tap, geometry.dilation, geometry.output, geometry.stride, strict=True))
        return residue_cut(xs, [(2 + axis, a * d, m, s) for axis, (a, d, m, s) in axes])

    def written_out(images: int, xs: list[Array]) -> Array:
        stacked = patches.stacked(functools.partial(read, xs), geometry.window, 2)
        return stacked.reshape(images * groups, inputs * window, positions)

    def products(images: int, patches: Array, matrices: Array) -> Array:
        all_of_them = jnp.broadcast_to(matrices, (images, *matrices.shape))
        pairs = (((2,), (1,)), ((0,), (0,)))
        factor = all_of_them.reshape(images * groups, outputs, -1)
        return lax.dot_general(factor, patches, pairs, precision=problem.form.precision)

    def results(block: Block, matrices: Array, *xs: Array) -> Array:
        part = [taken(x, block, 2, 0, x.shape[2]) for x in xs]
        whole = apart(functools.partial(written_out, block.images), part)
        y = apart(functools.partial(products, block.images), whole, matrices)
        return y.reshape(block.images, groups * outputs, *geometry.output)

    image = groups * inputs * window * positions * dtype.itemsize
    parts = cut_up(x.shape[0], 1, block_bytes(problem) // image)
    return cast(collected(results, parts, 2, matrices, *xs), result_dtype(problem))


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """Some groups at a time, in front of both factors, the narrower of which is on the left, where
    XLA:CPU is quickest. Sums over all images, as in parts they would have to be added up."""
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "kernel_grad")
    patch, positions = inputs * math.prod(geometry.window), math.prod(geometry.output)
    group = x.shape[0] * positions * patch * dtype.itemsize
    channels, turned = x.shape[-1], patch > outputs
    parts = cut_up(groups, 1, block_bytes(problem) // group)

    def windows(count: int) -> _windows.Windows:
        read = _windows.of_results(geometry, geometry.output[0], channels)
        return read._replace(channels=inputs, groups=count)

    def errors(count: int) -> _windows.Windows:
        steps = (1,) * geometry.rank
        places = _windows.walks(geometry.output, groups * outputs, geometry.output, steps)
        return _windows.Windows(places, outputs, count)

    def products(a: Array, b: Array) -> Array:
        return lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), precision=problem.form.precision)

    whole = Block(0, x.shape[0], 0, geometry.output[0])

    def results(part: Block, x: Array, at: Array, y: Array, here: Array) -> Array:
        patches = _windows.written_out(windows(part.images), whole, x, at, part.image)
        own = _windows.written_out(errors(part.images), whole, y, here, part.image)
        pair = patches.reshape(part.images, -1, patch), own.reshape(part.images, -1, outputs)
        return apart(products, *(reversed(pair) if turned else pair))

    x = _windows.rows(cast(x, dtype), read_frames(geometry, 1))
    starts = _windows.starts(windows(1)), _windows.starts(errors(1))
    w = collected(results, parts, 1, x, starts[0], cast(y, dtype), starts[1])
    w = w if turned else jnp.swapaxes(w, 1, 2)
    w = w.reshape(groups * outputs, *geometry.window, inputs)
    return cast(jnp.moveaxis(w, 0, -1), result_dtype(problem))


def _kernel_grad_by_lines(problem: Problem, x: Array, y: Array) -> Array:
    """The same with positions last, as they are."""
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "kernel_grad")
    patch, positions = inputs * math.prod(geometry.window), math.prod(geometry.output)
    parts = cut_up(groups, 1, block_bytes(problem) // (len(x) * positions * patch * dtype.itemsize))
    channels, most = x.shape[1], max(part.images for part in parts)

    def products(patches: Array, errors: Array) -> Array:
        pairs = ((2,), (2,)), ((0,), (0,))
        return lax.dot_general(patches, errors, pairs, precision=problem.form.precision)

    def results(part: Block, images: Array, starts: Array, y: Array) -> Array:
        own = starts[: part.images * patch]
        patches = _lines.of_groups(geometry, part, images, own, inputs)
        errors = _lines.errors_of_groups(part, y, outputs)
        shape = part.images, -1, len(x) * positions
        return apart(products, patches.reshape(shape), errors.reshape(shape))

    images = _lines.read(geometry, cast(x, dtype))
    starts = _lines.starts(geometry, channels, geometry.output[0], most * inputs)
    w = collected(results, parts, 1, images, starts, cast(y, dtype))
    shape = problem.form.result_shape("kernel_grad", *problem.shapes)
    return cast(jnp.swapaxes(w, 1, 2).reshape(shape), result_dtype(problem))
