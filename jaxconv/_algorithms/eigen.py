"""`eigen`: XLA's own convolution, with rows of results that nobody asked for.

XLA:CPU has two libraries for convolutions of two axes in single precision, and gives YNNPACK those
whose result is not larger than the image, Eigen the others; `direct` is at YNNPACK's pace wherever
images do not grow. Here the image is padded along one axis until its result is larger by one, and
what was not asked for is cut off: `n - m + 1` rows for an image of n and a result of m rows, which
is one row for a convolution that keeps the size. Nothing else is changed, so the sums are those of
Eigen's products. Source: `IsConvolutionOpSupportedByYnn` in XLA's `ynn_support.cc`.
"""

import dataclasses
import operator
from fractions import Fraction

from jax import Array, lax

from .._form import Problem
from . import direct
from ._algorithm import Algorithm
from ._frame import as_output


def refuses(problem: Problem) -> str | None:
    """Two axes, stride 1, one group, results not larger than the image."""
    geometry = problem.form.geometry
    if geometry.rank != 2 or geometry.stride != (1, 1) or geometry.groups > 1:
        return "it is for two axes without stride and groups"
    if is_outgrown(problem):
        return "XLA takes Eigen's convolution by itself"
    return None


def is_outgrown(problem: Problem) -> bool:
    """Whether the result, or the window, is larger than the image along some axis."""
    wider = map(operator.gt, problem.form.geometry.window, _image(problem))
    return min(_missing(problem)) <= 0 or any(wider)


def waste(problem: Problem) -> Fraction:
    """Rows that are computed and cut off, for each one that was asked for."""
    results = _results(problem)
    return min(Fraction(m, n) for m, n in zip(_missing(problem), results, strict=True))


def output(problem: Problem, x: Array, w: Array) -> Array:
    """The first m rows of a convolution that has more."""
    form, missing = problem.form, _missing(problem)
    geometry = form.geometry
    axis = min((0, 1), key=lambda axis: Fraction(missing[axis], geometry.output[axis]))
    padding = list(geometry.padding)
    low, high = padding[axis]
    padding[axis] = (low, high + missing[axis])
    longer = dataclasses.replace(geometry, padding=tuple(padding))
    y = direct.output(
        dataclasses.replace(problem, form=dataclasses.replace(form, geometry=longer)), x, w
    )
    first = 1 if form.layout.channels_last else 2
    return lax.slice_in_dim(y, 0, geometry.output[axis], axis=first + axis)


def input_grad(problem: Problem, y: Array, w: Array) -> Array:
    """The output for the kernel rotated by 180 degrees, its channels exchanged."""
    return as_output(problem, output, y, w)


ALGORITHM = Algorithm("eigen", {"output": output, "input_grad": input_grad}, refuses)


def _image(problem: Problem) -> tuple[int, ...]:
    geometry = problem.form.geometry
    return geometry.output if problem.projection == "input_grad" else geometry.spatial


def _results(problem: Problem) -> tuple[int, ...]:
    geometry = problem.form.geometry
    return geometry.spatial if problem.projection == "input_grad" else geometry.output


def _missing(problem: Problem) -> list[int]:
    """What each axis of the result lacks to be larger than the image's."""
    axes = zip(_image(problem), _results(problem), strict=True)
    return [n - m + 1 for n, m in axes]
