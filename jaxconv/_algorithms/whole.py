"""`whole`: the winner of one window that is all of the input, on images `(n, *spatial, c)`.

    window_argmax   the first position that is as great as the greatest
    place           x[t] = y where t is the winner, 0 elsewhere

Two reductions and a comparison, vectors all of them, where windows in general are gone through
element by element.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._check import LARGEST
from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._apart import apart
from ._greatest import greatest
from .slices import is_whole


def window_argmax(problem: Problem, x: Array) -> Array:
    """The first greatest element's position, NaN the greatest."""
    plane = math.prod(problem.form.geometry.spatial)
    line = x.reshape(x.shape[0], plane, x.shape[-1])
    wins = (line == greatest(line, 1, problem.platform)) | (line != line)
    at = jnp.where(wins, jnp.arange(plane, dtype=np.int32)[:, None], np.int32(plane))
    return at.min(1).reshape(problem.form.output_shape(x.shape))


def place(problem: Problem, y: Array, where: Array) -> Array:
    """The one number of each plane at its winner's position."""
    plane = math.prod(problem.form.geometry.spatial)
    shape = (y.shape[0], plane, y.shape[-1])

    def placed(y: Array, where: Array) -> Array:
        here = lax.broadcasted_iota(np.int32, shape, 1) == where.reshape(shape[0], 1, shape[2])
        return jnp.where(here, y.reshape(shape[0], 1, shape[2]), np.zeros((), y.dtype))

    return apart(placed, y, where).reshape(problem.form.input_shape(y.shape))


def refuses(problem: Problem) -> str | None:
    """One window, no padding, and positions that int32 can count."""
    geometry = problem.form.geometry
    if not isinstance(geometry, Geometry) or not is_whole(geometry):
        return "there is more than one window, or it is not where the input is"
    if geometry.window != geometry.spatial:
        return "the window leaves elements out"
    return "the plane is too large" if math.prod(geometry.spatial) > LARGEST else None


ALGORITHM = Algorithm("whole", {"window_argmax": window_argmax, "place": place}, refuses)
