"""`winograd`: 3x3 windows of stride 1 by Winograd's F(2x2, 3x3), 16 products for 4 outputs, not 36.

On a tile of two outputs of one axis, which read four inputs, the trilinear form of a window of
three taps has rank four instead of six:

    <conv(d, g), e> = sum_i (B d)_i (G g)_i (A e)_i

so that all three projections come from the same three small matrices, here applied along both axes:

    output        y = A' [(G w G') * (B x B')] A
    kernel_grad   w = G' [(B x B') * (A y A')] G

and the input gradient is the output for the rotated kernel. Over all tiles and channels each of the
16 products is a matrix product. Source: Lavin and Gray, Fast algorithms for convolutional neural
networks, 2015. The entries of B and A are 0 and +-1, of G 1/2 and 1: the error stays within about
twice that of the direct form.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from .._form import Problem
from ._algorithm import Algorithm
from ._apart import MOST_UNROLLED, Block, apart, cut_up, summed, taken, unrolled
from ._frame import (
    Frame,
    as_output,
    blocks,
    channels_last,
    cut,
    framed,
    result_dtype,
    sum_dtype,
    total,
)
from ._library import across, is_for

#: (B d)_i of four inputs, (G g)_i of three taps, (A e)_i of two outputs.
B = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
A = ((1, 0), (1, 1), (1, -1), (0, -1))
POINTS = tuple(itertools.product(range(4), range(4)))
#: Bytes that are held at once before tiles are taken in parts, see `slices.MOST_BYTES`: those of a
#: kernel gradient, which are best in the shared cache, half of an output's.
MOST_BYTES = 2**23


def refuses(problem: Problem) -> str | None:
    """3x3 windows, stride and dilation 1, one group, real floating point."""
    geometry = problem.form.geometry
    if geometry.window != (3, 3) or geometry.stride != (1, 1) or geometry.dilation != (1, 1):
        return "it is for 3x3 windows without stride and dilation"
    if geometry.groups > 1:
        return "it has no groups"
    if not jnp.issubdtype(sum_dtype(problem), jnp.floating):
        return f"it is for real floating point; the sum is {sum_dtype(problem)}"
    return None


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y = A' [(G w G') * (B x B')] A."""
    return channels_last(problem, _output, x, w)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel rotated by 180 degrees, its channels exchanged."""
    return as_output(problem, output, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w = G' [(B x B') * (A y A')] G."""
    return channels_last(problem, _kernel_grad, x, y)


ALGORITHM = Algorithm(
    "winograd", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def parts(problem: Problem) -> list[Block]:
    """Images and rows of tiles taken together, so that none holds too much."""
    _, inputs, outputs = blocks(problem.form, problem.shapes, problem.projection)
    geometry, most = problem.form.geometry, MOST_BYTES // sum_dtype(problem).itemsize
    results = geometry.spatial if problem.projection == "input_grad" else geometry.output
    height, width = (-(-m // 2) for m in results)
    given = sum(math.prod(shape) for shape in problem.shapes)
    if problem.projection == "kernel_grad":
        most, count, held = min(most, given), None, inputs + outputs
    else:
        most, count, held = 2 * min(most, given), MOST_UNROLLED, max(inputs, outputs)
    return cut_up(problem.shapes[0][0], height, most // (16 * width * held), count)


def _output(problem: Problem, x: Array, w: Array) -> Array:
    dtype = sum_dtype(problem)
    g = jnp.asarray(G, dtype)
    u = jnp.einsum("ia,jb,abcd->ijcd", g, g, w.astype(dtype), precision=lax.Precision.HIGHEST)
    part = functools.partial(_output_of, problem)
    y = unrolled(part, parts(problem), 1, x.astype(dtype), u)
    sizes = [Frame(1 + axis, 0, m) for axis, m in enumerate(problem.form.geometry.output)]
    return framed(y, sizes).astype(result_dtype(problem))


def _output_of(problem: Problem, part: Block, x: Array, u: Array) -> Array:
    """The outputs of some tiles, from the transformed kernel `(4, 4, c_i, c_o)`."""
    tiles = (part.rows, _columns(problem))
    points = _points(tiles, _read(problem, x[part.image :][: part.images], part))
    products = _products(problem, points, [u[at] for at in POINTS])
    quarters = [
        [_weighted([A[i][p] * A[j][q] for i, j in POINTS], products) for q in range(2)]
        for p in range(2)
    ]
    shape = (part.images, *tiles, u.shape[-1])
    rows = [jnp.stack([quarter.reshape(shape) for quarter in row], 3) for row in quarters]
    return jnp.stack(rows, 2).reshape(shape[0], 2 * tiles[0], 2 * tiles[1], shape[-1])


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    dtype = sum_dtype(problem)
    whole = Block(0, x.shape[0], 0, -(-problem.form.geometry.output[0] // 2))
    x, y = _read(problem, x.astype(dtype), whole), _even(problem, y.astype(dtype))
    sums = summed(functools.partial(_kernel_grad_of, problem), parts(problem), x, y)
    g = jnp.asarray(G, dtype)
    shape = (4, 4, y.shape[-1], x.shape[-1])
    sums = jnp.stack(sums).reshape(shape)
    w = jnp.einsum("ia,jb,ijdc->abcd", g, g, sums, precision=lax.Precision.HIGHEST)
    return w.astype(result_dtype(problem))


def _kernel_grad_of(problem: Problem, part: Block, x: Array, y: Array) -> list[Array]:
    """`(A y A')_ij' (B x B')_ij`, summed over some tiles, for each point ij."""
    tiles = (part.rows, _columns(problem))
    points = apart(
        functools.partial(_points, tiles), taken(x, part, 1, 2 * part.row, 2 * part.rows + 2)
    )
    errors = taken(y, part, 1, 2 * part.row, 2 * part.rows)
    if is_for(problem):
        errors = apart(lambda y: _errors(_corners(y)), errors)
        return apart(functools.partial(_sums, problem), errors, points)
    errors = apart(_errors, apart(_quarters, errors))
    return apart(functools.partial(_products, problem), errors, points)


def _sums(problem: Problem, lefts: Sequence[Array], rights: Sequence[Array]) -> list[Array]:
    """The same products, of errors that are not turned beforehand."""
    return [across(problem, left, right) for left, right in zip(lefts, rights, strict=True)]


def _products(problem: Problem, lefts: Sequence[Array], rights: Sequence[Array]) -> list[Array]:
    pairs = zip(lefts, rights, strict=True)
    return [jnp.matmul(left, right, precision=problem.form.precision) for left, right in pairs]


def _columns(problem: Problem) -> int:
    """Tiles of two outputs along the minor axis."""
    return -(-problem.form.geometry.output[1] // 2)


def _read(problem: Problem, x: Array, part: Block) -> Array:
    """What some rows of tiles read of x."""
    (above, _), (left, _) = problem.form.geometry.padding
    rows = Frame(1, 2 * part.row - above, 2 * part.rows + 2)
    columns = Frame(2, -left, 2 * _columns(problem) + 2)
    return apart(lambda x: framed(x, [rows, columns]), x)


def _even(problem: Problem, y: Array) -> Array:
    """y with zeros up to whole tiles."""
    sizes = enumerate(problem.form.geometry.output)
    return framed(y, [Frame(1 + axis, 0, m + m % 2) for axis, m in sizes])


def _points(tiles: tuple[int, int], x: Array) -> list[Array]:
    """(B d B')_ij of every tile d of x: `(tiles, c)` for each point."""
    return [_tile_points(x, i, j, tiles).reshape(-1, x.shape[-1]) for i, j in POINTS]


def _tile_points(x: Array, i: int, j: int, tiles: tuple[int, int]) -> Array:
    used = [(a, b) for a, b in POINTS if B[i][a] and B[j][b]]
    read = [cut(x, [(1, a, tiles[0], 2), (2, b, tiles[1], 2)]) for a, b in used]
    return _weighted([B[i][a] * B[j][b] for a, b in used], read)


def _quarters(y: Array) -> Array:
    """y's tiles, positions last: `(2, 2, c, tiles)`."""
    n, height, width, c = y.shape
    y = y.reshape(n, height // 2, 2, width // 2, 2, c)
    return y.transpose(2, 4, 5, 0, 1, 3).reshape(2, 2, c, -1)


def _corners(y: Array) -> Array:
    """y's tiles, channels last: `(2, 2, tiles, c)`."""
    corners = [[y[:, p::2, q::2] for q in range(2)] for p in range(2)]
    return jnp.stack([jnp.stack(row) for row in corners]).reshape(2, 2, -1, y.shape[-1])


def _errors(quarters: Array) -> list[Array]:
    """(A e A')_ij of every tile e: `(c, tiles)` for each point."""
    places = tuple(itertools.product(range(2), range(2)))
    return [
        _weighted([A[i][p] * A[j][q] for p, q in places], [quarters[at] for at in places])
        for i, j in POINTS
    ]


def _weighted(weights: Sequence[float], arrays: Sequence[Array]) -> Array:
    """The sum of arrays with weights 0, 1 and -1."""
    plus = [array for weight, array in zip(weights, arrays, strict=True) if weight > 0]
    minus = [array for weight, array in zip(weights, arrays, strict=True) if weight < 0]
    if not plus:
        return -total(minus)
    return total(plus) - total(minus) if minus else total(plus)
