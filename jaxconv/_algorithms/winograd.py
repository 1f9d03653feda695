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
from jax import Array, lax

from .._form import Problem
from . import _tiles
from ._algorithm import Algorithm
from ._apart import Block, apart, collected, summed, taken
from ._cast import cast
from ._frame import Frame, as_output, cut, framed, result_dtype, sum_dtype
from ._layouts import moved
from ._library import across, is_for, multiplied
from ._several import together
from ._tiles import Tiles
from ._toom import TAPS, Grid, gathered, on_both, spread


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
    cut, last = _tiles.tiles(problem), problem.form.layout.channels_last
    w = moved("w", cast(w, sum_dtype(problem)), last, True)
    u = apart(functools.partial(_taps, cut), w)
    images, bands = _tiles.parts(problem)
    some = functools.partial(_output_of, problem, bands)
    return collected(some, images, 1, x, u, most_unrolled=1)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel rotated by 180 degrees, its channels exchanged."""
    return as_output(problem, output, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w = G' [(B x B') * (A y A')] G."""
    cut, last = _tiles.tiles(problem), problem.form.layout.channels_last
    images, bands = _tiles.parts(problem)
    sums = summed(functools.partial(_kernel_grad_of, problem, bands), images, x, y)
    w = jnp.stack(apart(functools.partial(_window, cut), sums))
    w = jnp.swapaxes(w.reshape(TAPS, TAPS, *w.shape[1:]), -1, -2)
    return cast(moved("w", w, True, last), result_dtype(problem))


ALGORITHM = Algorithm(
    "winograd", {"output": output, "input_grad": input_grad, "kernel_grad": kernel_grad}, refuses
)


def _output_of(
    problem: Problem, bands: Sequence[Block], images: Block, x: Array, u: Sequence[Array]
) -> Array:
    """The outputs of some images, from the points of the kernel."""
    cut, last = _tiles.tiles(problem), problem.form.layout.channels_last

    def band(part: Block, x: Array, u: Sequence[Array]) -> Array:
        points = _read(cut, part, x)
        products = apart(functools.partial(_products, multiplied, problem), points, u)
        results = apart(functools.partial(_results, cut), products)
        return _put_together(cut, images.images, part.rows, results)

    x = _framed(problem, images, x, _read_frames(problem))
    y = collected(band, bands, 1, x, u, most_unrolled=1)
    height, width = problem.form.geometry.output
    y = cast(framed(y, [Frame(1, 0, height), Frame(2, 0, width)]), result_dtype(problem))
    return y if last else apart(lambda y: moved("y", y, True, False), y)


def _kernel_grad_of(
    problem: Problem, bands: Sequence[Block], images: Block, x: Array, y: Array
) -> list[Array]:
    """Errors times images, summed over the tiles of some images, for each point."""
    cut, own = _tiles.tiles(problem), is_for(problem)
    multiply = across if own else multiplied

    def band(part: Block, x: Array, y: Array) -> list[Array]:
        points = _read(cut, part, x)
        if len(bands) > 1:
            y = lax.dynamic_slice_in_dim(y, part.row * cut.rows, part.rows * cut.rows, 1)
        errors = apart(functools.partial(_errors, cut, not own), y)
        return apart(functools.partial(_products, multiply, problem), errors, points)

    x = _framed(problem, images, x, _read_frames(problem))
    y = _framed(problem, images, y, _own_frames(cut))
    return summed(band, bands, x, y)


def _framed(problem: Problem, images: Block, x: Array, frames: Sequence[Frame]) -> Array:
    """What lies in the frames of some images, channels last: turned and framed by themselves, as
    XLA:CPU is slower where it does both at once."""
    x, dtype = taken(x, images, 1, 0, x.shape[1]), sum_dtype(problem)
    if not problem.form.layout.channels_last:
        x = apart(lambda x: moved("x", x, False, True), cast(x, dtype))
    return apart(lambda x: framed(cast(x, dtype), frames), x)


def _read_frames(problem: Problem) -> list[Frame]:
    """What all tiles read."""
    padding = problem.form.geometry.padding
    sides = enumerate(zip(padding, *_tiles.tiles(problem), strict=True))
    return [
        Frame(1 + axis, -low, (m * count + TAPS - 1) * d) for axis, ((low, _), m, count, d) in sides
    ]


def _own_frames(cut: Tiles) -> list[Frame]:
    """All outputs of all tiles."""
    sides = enumerate(zip(*cut, strict=True))
    return [Frame(1 + axis, 0, m * count * d) for axis, (m, count, d) in sides]


def _products(
    multiply: Callable[[Problem, Array, Array], Array],
    problem: Problem,
    lefts: Sequence[Array],
    rights: Sequence[Array],
) -> list[Array]:
    return [multiply(problem, *pair) for pair in zip(lefts, rights, strict=True)]


def _read(tiles: Tiles, band: Block, x: Array) -> list[Array]:
    """The points of some rows of tiles, which a loop cuts out; one band alone is all of them."""
    if not isinstance(band.row, int):
        length = band.rows * tiles.rows + (TAPS - 1) * tiles.steps[0]
        x = lax.dynamic_slice_in_dim(x, band.row * tiles.rows, length, 1)
    return apart(functools.partial(_points, tiles, band.rows), x)


def _points(tiles: Tiles, rows: int, x: Array) -> list[Array]:
    """(B d B')_ij of the tiles d of some rows of x: `(tiles, c)` for each point.

    One loop to a row of points: what is written at once, to places of the same remainder by the
    size of a page as like as not, must not outgrow the ways of a cache.
    """
    (m1, m2), (_, columns), (d1, d2) = tiles
    n, height, width, c = x.shape
    x = x.reshape(n, height // d1, d1, width // d2, d2, c)
    grid = [
        [cut(x, [(1, a, rows, m1), (3, b, columns, m2)]) for b in range(m2 + TAPS - 1)]
        for a in range(m1 + TAPS - 1)
    ]
    return _by_rows(on_both(spread, tiles.matrices("inputs"), grid))


def _taps(tiles: Tiles, w: Array) -> list[Array]:
    """(G w G')_ij: `(c_i, c_o)` for each point."""
    return _by_rows(on_both(spread, tiles.matrices("taps"), [list(row) for row in w]))


def _errors(tiles: Tiles, turned: bool, y: Array) -> list[Array]:
    """(A e A')_ij of every tile e of y: `(tiles, c)` for each point, or turned `(c, tiles)`."""
    (m1, m2), (_, columns), (d1, d2) = tiles
    n, height, _, c = y.shape
    y = y.reshape(n, height // (m1 * d1), m1, d1, columns, m2, d2, c)
    if turned:
        y = apart(lambda y: y.transpose(2, 5, 7, 0, 1, 3, 4, 6).reshape(m1, m2, c, -1), y)
        grid = [list(row) for row in y]
    else:
        grid = [[y[:, :, p, :, :, q] for q in range(m2)] for p in range(m1)]
    return _by_rows(on_both(spread, tiles.matrices("outputs"), grid))


def _by_rows(grid: Grid) -> list[Array]:
    """All of a grid as matrices, each row of it by one loop."""
    arrays = [array for row in grid for array in together(row)]
    return [array.reshape(-1, array.shape[-1]) for array in arrays]


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


def _put_together(tiles: Tiles, images: int, rows: int, results: Sequence[Array]) -> Array:
    """The outputs of some rows of tiles in their places."""
    (m1, m2), (_, columns), (d1, d2) = tiles
    c = results[0].shape[-1]
    results = [result.reshape(images, rows, d1, columns, d2, c) for result in results]
    lines = [jnp.stack(results[p * m2 : (p + 1) * m2], 4) for p in range(m1)]
    return jnp.stack(lines, 2).reshape(images, rows * m1 * d1, columns * m2 * d2, c)
