"""The doors of the adaptive pools: a wanted output size, windows that cover the input evenly."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from jax import Array
from jaxtyping import Int32, Num

from . import _arrays, _check
from ._arrays import ArrayIn
from ._geometry import Geometry, Partition
from ._layout import Layout
from ._pool_plan import Plan, along, maxima, means, planes

CACHED_CALLS = 4096

#: Spatial sizes, None for those that stay as they are.
Sizes = Sequence[SupportsIndex | None]


def adaptive_avg_pool(
    x: Num[ArrayIn, "..."], output_shape: Sizes, *, layout: str | None = None
) -> Num[Array, "..."]:
    """The mean of each of as many windows as are wanted, which cover x as evenly as they can.

    Along an axis of n elements, output i of m is the mean of x from `floor(i*n/m)` up to, but not
    including, `ceil((i+1)*n/m)`.

    Args:
        x: images of numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`, no spatial axis
            empty.
        output_shape: sizes of the result, a sequence with an int for each spatial axis, or None
            where an axis stays as it is; its length is the number of spatial axes. May be larger
            than x.
        layout: as in `conv`.

    Returns:
        `(*batch, c, *output_shape)` or `(*batch, *output_shape, c)`; dtype as in `avg_pool`.

    Raises:
        ValueError: an empty spatial axis, a negative size, a bad value.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: `torch.nn.functional.adaptive_avg_pool2d`, which is for floats alone. Empty batches,
    channels and outputs give empty results.

    >>> import jax.numpy as jnp
    >>> adaptive_avg_pool(jnp.arange(5.0)[None], (3,)).tolist()
    [[0.5, 2.0, 3.5]]
    """
    x = _arrays.array("x", x)
    sizes, order = _parse(output_shape, layout)
    return _avg_program(x.shape, sizes, order)(x)


@overload
def adaptive_max_pool(
    x: Num[ArrayIn, "..."],
    output_shape: Sizes,
    *,
    return_indices: Literal[False] = False,
    layout: str | None = None,
) -> Num[Array, "..."]: ...


@overload
def adaptive_max_pool(
    x: Num[ArrayIn, "..."],
    output_shape: Sizes,
    *,
    return_indices: Literal[True],
    layout: str | None = None,
) -> tuple[Num[Array, "..."], Int32[Array, "..."]]: ...


def adaptive_max_pool(
    x: Num[ArrayIn, "..."],
    output_shape: Sizes,
    *,
    return_indices: bool = False,
    layout: str | None = None,
) -> Num[Array, "..."] | tuple[Num[Array, "..."], Int32[Array, "..."]]:
    """The greatest element of each of as many windows as are wanted, see `adaptive_avg_pool`.

    The derivative goes to the element that won, the first in row-major order on ties. NaN wins over
    all else.

    Args:
        x: images of real numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`, no spatial
            axis empty.
        output_shape: as in `adaptive_avg_pool`.
        return_indices: also return where the winners are.
        layout: as in `conv`.

    Returns:
        `(*batch, c, *output_shape)` or `(*batch, *output_shape, c)`, of x's dtype. With
        `return_indices` also an int32 array of that shape: flat positions in the spatial plane.

    Raises:
        ValueError: an empty spatial axis, a negative size, a bad value.
        TypeError: an argument of the wrong type or dtype (bool and complex numbers are).

    Source: `torch.nn.functional.adaptive_max_pool2d`, which is for floats alone. Of NaNs the winner
    is the first of several, where torch takes the last.

    >>> import jax.numpy as jnp
    >>> adaptive_max_pool(jnp.arange(5.0)[None], (3,)).tolist()
    [[1.0, 3.0, 4.0]]
    """
    x = _arrays.ordered("x", x)
    wants = _check.flag("return_indices", return_indices)
    sizes, order = _parse(output_shape, layout)
    return _max_program(x.shape, sizes, order, wants)(x)


def _parse(output_shape: Any, layout: Any) -> tuple[tuple[int | None, ...], Layout]:
    needed = "a sequence of 1 to 3 sizes (ints, or None to keep an axis), one per spatial axis"
    sizes = _check.sequence("output_shape", output_shape, needed)
    if not 1 <= len(sizes) <= 3:
        raise ValueError(
            f"output_shape must be {needed}; got {_check.show(output_shape)} of length {len(sizes)}"
        )
    parsed = tuple(
        None if size is None else _check.integer(f"output_shape[{axis}]", size, 0)
        for axis, size in enumerate(sizes)
    )
    return parsed, Layout.parse(layout, len(sizes), "output_shape", parsed)


def _plan(shape: Any, sizes: tuple[int | None, ...], layout: Layout) -> Plan[Any]:
    """Windows that all have one size are an ordinary pool's."""
    layout.check_image("x", shape)
    spatial, batch = layout.spatial(shape), layout.batch(shape)
    _arrays.static_shape("x", shape, spatial)
    if 0 in spatial:
        raise ValueError(f"x must have at least one element on every spatial axis; got {shape}")
    output = tuple(n if m is None else m for n, m in zip(spatial, sizes, strict=True))
    result = layout.image(batch, layout.channels(shape), output)
    _arrays.computable("output_shape", result)
    unpadded = ((0, 0),) * layout.rank
    flat = planes(layout, shape)
    if not all(m and n % m == 0 for n, m in zip(spatial, output, strict=True)):
        return Plan(Partition(spatial, output), unpadded, spatial, flat, result)
    window = tuple(n // m for n, m in zip(spatial, output, strict=True))
    alike = Geometry(spatial, window, window, unpadded, (1,) * layout.rank)
    return Plan(alike, unpadded, spatial, flat, result)


@functools.lru_cache(maxsize=CACHED_CALLS)
def _avg_program(shape: Any, sizes: tuple[int | None, ...], layout: Layout):
    planned = _plan(shape, sizes, layout)
    partition = Partition(planned.spatial, planned.geometry.output)
    factors = []
    for axis in range(layout.rank):
        spans = np.asarray(partition.spans(axis)).reshape(-1, 2)
        factors.append(along(layout, len(planned.result), axis, spans[:, 1] - spans[:, 0]))
    return means(planned, factors)


@functools.lru_cache(maxsize=CACHED_CALLS)
def _max_program(shape: Any, sizes: tuple[int | None, ...], layout: Layout, return_indices: bool):
    return maxima(_plan(shape, sizes, layout), return_indices)
