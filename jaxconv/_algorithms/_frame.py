"""What the written-out algorithms share: frames, cuts, layouts and dtypes.

A *frame* of an axis is a range of positions that may begin before the array and end behind it. All
padding and cropping of the written-out algorithms is asking for a frame; what lies outside is
zero, or what loses where the greatest wins.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import accumulator
from .._form import PROJECTIONS, Form, Problem
from .._geometry import Geometry
from .._layout import Layout


class Frame(NamedTuple):
    """Positions `start` to `start + length` of an axis."""

    axis: int
    start: int
    length: int


def framed(array: Array, frames: Sequence[Frame], outside: Any = 0) -> Array:
    """What lies in the frames, `outside` where the array has nothing."""
    starts, stops = [0] * array.ndim, list(array.shape)
    pads = [(0, 0, 0)] * array.ndim
    for axis, start, length in frames:
        size, stop = array.shape[axis], start + length
        starts[axis] = min(max(start, 0), size)
        stops[axis] = max(min(stop, size), starts[axis])
        kept = stops[axis] - starts[axis]
        low = min(max(-start, 0), length)
        pads[axis] = (low, length - low - kept, 0)
    if any(starts) or stops != list(array.shape):
        array = lax.slice(array, starts, stops)
    if any(low or high for low, high, _ in pads):
        array = lax.pad(array, np.asarray(outside, array.dtype), pads)
    return array


def cut(array: Array, cuts: Sequence[tuple[int, int, int, int]]) -> Array:
    """`(axis, start, count, step)`: so many elements of an axis, a step apart."""
    starts, stops, steps = [0] * array.ndim, list(array.shape), [1] * array.ndim
    for axis, start, count, step in cuts:
        starts[axis], stops[axis], steps[axis] = start, start + (count - 1) * step + 1, step
    return lax.slice(array, starts, stops, steps)


def total(terms: Sequence[Array]) -> Array:
    """The sum, from the first term on."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def solve(problem: Problem, projection: str, geometry: Geometry, a: Array, b: Array) -> Array:
    """A projection of another form, one that a problem was reduced to, by the table's choice.

    The algorithm that was asked for is not asked for again.
    """
    from .._choice import choose  # the table, which needs the algorithms to be there

    form = dataclasses.replace(problem.form, geometry=geometry, algorithm="auto")
    part = Problem(projection, form, (a.shape, b.shape), problem.platform, problem.devices)
    if 0 in (*a.shape, *b.shape):
        return jnp.zeros(form.result_shape(projection, a.shape, b.shape), result_dtype(problem))
    return choose(part)[0].maps[projection](part, a, b)


def apart(function: Callable[..., Array], *operands: Array) -> Array:
    """`function(*operands)`, not fused with what reads the result.

    XLA:CPU fuses cheap arithmetic into each of its readers, and so computes it again for each tap
    that reads it; an optimization barrier is gone before it does. A branch that it cannot decide
    while compiling stays a computation of its own.
    """
    result = jax.eval_shape(function, *operands)
    always = lax.optimization_barrier(jnp.asarray(True))
    return lax.cond(always, function, lambda *_: jnp.zeros(result.shape, result.dtype), *operands)


def sum_dtype(problem: Problem) -> np.dtype:
    """What products are summed in: wide enough for all three arrays, float32 for half precision."""
    dtypes = (accumulator(problem.form.dtype(array)) for array in PROJECTIONS[problem.projection])
    # Whatever promotion the caller allows: these dtypes were settled at the door.
    with jax.numpy_dtype_promotion("standard"):
        return np.dtype(functools.reduce(jnp.promote_types, dtypes))


def result_dtype(problem: Problem) -> np.dtype:
    return problem.form.dtype(PROJECTIONS[problem.projection][2])


# Channels last as channels first: for algorithms that are written for one of the two.


def image_first(layout: Layout, image: Array) -> Array:
    """An image of one batch axis with its channels behind the batch."""
    return jnp.moveaxis(image, -1, 1) if layout.channels_last else image


def kernel_first(layout: Layout, kernel: Array) -> Array:
    """A kernel with its channels first, output channels in front."""
    return jnp.moveaxis(kernel, (-1, -2), (0, 1)) if layout.channels_last else kernel


def channels_first(
    problem: Problem, compute: Callable[[Problem, Array, Array], Array], a: Array, b: Array
) -> Array:
    """`compute` on the channels-first form of a problem, the result in the problem's layout.

    XLA would have its loops run over the result as it is to lie in the end, along channels.
    """
    layout = problem.form.layout
    if not layout.channels_last:
        return compute(problem, a, b)
    to_first = {"x": image_first, "y": image_first, "w": kernel_first}
    names = PROJECTIONS[problem.projection]
    operands = [to_first[name](layout, value) for name, value in zip(names, (a, b), strict=False)]
    form = dataclasses.replace(problem.form, layout=Layout(layout.rank, False))
    shapes = tuple(operand.shape for operand in operands)
    moved = dataclasses.replace(problem, form=form, shapes=shapes)
    result = apart(functools.partial(compute, moved), *operands)
    if names[2] == "w":
        return jnp.moveaxis(result, (0, 1), (-1, -2))
    return jnp.moveaxis(result, 1, -1)


def blocks(form: Form, shapes: Sequence[tuple[int, ...]], projection: str) -> tuple[int, int, int]:
    """`(groups, inputs of a group, outputs of a group)`."""
    layout, groups = form.layout, form.geometry.groups
    sizes = dict(zip(PROJECTIONS[projection], shapes, strict=False))
    if "w" in sizes:
        c_o, c_i, _ = layout.split_kernel(sizes["w"])
        return groups, c_i, c_o // groups
    return groups, layout.channels(sizes["x"]) // groups, layout.channels(sizes["y"]) // groups
