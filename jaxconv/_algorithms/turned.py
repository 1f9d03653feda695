"""`turned`: a problem in one layout as the same in the other.

    output       y = conv(x, w)         of x and w turned, turned back
    input_grad   x, its gradient        of y and w
    kernel_grad  w, its gradient        of x and y

oneDNN has bfloat16 with channels last alone, where it is twice as fast as single precision. Numbers
of two bytes are turned in less time than it takes to widen them.
"""

import dataclasses

from jax import Array

from .._form import PROJECTIONS, Problem, Shape
from .._layout import Layout
from ._algorithm import Algorithm
from ._frame import channels_first, channels_last, solve


def compute(problem: Problem, a: Array, b: Array) -> Array:
    """The projection of a problem, by what is chosen for it in the other layout."""
    last = problem.form.layout.channels_last
    return (channels_first if last else channels_last)(problem, _solved, a, b)


ALGORITHM = Algorithm("turned", dict.fromkeys(PROJECTIONS, compute))


def turned(problem: Problem) -> Problem:
    """The same in the other layout."""
    layout = problem.form.layout
    other = Layout(layout.rank, not layout.channels_last)
    named = zip(PROJECTIONS[problem.projection], problem.shapes, strict=False)
    shapes = tuple(_moved(name, shape, layout, other) for name, shape in named)
    form = dataclasses.replace(problem.form, layout=other)
    return dataclasses.replace(problem, form=form, shapes=shapes)


def _moved(name: str, shape: Shape, layout: Layout, other: Layout) -> Shape:
    if name == "w":
        return other.kernel(*layout.split_kernel(shape))
    return other.image(shape[:1], layout.channels(shape), layout.spatial(shape))


def _solved(problem: Problem, a: Array, b: Array) -> Array:
    return solve(problem, problem.projection, problem.form.geometry, a, b)
