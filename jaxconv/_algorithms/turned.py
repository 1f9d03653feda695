"""`turned`: a problem in one layout as the same in the other.

    output       y = conv(x, w)         of x and w turned, turned back
    input_grad   x, its gradient        of y and w
    kernel_grad  w, its gradient        of x and y

oneDNN has bfloat16 with channels last alone, where it is twice as fast as single precision. Numbers
of two bytes are turned in less time than it takes to widen them.
"""

from jax import Array

from .._form import PROJECTIONS, Problem
from ._algorithm import Algorithm
from ._frame import solve
from ._layouts import in_other


def compute(problem: Problem, a: Array, b: Array) -> Array:
    """The projection of a problem, by what is chosen for it in the other layout."""
    return in_other(problem, _solved, a, b)


def _solved(problem: Problem, a: Array, b: Array) -> Array:
    return solve(problem, problem.projection, problem.form.geometry, a, b)


ALGORITHM = Algorithm("turned", dict.fromkeys(PROJECTIONS, compute))
