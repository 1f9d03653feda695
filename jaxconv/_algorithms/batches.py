"""`batches`: some images at a time, one part of the batch after the other.

    output       y[n] = conv(x[n], w)                of each part's images
    input_grad   x[n], the gradient of each image    of each part's images
    kernel_grad  w = sum over parts of the kernel gradient of a part's images
    maps of windows                                  of each part's images

What an algorithm holds besides operands and result grows with the batch. The C library takes blocks
beyond 32 MiB from the system anew on each call, and to have them mapped takes ten times as long as
to fill them; what a part needs is mapped already, and fits the shared cache. Parts stand apart, as
XLA:CPU would fuse the beginning of a part into each tap that reads it.
"""

import dataclasses
import functools
import math

from jax import Array, lax

from .._arrays import accumulator
from .._form import PROJECTIONS, Problem
from .._geometry import Geometry
from ._algorithm import Algorithm, Map
from ._apart import Block, apart, collected, cut_up, summed, taken
from ._cast import cast
from ._frame import result_dtype, solve, sum_dtype
from ._regions import MOST_TAPS

#: Bytes of images, operands and result, up to which memory is at hand; and of a part's.
MOST_WHOLE, MOST_PART = 2**25, 2**23


def output(problem: Problem, x: Array, w: Array) -> Array:
    """y[n] = conv(x[n], w) of each part's images."""
    return collected(lambda block, x: _solved(problem, _of(block, x), w), parts(problem), 1, x)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """x[n], the gradient of each image, of each part's images."""
    return output(problem, y, w)


def kernel_grad(problem: Problem, x: Array, y: Array) -> Array:
    """w = sum over parts of the kernel gradient of a part's images, rounded once."""
    form = problem.form
    dtypes = (form.dtype("x"), sum_dtype(problem), form.dtype("y"))
    wide = dataclasses.replace(problem, form=dataclasses.replace(form, dtypes=dtypes))

    def gradient(block: Block, x: Array, y: Array) -> Array:
        return _solved(wide, _of(block, x), _of(block, y))

    return cast(summed(gradient, parts(problem), x, y), result_dtype(problem))


def _window_map(name: str) -> Map:
    def compute(problem: Problem, *operands: Array) -> Array:
        """Without the axis of a single channel: XLA would take it for a difference in layout."""
        alone = operands[0].shape[-1] == 1

        def some(block: Block, *operands: Array) -> Array:
            images = [_of(block, operand) for operand in operands]
            if alone:
                images = [part[..., None] for part in images]
            few = dataclasses.replace(problem, shapes=tuple(part.shape for part in images))
            if problem.choose is None:
                raise TypeError(f"a problem of many images needs a choice for a few; got {problem}")
            algorithm, _ = problem.choose(few)
            result = apart(functools.partial(algorithm.maps[name], few), *images)
            return result[..., 0] if alone else result

        if alone:
            operands = tuple(lax.squeeze(operand, (operand.ndim - 1,)) for operand in operands)
        result = collected(some, parts(problem), 1, *operands)
        return result[..., None] if alone else result

    return compute


def refuses(problem: Problem) -> str | None:
    """A single image."""
    return "there is one image only" if problem.shapes[0][0] == 1 else None


WINDOW_MAPS = ("window_max", "window_argmax", "window_sum", "window_spread", "pick", "place")

ALGORITHM = Algorithm(
    "batches",
    {
        "output": output,
        "input_grad": input_grad,
        "kernel_grad": kernel_grad,
        **{name: _window_map(name) for name in WINDOW_MAPS},
    },
    refuses,
)


def parts(problem: Problem) -> list[Block]:
    """The batch in parts as large as they may be, all of one size if possible."""
    images = problem.shapes[0][0]
    return cut_up(images, 1, MOST_PART * images // image_bytes(problem))


def image_bytes(problem: Problem) -> int:
    """Of all images, operands and result, as they are computed with."""
    form, shapes = problem.form, problem.shapes
    if problem.projection in WINDOW_MAPS:
        wide = max(accumulator(dtype).itemsize for dtype in form.dtypes)
        return shapes[0][0] * shapes[0][-1] * _held(problem) * wide
    named = zip(
        PROJECTIONS[problem.projection],
        (*shapes, form.result_shape(problem.projection, *shapes)),
        strict=True,
    )
    return sum(math.prod(s) for name, s in named if name != "w") * sum_dtype(problem).itemsize


def _held(problem: Problem) -> int:
    """Numbers that a map of windows has to hold for each channel of an image: operand and result,
    or the copies on the way: of results and winners with what each element asks around them, or
    of values and winners of long windows."""
    geometry = problem.form.geometry
    inputs, outputs = math.prod(geometry.spatial), math.prod(geometry.output)
    if not isinstance(geometry, Geometry):
        return inputs + outputs
    if problem.projection == "window_argmax" and math.prod(geometry.window) > MOST_TAPS:
        return 2 * inputs + outputs
    axes = zip(geometry.output, geometry.window, geometry.stride, strict=True)
    asked = math.prod(m + 2 * (-(-k // s) - 1) for m, k, s in axes)
    return max(inputs + outputs, 2 * asked) if problem.projection == "place" else inputs + outputs


def part(problem: Problem) -> Problem:
    """The problem of the first part."""
    images = parts(problem)[0].images
    names = PROJECTIONS.get(problem.projection, ("x", "y"))
    pairs = zip(names, problem.shapes, strict=False)
    shapes = (shape if name == "w" else (images, *shape[1:]) for name, shape in pairs)
    return dataclasses.replace(problem, shapes=tuple(shapes))


def _of(block: Block, images: Array) -> Array:
    return taken(images, block, 1, 0, images.shape[1])


def _solved(problem: Problem, a: Array, b: Array) -> Array:
    def solved(a: Array, b: Array) -> Array:
        return solve(problem, problem.projection, problem.form.geometry, a, b)

    return apart(solved, a, b)
