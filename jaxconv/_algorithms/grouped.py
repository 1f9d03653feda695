"""`grouped`: the windows of all groups written out, one batch of products for groups and images.

    output       y[n, g, o, s] = sum_k w[g, o, k] p[n, g, k, s], with patches p as in `patches`
    input_grad   of stride 1: the output for the kernel turned by 180 degrees

For groups of some channels: too many for `shift`, whose loops write out every product, and too few
for `groups`, which takes them one after the other.
"""

import functools
import math

import jax.numpy as jnp
from jax import Array, lax

from .._form import Problem
from . import patches
from ._algorithm import Algorithm
from ._apart import Block, apart, collected, cut_up, taken
from ._frame import (
    as_output,
    block_bytes,
    blocks,
    channels_first,
    read_frames,
    residue_cut,
    residues,
    result_dtype,
    sum_dtype,
)


def refuses(problem: Problem) -> str | None:
    """Strided input gradients, large windows."""
    geometry = problem.form.geometry
    if math.prod(geometry.window) > patches.MOST_TAPS:
        return f"it writes out at most {patches.MOST_TAPS} taps of a window"
    if problem.projection == "input_grad" and geometry.stride != (1,) * geometry.rank:
        return "it has no strided input gradient"
    return None


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[n, g, o, s] = sum_k w[g, o, k] p[n, g, k, s]."""
    return channels_first(problem, _output, x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel turned by 180 degrees."""
    return as_output(problem, output, y, w)


ALGORITHM = Algorithm("grouped", {"output": output, "input_grad": input_grad}, refuses)


def _output(problem: Problem, x: Array, w: Array) -> Array:
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    groups, inputs, outputs = blocks(problem.form, problem.shapes, "output")
    window, positions = math.prod(geometry.window), math.prod(geometry.output)
    matrices = w.astype(dtype).reshape(groups, outputs, inputs * window)
    frames, stride = read_frames(geometry, 2), geometry.stride[-1]
    xs = apart(lambda x: residues(x, frames, stride), x.astype(dtype))

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
    return collected(results, parts, 2, matrices, *xs).astype(result_dtype(problem))
