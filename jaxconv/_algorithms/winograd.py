"""`winograd`: 3x3 windows of stride 1 by tiles of 2x4 outputs, 24 products in place of 72.

The trilinear form of a tile has, along each axis, the three matrices of `_toom`, so that all three
projections come from the same of them:

    output        y = A' [(G w G') * (B x B')] A
    kernel_grad   w = G' [(B x B') * (A y A')] G

and the input gradient is the output for the rotated kernel. Over all tiles and channels each of the
products is a matrix product. A tile of dilated windows has its outputs a dilation apart, and those
between belong to others. Source: Lavin and Gray, Fast algorithms for convolutional neural networks,
2015.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

from .._form import Problem
from . import _tiles
from ._algorithm import Algorithm
from ._apart import Block, apart, collected, summed, taken
from ._frame import (
    Frame,
    as_output,
    channels_last,
    cut,
    framed,
    result_dtype,
    sum_dtype,
)
from ._library import across, is_for, multiplied
from ._several import together
from ._tiles import Tiles
from ._toom import TAPS, Grid, gathered, on_both, spread

#: So many parts are put together as they are, more in a loop.
MOST_UNROLLED = 2


def refuses(problem: Problem) -> str | None:
    """3x3 windows, stride 1, one group, real floating point."""
    geometry = problem.form.geometry
    if geometry.window != (3, 3) or geometry.stride != (1, 1):
        return "it is for 3x3 windows without stride"
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


def _output(problem: Problem, x: Array, w: Array) -> Array:
    dtype, cut = sum_dtype(problem), _tiles.tiles(problem)
    u = apart(functools.partial(_taps, cut), w.astype(dtype))
    each, x = _tiles.parts(problem), x.astype(dtype)
    if len(each) > MOST_UNROLLED and each[0].rows < cut.counts[0]:
        x = _surrounded(problem, x)
    part = functools.partial(_output_of, problem)
    y = collected(part, each, 1, x, u, most_unrolled=MOST_UNROLLED)
    return framed(y, [Frame(1, 0, problem.form.geometry.output[0])]).astype(result_dtype(problem))


def _output_of(problem: Problem, part: Block, x: Array, u: Sequence[Array]) -> Array:
    """Some rows of outputs, from the points of the kernel."""
    cut = _tiles.tiles(problem)
    points = apart(functools.partial(_points, cut, part), _read(problem, part, x))
    products = apart(functools.partial(_products, multiplied, problem), points, u)
    return _put_together(problem, cut, part, apart(functools.partial(_results, cut), products))


def _kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    dtype, cut = sum_dtype(problem), _tiles.tiles(problem)
    each, x = _tiles.parts(problem), x.astype(dtype)
    if len(each) > 1 and each[0].rows < cut.counts[0]:
        x = _surrounded(problem, x)
    sides = enumerate(zip(*cut, strict=True))
    frames = [Frame(1 + axis, 0, m * count * d) for axis, (m, count, d) in sides]
    y = framed(y.astype(dtype), frames)
    sums = summed(functools.partial(_kernel_grad_of, problem), each, x, y)
    w = jnp.stack(apart(functools.partial(_window, cut), sums))
    w = jnp.swapaxes(w.reshape(TAPS, TAPS, *w.shape[1:]), -1, -2)
    return w.astype(result_dtype(problem))


def _kernel_grad_of(problem: Problem, part: Block, x: Array, y: Array) -> list[Array]:
    """Errors times images, summed over some tiles, for each point."""
    cut = _tiles.tiles(problem)
    points = apart(functools.partial(_points, cut, part), _read(problem, part, x))
    y = taken(y, part, 1, part.row * cut.rows, part.rows * cut.rows)
    errors = apart(functools.partial(_errors, cut, part, not is_for(problem)), y)
    multiply = across if is_for(problem) else multiplied
    return apart(functools.partial(_products, multiply, problem), errors, points)


def _products(
    multiply: Callable[[Problem, Array, Array], Array],
    problem: Problem,
    lefts: Sequence[Array],
    rights: Sequence[Array],
) -> list[Array]:
    return [multiply(problem, *pair) for pair in zip(lefts, rights, strict=True)]


def _surrounded(problem: Problem, x: Array) -> Array:
    """All that the tiles read of x."""
    frames = _frames(problem, 0, _tiles.tiles(problem).counts[0])
    return apart(lambda x: framed(x, frames), x)


def _frames(problem: Problem, row: int, rows: int) -> list[Frame]:
    """What so many rows of tiles, from one on, read."""
    ((above, _), (left, _)), cut = problem.form.geometry.padding, _tiles.tiles(problem)
    columns = cut.counts[1] * cut.size[1] + TAPS - 1
    return [
        Frame(1, row * cut.rows - above, rows * cut.rows + cut.halo),
        Frame(2, -left, columns * cut.steps[1]),
    ]


def _read(problem: Problem, part: Block, x: Array) -> Array:
    """What some rows of tiles read of x, which is surrounded already where a loop takes some."""
    cut = _tiles.tiles(problem)
    if isinstance(part.row, int):
        image, row = x[part.image : part.image + part.images], part.row
    elif part.rows == cut.counts[0]:
        image, row = taken(x, part, 1, 0, x.shape[1]), 0
    else:
        return taken(x, part, 1, part.row * cut.rows, part.rows * cut.rows + cut.halo)
    frames = _frames(problem, row, part.rows)
    return apart(lambda image: framed(image, frames), image)


def _shape(cut: Tiles, part: Block, channels: int) -> tuple[int, ...]:
    """Tiles, each with one number of each channel."""
    (_, columns), (d1, d2) = cut.counts, cut.steps
    return (part.images, part.rows, d1, columns, d2, channels)


def _points(tiles: Tiles, part: Block, x: Array) -> list[Array]:
    """(B d B')_ij of every tile d of x: `(tiles, c)` for each point.

    One loop to a row of points: what is written at once, to places of the same remainder by the
    size of a page as like as not, must not outgrow the ways of a cache.
    """
    (m1, m2), (_, columns), (d1, d2) = tiles
    n, height, width, c = x.shape
    x = x.reshape(n, height // d1, d1, width // d2, d2, c)
    grid = [
        [cut(x, [(1, a, part.rows, m1), (3, b, columns, m2)]) for b in range(m2 + TAPS - 1)]
        for a in range(m1 + TAPS - 1)
    ]
    return _by_rows(on_both(spread, tiles.matrices("inputs"), grid))


def _taps(tiles: Tiles, w: Array) -> list[Array]:
    """(G w G')_ij: `(c_i, c_o)` for each point."""
    return _by_rows(on_both(spread, tiles.matrices("taps"), [list(row) for row in w]))


def _errors(tiles: Tiles, part: Block, turned: bool, y: Array) -> list[Array]:
    """(A e A')_ij of every tile e of y: `(tiles, c)` for each point, or turned `(c, tiles)`."""
    (m1, m2), (_, columns), (d1, d2) = tiles
    y = y.reshape(part.images, part.rows, m1, d1, columns, m2, d2, y.shape[-1])
    if turned:
        y = apart(lambda y: y.transpose(2, 5, 7, 0, 1, 3, 4, 6).reshape(m1, m2, y.shape[-1], -1), y)
        grid = [list(row) for row in y]
    else:
        grid = [[y[:, :, p, :, :, q] for q in range(m2)] for p in range(m1)]
    return _by_rows(on_both(spread, tiles.matrices("outputs"), grid))


def _by_rows(grid: Grid) -> list[Array]:
    """All of a grid as matrices, each row of it by one loop."""
    arrays = [array for row in grid for array in together(row)]
    return [array.reshape(-1, array.shape[-1]) if array.ndim > 2 else array for array in arrays]


def _results(tiles: Tiles, products: Sequence[Array]) -> list[Array]:
    """A' p A of the products p of every tile: `(tiles, c)` for each of its outputs."""
    grid = on_both(gathered, tiles.matrices("outputs"), _grid(tiles, products))
    return together([array for row in grid for array in row])


def _window(tiles: Tiles, sums: Sequence[Array]) -> list[Array]:
    """G' s G of sums s over all tiles: `(c_o, c_i)` for each tap."""
    grid = on_both(gathered, tiles.matrices("taps"), _grid(tiles, sums))
    return together([array for row in grid for array in row])


def _grid(tiles: Tiles, arrays: Sequence[Array]) -> Grid:
    width = tiles.size[1] + TAPS - 1
    return [list(arrays[at : at + width]) for at in range(0, len(arrays), width)]


def _put_together(problem: Problem, tiles: Tiles, part: Block, results: Sequence[Array]) -> Array:
    """Outputs in their places; what the last column of tiles has too many is cut off."""
    (m1, m2), (_, columns), (d1, d2) = tiles
    c = results[0].shape[-1]
    results = [result.reshape(_shape(tiles, part, c)) for result in results]
    rows = [jnp.stack(results[p * m2 : (p + 1) * m2], 4) for p in range(m1)]
    y = jnp.stack(rows, 2).reshape(part.images, part.rows * m1 * d1, columns * m2 * d2, c)
    return framed(y, [Frame(2, 0, problem.form.geometry.output[1])])
