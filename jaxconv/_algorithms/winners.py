"""`winners`: the derivative of a maximum, on images `(n, *spatial, c)`.

    window_argmax   the flat position of each window's winner
    place           x[t] = sum of y[Q - j] over the windows that t lies in and has won

The winner is found by comparing the taps one after the other, all windows at once. What is given
back is in `_placed`.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._check import LARGEST
from .._form import Problem
from .._geometry import Geometry
from ._algorithm import Algorithm
from ._apart import apart
from ._frame import (
    residue_cut,
    residues,
    total,
)
from ._placed import place
from ._regions import (
    MOST_TAPS,
    Part,
    Region,
    is_by_regions,
    is_padded,
    read_frames,
    regions,
    starts,
    whole,
)
from .slices import comparable, in_parts, steps


def refuses(problem: Problem) -> str | None:
    """For positions, windows of one size; to give back, an array that int32 counts."""
    geometry = problem.form.geometry
    if problem.projection == "place":
        size = math.prod(problem.form.input_shape(problem.shapes[0]))
        return f"it counts to {LARGEST} elements; there are {size}" if size > LARGEST else None
    if not isinstance(geometry, Geometry):
        return "windows are of unequal sizes"
    taps = math.prod(geometry.window)
    return f"{taps} taps are too many to be written out" if taps > MOST_TAPS else None


def window_argmax(problem: Problem, x: Array) -> Array:
    """Flat position of each window's first greatest element, rows first, NaN the greatest."""
    geometry = problem.form.geometry
    parts = regions(geometry, windows=True)
    if is_by_regions(problem) and len(parts) > 1:
        where = jnp.zeros(problem.form.output_shape(x.shape), np.int32)
        x, outside = comparable(x)
        for region in parts:
            found = _winners(geometry, region, outside, x)
            where = lax.dynamic_update_slice(where, found, starts(region))
        return where

    def winners(x: Array) -> Array:
        x, outside = comparable(x)
        return _winners(geometry, whole(geometry.output), outside, x)

    bare = problem.shapes[0][-1] == 1 and geometry.stride[-1] > 1
    return apart(lambda x: in_parts(problem, winners, x, copied=bare), x)


def _winners(geometry: Geometry, region: Region, outside: Any, x: Array) -> Array:
    """The winners of a region's windows.

    Padding is less than or equal to all, and only what is greater wins over what came before. To
    start with, a window's first element that is no padding has won.
    """
    planes = [math.prod(geometry.spatial[axis + 1 :]) for axis in range(geometry.rank)]
    frames = read_frames(geometry, region)
    # Without channels behind it, a strided axis is read one by one, but its residues are not.
    minor = geometry.stride[-1] if x.shape[-1] == 1 else 1
    padded = is_padded(geometry, frames)
    parts = residues(x, frames, 1, outside)
    if padded or minor > 1:
        parts = apart(lambda x: residues(x, frames, minor, outside), x)
    # Of one image and channel: what is the same in each step of a loop, XLA computes ahead of it.
    shape = (1, *(part.size for part in region), 1)
    where = _first_elements(geometry, region, planes, shape) if padded else jnp.int32(0)
    best: Any = None
    for at in itertools.product(*map(range, geometry.window)):
        axes = zip(at, geometry.dilation, region, geometry.stride, strict=True)
        cuts = [(axis + 1, a * d, part.size, s) for axis, (a, d, part, s) in enumerate(axes)]
        value = residue_cut(parts, cuts)
        if best is None:
            best = value
            continue
        offset = sum(
            a * d * plane for a, d, plane in zip(at, geometry.dilation, planes, strict=True)
        )
        above = (value > best) | ((value != value) & (best == best))
        best = jnp.where(above, value, best)
        where = jnp.where(above, np.int32(offset), where)
    found = where + _corners(geometry, region, planes, shape)
    found = jnp.where(where < 0, np.int32(-1), found) if padded else found
    return jnp.broadcast_to(found, best.shape)


def _begins(geometry: Geometry, axis: int, part: Part) -> Array:
    """Where windows begin along an axis."""
    _, _, s, _ = steps(geometry, axis)
    first = part.start * s - geometry.padding[axis][0]
    return lax.iota(np.int32, part.size) * np.int32(s) + np.int32(first)


def _along(axis: int, values: Array, shape: Sequence[int]) -> Array:
    """Integers along a spatial axis, the same for all else."""
    return lax.broadcast_in_dim(values, shape, (axis + 1,))


def _corners(
    geometry: Geometry, region: Region, planes: Sequence[int], shape: Sequence[int]
) -> Array:
    """Flat position of each window's first tap, be it padding or not."""
    corners = []
    for axis, (part, plane) in enumerate(zip(region, planes, strict=True)):
        corners.append(_along(axis, _begins(geometry, axis, part) * np.int32(plane), shape))
    return total(corners)


def _first_elements(
    geometry: Geometry, region: Region, planes: Sequence[int], shape: Sequence[int]
) -> Array:
    """Each window's first tap that is no padding, from its corner on; negative where none is."""
    offsets, empty = [], []
    for axis, (part, plane) in enumerate(zip(region, planes, strict=True)):
        k, d, _, _ = steps(geometry, axis)
        begins = _begins(geometry, axis, part)
        before = jnp.maximum(-begins, 0)  # elements of padding ahead
        first = lax.div(before + np.int32(d - 1), np.int32(d))
        beyond = begins + first * np.int32(d) >= geometry.spatial[axis]
        offsets.append(_along(axis, first * np.int32(d * plane), shape))
        empty.append(_along(axis, beyond | (first >= k), shape))
    nothing = functools.reduce(jnp.logical_or, empty)
    return jnp.where(nothing, np.int32(-1), total(offsets))


ALGORITHM = Algorithm("winners", {"window_argmax": window_argmax, "place": place}, refuses)
