"""`taps`: one matrix product for each tap of the window, added up.

    output       y = sum_a x[s*stride + a*dilation - low] w[a]
    input_grad   the output for the kernel turned by 180 degrees, or, strided, for each residue
    kernel_grad  w[a] = x[s*stride + a*dilation - low]' y

Each x[...] is a matrix of all outputs' positions by the input channels, a strided slice of x: no
matrix of whole patches is ever written out, and a loop holds one at a time. For what XLA:CPU
convolves element by element, and wherever its convolution is at its worst.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._cast import cast
from ._frame import as_output, cut, framed, read_frames, result_dtype, sum_dtype
from ._layouts import channels_last


def refuses(problem: Problem) -> str | None:
    """Groups, and strided input gradients."""
    geometry = problem.form.geometry
    if geometry.groups > 1:
        return "it has no groups"
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
    x, matrices = (
        framed(cast(x, dtype), read_frames(geometry, 1)),
        cast(w, dtype).reshape(-1, *w.shape[-2:]),
    )

    def product(at: Array, matrix: Array) -> Array:
        return jnp.matmul(_read(problem, x, at), matrix, precision=problem.form.precision)

    def step(y: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        return y + product(*tap), None

    offsets = _offsets(geometry)
    first = product(offsets[0], matrices[0])
    y, _ = lax.scan(step, first, (offsets[1:], matrices[1:]))
    return cast(y.reshape(x.shape[0], *geometry.output, -1), result_dtype(problem))


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    geometry, dtype = problem.form.geometry, sum_dtype(problem)
    x, y = (
        framed(cast(x, dtype), read_frames(geometry, 1)),
        cast(y, dtype).reshape(-1, y.shape[-1]),
    )

    def product(at: Array) -> Array:
        return jnp.matmul(_read(problem, x, at).T, y, precision=problem.form.precision)

    w = lax.map(product, _offsets(geometry))
    return cast(w.reshape(*geometry.window, *w.shape[1:]), result_dtype(problem))


def _offsets(geometry: Geometry) -> Array:
    """Where each tap begins to read: `(taps, rank)`."""
    grid = np.indices(geometry.window, np.int32).reshape(geometry.rank, -1)
    return jnp.asarray(grid.T * np.asarray(geometry.dilation, np.int32))


def _read(problem: Problem, x: Array, at: Array) -> Array:
    """What all outputs read at one tap: `(positions, c_i)`."""
    geometry = problem.form.geometry
    zero = jnp.zeros((), at.dtype)
    spans = [(m - 1) * s + 1 for m, s in zip(geometry.output, geometry.stride, strict=True)]
    part = lax.dynamic_slice(x, (zero, *at, zero), (x.shape[0], *spans, x.shape[-1]))
    taken = zip(geometry.output, geometry.stride, strict=True)
    part = cut(part, [(1 + axis, 0, m, s) for axis, (m, s) in enumerate(taken)])
    return part.reshape(-1, x.shape[-1])
