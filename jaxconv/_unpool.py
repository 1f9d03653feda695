"""The door `max_unpool`: values put back where an index says they were."""

import functools
import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Int, Num

from . import _arrays, _check, _mesh
from ._arrays import ArrayIn
from ._form import PoolForm
from ._geometry import Partition
from ._layout import Layout
from ._pool_plan import planes
from ._primitives import bind
from ._window_maps import place_p

CACHED_CALLS = 4096


def max_unpool(
    y: Num[ArrayIn, "..."],
    indices: Int[ArrayIn, "..."],
    output_shape: Sequence[SupportsIndex],
    *,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """The partial inverse of `max_pool`: `x[c, indices[c, i]] = y[c, i]`, and 0 elsewhere.

    Args:
        y: images of numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`.
        indices: integers of y's shape: flat positions in the plane of `output_shape`, as
            `max_pool(..., return_indices=True)` gives them. -1 puts nothing.
        output_shape: spatial sizes of the result, a sequence of ints, one per spatial axis.
        layout: as in `conv`.

    Returns:
        `(*batch, c, *output_shape)` or `(*batch, *output_shape, c)`, of y's dtype. Where indices
        repeat within a plane, the last value in row-major order is kept, and it alone has a
        derivative (torch's gives one to all that were put there).

    Raises:
        ValueError: shapes that differ, a position outside of the plane (as far as indices are known
            when called: under `jit` such a value is left out), a bad value.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: `torch.nn.functional.max_unpool2d`, which takes window and stride as well to guess a
    size from; it is for floats and one batch axis alone. Empty batches and channels give empty
    results.

    >>> import jax.numpy as jnp
    >>> max_unpool(jnp.asarray([[5.0, 7.0]]), jnp.asarray([[1, 3]]), (4,)).tolist()
    [[0.0, 5.0, 0.0, 7.0]]
    """
    y, indices = _arrays.array("y", y), _arrays.array("indices", indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"indices must be integers; got {indices.dtype}")
    sizes = _check.sizes("output_shape", output_shape)
    order = Layout.parse(layout, len(sizes), "output_shape", sizes)
    if indices.shape != y.shape:
        raise ValueError(f"indices must have y's shape {y.shape}; got {indices.shape}")
    run = _unpool_program(y.shape, sizes, order)
    _check_positions(indices, sizes)
    return run(y, indices)


def _check_positions(indices: Any, sizes: tuple[int, ...]) -> None:
    if isinstance(indices, Tracer) or not getattr(indices, "is_fully_addressable", True):
        return
    values = np.asarray(indices)
    if not values.size:
        return
    least, most = int(values.min()), int(values.max())
    if least < -1 or most >= math.prod(sizes):
        raise ValueError(
            f"indices must be positions 0 to {math.prod(sizes) - 1} in the plane of output_shape "
            f"{sizes}, or -1; got {least if least < -1 else most}"
        )


@functools.lru_cache(maxsize=CACHED_CALLS)
def _unpool_program(shape, sizes, layout):
    layout.check_image("y", shape)
    spatial = layout.spatial(shape)
    _arrays.static_shape("y", shape, spatial)
    plane = math.prod(sizes)
    if plane > _check.LARGEST:
        raise ValueError(
            f"output_shape must have at most {_check.LARGEST} elements in a plane; got {sizes}"
        )
    flat = planes(layout, shape)
    result = layout.image(layout.batch(shape), layout.channels(shape), sizes)
    _arrays.computable("output_shape", result)

    @functools.partial(jax.jit, inline=True)
    def max_unpool(y, indices):
        y, indices = jnp.asarray(y), jnp.asarray(indices)
        if not plane:
            return jnp.zeros(result, y.dtype)
        inside = indices >= 0
        if plane <= jnp.iinfo(indices.dtype).max:  # else a Python int that does not fit the dtype
            inside &= indices < plane
        indices = jnp.where(inside, indices, 0).astype(np.int32)
        indices = _mesh.reshape(jnp.where(inside, indices, -1), flat)
        form = PoolForm(Partition(sizes, spatial), (y.dtype, y.dtype))
        kept = _kept(indices, plane)
        return _mesh.reshape(bind(place_p, _mesh.reshape(y, flat), kept, form=form), result)

    return max_unpool


def _kept(indices: Array, plane: int) -> Array:
    """`indices` with -1 for all that share a position with a later one."""
    rows, depth = indices.shape[0], indices.shape[-1]
    count = math.prod(indices.shape[1:-1])
    number = jnp.arange(count, dtype=np.int32)

    def of_one_plane(at: Array) -> Array:
        nowhere = jnp.where(at < 0, plane, at)
        last = jnp.full(plane, -1, np.int32).at[nowhere].max(number, mode="drop")
        mine = last.at[nowhere].get(mode="fill", fill_value=-1) == number
        return jnp.where(mine, at, -1)

    flat = _mesh.reshape(indices, (rows, count, depth))
    kept = jax.vmap(jax.vmap(of_one_plane, 1, 1))(flat)
    return _mesh.reshape(kept, indices.shape)
