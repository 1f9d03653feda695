"""One layout as the other: for algorithms written for one of them, or faster in it."""

import dataclasses
import functools

import jax.numpy as jnp
from jax import Array

from .._form import PROJECTIONS, Problem, Shape
from .._layout import Layout
from ._apart import apart
from ._frame import Compute


def moved(array: str, value: Array, source_last: bool, last: bool) -> Array:
    """One of the form's arrays in a layout, from its value in this or the other one."""
    if source_last == last:
        return value
    firsts, lasts = ((0, 1), (-1, -2)) if array == "w" else ((1,), (-1,))
    return jnp.moveaxis(value, firsts, lasts) if last else jnp.moveaxis(value, lasts, firsts)


def turned(problem: Problem) -> Problem:
    """The same problem in the other layout."""
    layout = problem.form.layout
    other = Layout(layout.rank, not layout.channels_last)
    named = zip(PROJECTIONS[problem.projection], problem.shapes, strict=False)
    shapes = tuple(_turned_shape(name, shape, layout, other) for name, shape in named)
    form = dataclasses.replace(problem.form, layout=other)
    return dataclasses.replace(problem, form=form, shapes=shapes)


def _turned_shape(name: str, shape: Shape, layout: Layout, other: Layout) -> Shape:
    if name == "w":
        return other.kernel(*layout.split_kernel(shape))
    return other.image(shape[:1], layout.channels(shape), layout.spatial(shape))


def in_other(problem: Problem, compute: Compute, a: Array, b: Array) -> Array:
    """`compute` on the same problem in the other layout, the result in the problem's own.

    XLA would have its loops run over the result as it is to lie in the end.
    """
    last = problem.form.layout.channels_last
    first, second, result = PROJECTIONS[problem.projection]
    a, b = moved(first, a, last, not last), moved(second, b, last, not last)
    found = apart(functools.partial(compute, turned(problem)), a, b)
    return moved(result, found, not last, last)


def _in_layout(last: bool, problem: Problem, compute: Compute, a: Array, b: Array) -> Array:
    """`compute` on the form of a problem in this layout, the result in the problem's own."""
    if problem.form.layout.channels_last == last:
        return compute(problem, a, b)
    return in_other(problem, compute, a, b)


channels_first = functools.partial(_in_layout, False)
channels_last = functools.partial(_in_layout, True)
