"""`matmul`: windows that do not overlap, so that each projection is one matrix product.

Along each axis a window is a single tap, or as long as the stride, or there is one window alone.
Then every element of x is read by one window at most, the patches are x itself in another order,
and with P of shape (windows, c_i * taps):

    output       y = P w
    input_grad   P = y w'        put back where the patches were
    kernel_grad  w = P' y

1x1 convolutions are the case without any reordering (notes, section 4), patch embeddings and
transposed convolutions with stride = window the others. XLA:CPU's matrix product is its fastest
code by far, its convolution runs at a half to a tenth of that on these.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._form import Problem
from .._geometry import Geometry
from . import _windows
from ._algorithm import Algorithm
from ._apart import Block, apart
from ._cast import cast
from ._frame import cut, framed, own_frames, read_frames, result_dtype, sum_dtype
from ._library import across, factor_dtype, is_turned, multiplied

#: Numbers side by side in a window that are worth copying as a run.
LEAST_RUN = 32


def refuses(problem: Problem) -> str | None:
    """Windows that overlap, and groups."""
    geometry = problem.form.geometry
    if geometry.groups > 1:
        return "it has no groups"
    for axis in range(geometry.rank):
        k, s, d = geometry.window[axis], geometry.stride[axis], geometry.dilation[axis]
        if not (k == 1 or geometry.output[axis] == 1 or (k == s and d == 1)):
            return f"windows of {k} elements, {s} apart with dilation {d}, may overlap"
    return None


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y = P w, P the patches of x."""
    form, result = problem.form, result_dtype(problem)
    dtype = _factor_dtype(problem)
    patches, matrix = _patches(problem, cast(x, dtype)), cast(w, dtype)
    c_o, _, _ = form.layout.split_kernel(w.shape)
    outputs = form.geometry.output
    precision = form.precision
    if form.layout.channels_last:
        y = multiplied(problem, patches, matrix.reshape(-1, c_o), half_to=result)
        return cast(y.reshape(x.shape[0], *outputs, c_o), result)
    matrix = matrix.reshape(c_o, -1)
    if _by_image(patches.shape[1:], c_o):
        matrix = jnp.broadcast_to(matrix, (x.shape[0], *matrix.shape))
        y = jnp.matmul(matrix, patches, precision=precision)
    else:
        y = jnp.einsum("oc,ncs->nos", matrix, patches, precision=precision)
    return cast(y.reshape(x.shape[0], c_o, *outputs), result)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """P = y w', each patch put where it was; the rest is zero."""
    form, geometry = problem.form, problem.form.geometry
    dtype, result = _factor_dtype(problem), result_dtype(problem)
    y, matrix = cast(y, dtype), cast(w, dtype)
    c_o, c_i, _ = form.layout.split_kernel(w.shape)
    n, precision = y.shape[0], form.precision
    if form.layout.channels_last:
        rows = y.reshape(-1, c_o)
        patches = multiplied(problem, rows, matrix.reshape(-1, c_o), (1, 1), result)
    else:
        columns, matrix = y.reshape(n, c_o, -1), matrix.reshape(c_o, -1).T
        if _by_image((c_o, columns.shape[2]), matrix.shape[0]):
            matrix = jnp.broadcast_to(matrix, (n, *matrix.shape))
            patches = jnp.matmul(matrix, columns, precision=precision)
        else:
            patches = jnp.einsum("co,nos->ncs", matrix, columns, precision=precision)
    return cast(_unpatched(geometry, form.layout.channels_last, patches, n, c_i), result)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w = P' y, P the patches of x."""
    form = problem.form
    dtype, result = _factor_dtype(problem), result_dtype(problem)
    patches = _patches(problem, cast(x, dtype))
    y, precision = cast(y, dtype), form.precision
    c_i, c_o = form.layout.channels(x.shape), form.layout.channels(y.shape)
    if form.layout.channels_last:
        y = y.reshape(-1, c_o)
        if is_turned(problem, patches.shape[1], c_o):
            # XLA would exchange them again if it saw that the result is transposed after all.
            w = apart(jnp.transpose, across(problem, y, patches))
        else:
            w = across(problem, patches, y)
        return cast(w.reshape(*form.geometry.window, c_i, c_o), result)
    y = y.reshape(y.shape[0], c_o, -1)
    if _by_image(patches.shape[1:], c_o):
        w = jnp.einsum("nos,ncs->noc", y, patches, precision=precision).sum(0, dtype=dtype)
    else:
        w = jnp.einsum("nos,ncs->oc", y, patches, precision=precision)
    return cast(w.reshape(c_o, c_i, *form.geometry.window), result)


ALGORITHM = Algorithm(
    "matmul", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _factor_dtype(problem: Problem) -> np.dtype:
    """Channels first there is a product to each image, which is XLA's own."""
    last = problem.form.layout.channels_last
    return factor_dtype(problem) if last else sum_dtype(problem)


def _by_image(columns: Sequence[int], c_o: int) -> bool:
    """Channels first: one product for each image leaves everything where it belongs; one for all
    of them is better where the matrix is the larger factor, though its result is transposed."""
    return columns[1] > max(columns[0], c_o)


def _patches(problem: Problem, x: Array) -> Array:
    """All windows: `(n * windows, taps * c)` channels last, `(n, c * taps, windows)` first."""
    geometry, channels_last = problem.form.geometry, problem.form.layout.channels_last
    rank, first = geometry.rank, 1 if channels_last else 2
    tiles = math.prod(geometry.window) > 1 and geometry.dilation[-1] == 1
    long = geometry.window[-1] * x.shape[-1] >= LEAST_RUN and not _windows.refuses(problem)
    if channels_last and tiles and long:
        return _gathered(geometry, x)
    x = framed(x, read_frames(geometry, first))
    cuts, shape = [], list(x.shape[:first])
    for axis, (k, s, d, m) in enumerate(
        zip(geometry.window, geometry.stride, geometry.dilation, geometry.output, strict=True)
    ):
        if k == 1:
            cuts.append((first + axis, 0, m, s))
        elif m == 1:
            cuts.append((first + axis, 0, k, d))
        shape += [m, k]
    x = cut(x, cuts).reshape(*shape, *x.shape[first + rank :])
    windows = list(range(first, first + 2 * rank, 2))
    taps = [at + 1 for at in windows]
    count = math.prod(geometry.output)
    if channels_last:
        return x.transpose(0, *windows, *taps, x.ndim - 1).reshape(x.shape[0] * count, -1)
    return x.transpose(0, 1, *taps, *windows).reshape(x.shape[0], -1, count)


def _gathered(geometry: Geometry, x: Array) -> Array:
    """All windows, channels last, in long runs: XLA:CPU takes two to six times as long to turn
    axes of an array of its own."""
    windows = _windows.of_results(geometry, geometry.output[0], x.shape[-1])
    whole = Block(0, x.shape[0], 0, geometry.output[0])
    rows = _windows.rows(x, read_frames(geometry, 1))
    patches = _windows.written_out(windows, whole, rows, _windows.starts(windows))
    return patches.reshape(x.shape[0] * math.prod(geometry.output), -1)


def _unpatched(geometry: Geometry, channels_last: bool, patches: Array, n: int, c: int) -> Array:
    """The image whose patches these are, zero where no window is."""
    rank, first = geometry.rank, 1 if channels_last else 2
    windows, taps = geometry.output, geometry.window
    pairs = [axis for at in range(rank) for axis in (at, at + rank)]
    if channels_last:
        x = patches.reshape(n, *windows, *taps, c)
        x = x.transpose(0, *(1 + at for at in pairs), x.ndim - 1)
    else:
        x = patches.reshape(n, c, *taps, *windows)
        x = x.transpose(0, 1, *(2 + (at + rank) % (2 * rank) for at in pairs))
    merged, gaps = list(x.shape[:first]), []
    for k, s, d, m in zip(taps, geometry.stride, geometry.dilation, windows, strict=True):
        merged.append(k * m)
        gaps.append((s if k == 1 else d if m == 1 else 1) - 1)
    x = x.reshape(*merged, *x.shape[first + 2 * rank :])
    frames = own_frames(geometry, first)
    if not any(gaps):
        return framed(x, frames)
    pads = [(0, 0, 0)] * x.ndim
    for gap, (axis, start, length) in zip(gaps, frames, strict=True):
        spread = (x.shape[axis] - 1) * (gap + 1) + 1
        pads[axis] = (-start, start + length - spread, gap)
    return lax.pad(x, np.zeros((), x.dtype), pads)
