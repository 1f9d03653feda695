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
from ._apart import Block, apart, cut_up, in_turn, put_together
from ._frame import (
    Frame,
    as_output,
    blocks,
    channels_last,
    cut,
    framed,
    padded,
    result_dtype,
    sum_dtype,
    total,
)

#: (B d)_i of four inputs, (G g)_i of three taps, (A e)_i of two outputs.
B = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
A = ((1, 0), (1, 1), (1, -1), (0, -1))
POINTS = tuple(itertools.product(range(4), range(4)))
#: What is held at once before the batch is taken in parts: bytes, see `slices.MOST_BYTES`, and
#: elements over those of the operands.
MOST_BYTES, MOST_HELD, MOST_PARTS = 2**24, 2, 3


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
    kernel_grad = problem.projection == "kernel_grad"
    held = inputs + outputs if kernel_grad else max(inputs, outputs)
    height, width = (-(-m // 2) for m in _results(problem))
    given = sum(math.prod(shape) for shape in problem.shapes)
    most = min(MOST_BYTES // sum_dtype(problem).itemsize, MOST_HELD * given)
    return cut_up(problem.shapes[0][0], height, most // (16 * width * held), MOST_PARTS)


def _results(problem: Problem) -> tuple[int, ...]:
    """The spatial sizes that tiles are counted on."""
    geometry = problem.form.geometry
    return geometry.spatial if problem.projection == "input_grad" else geometry.output


def _output(problem: Problem, x: Array, w: Array) -> Array:
    dtype = sum_dtype(problem)
    g = jnp.asarray(G, dtype)
    u = jnp.einsum("ia,jb,abcd->ijcd", g, g, w.astype(dtype), precision=lax.Precision.HIGHEST)
    tiles = parts(problem)
    results = in_turn(functools.partial(_output_of, problem), tiles, x.astype(dtype), u)
    y = put_together(tiles, results, 1)
    sizes = [Frame(1 + axis, 0, m) for axis, m in enumerate(problem.form.geometry.output)]
    return framed(y, sizes).astype(result_dtype(problem))


def _output_of(problem: Problem, part: Block, x: Array, u: Array) -> Array:
    """The outputs of some tiles, from the transformed kernel `(4, 4, c_i, c_o)`."""
    tiles, (c_i, c_o) = (part.rows, _columns(problem)), u.shape[2:]
    x = _read(problem, part, x)
    products = [
        jnp.matmul(
            _tile_points(x, i, j, tiles).reshape(-1, c_i), u[i, j], precision=problem.form.precision
        )
        for i, j in POINTS
    ]
    quarters = [
        [_weighted([A[i][p] * A[j][q] for i, j in POINTS], products) for q in range(2)]
        for p in range(2)
    ]
    shape = (x.shape[0], *tiles, c_o)
    rows = [jnp.stack([part.reshape(shape) for part in row], 3) for row in quarters]
    return jnp.stack(rows, 2).reshape(x.shape[0], 2 * tiles[0], 2 * tiles[1], c_o)


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    dtype, products = sum_dtype(problem), functools.partial(_products, problem)
    stacked = total(in_turn(products, parts(problem), x.astype(dtype), y.astype(dtype)))
    g = jnp.asarray(G, dtype)
    w = jnp.einsum(
        "ia,jb,ijcd->abcd",
        g,
        g,
        stacked.reshape(4, 4, x.shape[-1], y.shape[-1]),
        precision=lax.Precision.HIGHEST,
    )
    return w.astype(result_dtype(problem))


def _products(problem: Problem, part: Block, x: Array, y: Array) -> Array:
    """`(B x B')_ij (A y A')_ij`, summed over some tiles, for each point ij."""
    tiles, quarters = (part.rows, _columns(problem)), tuple(itertools.product(range(2), range(2)))
    x, products = _read(problem, part, x), []
    y = y[part.image :][: part.images]
    y = framed(y, [Frame(1, 2 * part.row, 2 * part.rows), Frame(2, 0, 2 * tiles[1])])
    for i, j in POINTS:
        points = _tile_points(x, i, j, tiles).reshape(-1, x.shape[-1])
        errors = _weighted(
            [A[i][p] * A[j][q] for p, q in quarters],
            [_every_second(y, p, q, tiles) for p, q in quarters],
        )
        errors = errors.reshape(-1, y.shape[-1])
        products.append(jnp.matmul(points.T, errors, precision=problem.form.precision))
    return jnp.stack(products)


def _columns(problem: Problem) -> int:
    """Tiles of two outputs along the minor axis."""
    return -(-problem.form.geometry.output[1] // 2)


def _read(problem: Problem, part: Block, x: Array) -> Array:
    """What some tiles read of x."""
    (above, _), (left, _) = problem.form.geometry.padding
    rows = Frame(1, 2 * part.row - above, 2 * part.rows + 2)
    columns = Frame(2, -left, 2 * _columns(problem) + 2)
    return apart(lambda x: padded(x, [rows, columns]), x[part.image :][: part.images])


def _every_second(image: Array, row: int, column: int, tiles: tuple[int, int]) -> Array:
    return cut(image, [(1, row, tiles[0], 2), (2, column, tiles[1], 2)])


def _tile_points(x: Array, i: int, j: int, tiles: tuple[int, int]) -> Array:
    """(B d B')_ij of every tile d."""
    used = [(a, b) for a, b in POINTS if B[i][a] and B[j][b]]
    return _weighted(
        [B[i][a] * B[j][b] for a, b in used], [_every_second(x, a, b, tiles) for a, b in used]
    )


def _weighted(weights: Sequence[float], arrays: Sequence[Array]) -> Array:
    """The sum of arrays with weights 0, 1 and -1."""
    plus = [array for weight, array in zip(weights, arrays, strict=True) if weight > 0]
    minus = [array for weight, array in zip(weights, arrays, strict=True) if weight < 0]
    if not plus:
        return -total(minus)
    return total(plus) - total(minus) if minus else total(plus)
