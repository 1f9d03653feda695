"""`taps`: one matrix product for each tap of the window, added up.

    output       y = sum_a x[s*stride + a*dilation - low] w[a]
    input_grad   the output for the kernel turned by 180 degrees, or, strided, for each residue
    kernel_grad  w[a] = x[s*stride + a*dilation - low]' y

Each x[...] is a matrix of all outputs' positions by the input channels, a strided slice of x: no
matrix of whole patches is ever written out. For the dtypes whose convolutions XLA:CPU computes
element by element, and wherever its convolution is at its worst.
"""

import itertools
from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array

from .._form import Problem
from ._algorithm import Algorithm
from ._frame import (
    Frame,
    as_output,
    channels_last,
    cut,
    framed,
    result_dtype,
    sum_dtype,
    total,
)

#: Most taps: the products are written out.
MOST_TAPS = 64


def refuses(problem: Problem) -> str | None:
    """Groups, and windows with many taps."""
    geometry = problem.form.geometry
    taps = len(list(itertools.product(*map(range, geometry.window))))
    if geometry.groups > 1:
        return "it has no groups"
    if taps > MOST_TAPS:
        return f"it writes out at most {MOST_TAPS} products, and the window has {taps} taps"
    if problem.projection == "input_grad" and geometry.stride != (1,) * geometry.rank:
        return "it has no strided input gradient, see phases"
    return None


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y = sum_a x[s*stride + a*dilation - low] w[a]."""
    return channels_last(problem, _output, x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel turned by 180 degrees."""
    return as_output(problem, output, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w[a] = x[s*stride + a*dilation - low]' y."""
    return channels_last(problem, _kernel_grad, x, y)


ALGORITHM = Algorithm(
    "taps", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _output(problem: Problem, x: Array, w: Array) -> Array:
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    w = w.astype(dtype).reshape(-1, *w.shape[-2:])
    parts = [
        jnp.matmul(part, w[at], precision=problem.form.precision)
        for at, part in enumerate(_read(problem, x.astype(dtype)))
    ]
    return total(parts).reshape(x.shape[0], *geometry.output, -1).astype(result_dtype(problem))


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    y = y.astype(dtype).reshape(-1, y.shape[-1])
    parts = [
        jnp.matmul(part.T, y, precision=problem.form.precision)
        for part in _read(problem, x.astype(dtype))
    ]
    w = jnp.stack(parts).reshape(*geometry.window, x.shape[-1], y.shape[-1])
    return w.astype(result_dtype(problem))


def _read(problem: Problem, x: Array) -> Iterator[Array]:
    """For each tap, what all outputs read there: `(positions, c_i)`."""
    geometry = problem.form.geometry
    sizes = zip(geometry.padding, geometry.output, geometry.stride, geometry.extent, strict=True)
    x = framed(
        x,
        [Frame(1 + axis, -low, (m - 1) * s + e) for axis, ((low, _), m, s, e) in enumerate(sizes)],
    )
    for at in itertools.product(*map(range, geometry.window)):
        steps = zip(at, geometry.dilation, geometry.output, geometry.stride, strict=True)
        yield cut(x, [(1 + axis, a * d, m, s) for axis, (a, d, m, s) in enumerate(steps)]).reshape(
            -1, x.shape[-1]
        )
