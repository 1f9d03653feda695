"""`groups`: one group after the other, each a convolution of its own.

XLA:CPU's grouped convolution runs at a fraction of the speed that it has without groups, on both
sides of few channels: where groups have few, `shift` is better still; this is for those with many.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from .._form import PROJECTIONS, Problem
from ._algorithm import Algorithm
from ._frame import solve, stacked, unstacked

#: Groups written out one by one; more are looped over, so that programs do not grow.
MOST_UNROLLED = 8


def _project(problem: Problem, a: Array, b: Array) -> Array:
    form, projection = problem.form, problem.projection
    groups = form.geometry.groups
    geometry = dataclasses.replace(form.geometry, groups=1)
    first, second, result = (_axis(problem, array) for array in PROJECTIONS[projection])

    def alone(a: Array, b: Array) -> Array:
        return solve(problem, projection, geometry, a, b)

    if groups <= MOST_UNROLLED:
        pairs = zip(jnp.split(a, groups, first), jnp.split(b, groups, second), strict=True)
        return lax.concatenate([alone(*pair) for pair in pairs], result)
    operands = stacked(a, groups, first), stacked(b, groups, second)
    return unstacked(lax.map(lambda pair: alone(*pair), operands), result)


def _axis(problem: Problem, array: str) -> int:
    """The axis that an array's groups are on: channels, or a kernel's output channels."""
    layout = problem.form.layout
    return layout.kernel_axes[0] if array == "w" else layout.channel_axis


def refuses(problem: Problem) -> str | None:
    """A single group."""
    return "there is one group only" if problem.form.geometry.groups == 1 else None


ALGORITHM = Algorithm("groups", dict.fromkeys(PROJECTIONS, _project), refuses)
