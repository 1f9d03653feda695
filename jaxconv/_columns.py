"""The doors `unfold` and `fold`: windows as columns of a matrix, and back."""

import functools
import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Num

from . import _arrays, _check, _mesh
from ._arrays import ArrayIn
from ._form import PoolForm
from ._geometry import conv_geometry
from ._layout import Layout
from ._pool_plan import planes
from ._primitives import bind
from ._types import Padding, PerAxis
from ._window_maps import fold_p, unfold_p

CACHED_CALLS = 4096


def unfold(
    x: Num[ArrayIn, "..."],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """All windows of x as columns: `columns[(c, a), i] = x[c, i*stride + a*dilation - low]`.

    So that `conv(x, kernel)` is the matrix product `kernel.reshape(c_o, -1) @ columns`; channels
    last it is `columns @ kernel.reshape(-1, c_o)`.

    Args:
        x: images of numbers, `(*batch, c, *spatial)`, or `(*batch, *spatial, c)`.
        window: elements per axis, a sequence; its length is the number of spatial axes.
        stride, padding, dilation, layout: as in `conv`; padding adds zeros.

    Returns:
        `(*batch, c * prod(window), L)`, or channels last `(*batch, L, prod(window) * c)`, of x's
        dtype, for `L = prod(output)` windows in row-major order. Each element of x stands where its
        windows do and nowhere else, NaN and infinity too.

    Raises:
        ValueError: a window larger than the padded input, a bad value.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: `torch.nn.functional.unfold`, which is for two spatial axes and channels first alone.
    Empty axes are taken as in `conv`.

    >>> import jax.numpy as jnp
    >>> unfold(jnp.arange(9).reshape(1, 3, 3), (2, 2)).tolist()
    [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    """
    x = _arrays.array("x", x)
    taps = _check.sizes("window", window, 1)
    order = Layout.parse(layout, len(taps), "window", taps)
    return _unfold_program(x.shape, taps, *_steps(stride, padding, dilation, order))(x)


def fold(
    columns: Num[ArrayIn, "..."],
    output_shape: Sequence[SupportsIndex],
    window: Sequence[SupportsIndex],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    layout: str | None = None,
) -> Num[Array, "..."]:
    """The adjoint of `unfold`: each column laid over its window, added where windows overlap.

    `x[c, t] = sum columns[(c, a), i]` over all i, a with `i*stride + a*dilation - low = t`.

    Args:
        columns: what `unfold` gives, `(*batch, c * prod(window), L)`, or channels last
            `(*batch, L, prod(window) * c)`.
        output_shape: spatial sizes of the result, a sequence of ints, one per spatial axis.
        window, stride, padding, dilation, layout: as in `unfold` of the result.

    Returns:
        `(*batch, c, *output_shape)` or `(*batch, *output_shape, c)`, of the columns' dtype. float16
        and bfloat16 are summed in float32 and rounded once. Elements that no window reads are 0.

    Raises:
        ValueError: columns that are not those of such windows, a window larger than the padded
            output, a bad value.
        TypeError: an argument of the wrong type or dtype (bool is).

    Source: `torch.nn.functional.fold`, which is for two spatial axes and channels first alone.

    >>> import jax.numpy as jnp
    >>> fold(jnp.ones((4, 4)), (3, 3), (2, 2)).tolist()
    [[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]
    """
    columns = _arrays.array("columns", columns)
    taps = _check.sizes("window", window, 1)
    order = Layout.parse(layout, len(taps), "window", taps)
    sizes = _check.sizes("output_shape", output_shape)
    if len(sizes) != order.rank:
        raise ValueError(
            f"output_shape must have {order.rank} sizes, one per axis of window {taps}; got {sizes}"
        )
    steps = _steps(stride, padding, dilation, order)
    return _fold_program(columns.shape, sizes, taps, *steps)(columns)


def _steps(stride: Any, padding: Any, dilation: Any, order: Layout) -> tuple[Any, ...]:
    """The options that both doors share, in hashable values."""
    return (
        _check.per_axis("stride", stride, order.rank, 1),
        _check.padding("padding", padding, order.rank),
        _check.per_axis("dilation", dilation, order.rank, 1),
        order,
    )


@functools.lru_cache(maxsize=CACHED_CALLS)
def _unfold_program(shape, window, stride, padding, dilation, layout):
    layout.check_image("x", shape)
    spatial = layout.spatial(shape)
    _arrays.static_shape("x", shape, spatial)
    geometry = conv_geometry(spatial, window, stride, padding, dilation)
    _arrays.paddable(geometry.padding)
    flat = planes(layout, shape)
    rows, depth = flat[0], flat[-1]
    taps, places = math.prod(window), math.prod(geometry.output)
    channels, batch = layout.channels(shape), layout.batch(shape)
    result = (*batch, channels * taps, places)
    if layout.channels_last:
        result = (*batch, places, taps * channels)
    _arrays.computable("padding", result)

    @functools.partial(jax.jit, inline=True)
    def unfold(x):
        x = jnp.asarray(x)
        form = PoolForm(geometry, (x.dtype, x.dtype))
        columns = bind(unfold_p, _mesh.reshape(x, flat), form=form)
        if layout.channels_last:
            columns = _mesh.reshape(columns, (rows, taps, places, depth)).swapaxes(1, 2)
        return _mesh.reshape(columns, result)

    return unfold


@functools.lru_cache(maxsize=CACHED_CALLS)
def _fold_program(shape, spatial, window, stride, padding, dilation, layout):
    geometry = conv_geometry(spatial, window, stride, padding, dilation, source="the output")
    _arrays.paddable(geometry.padding)
    taps, places = math.prod(window), math.prod(geometry.output)
    if len(shape) < 2:
        raise ValueError(f"columns must be {_written(layout)}, at least 2 axes; got shape {shape}")
    _arrays.static_shape("columns", shape, shape[-2:])
    count, product = shape[-2:] if layout.channels_last else shape[:-3:-1]
    if count != places or product % taps:
        raise ValueError(
            f"columns must be {_written(layout)} with L = {places} windows of prod(window) = "
            f"{taps} elements for output_shape {spatial} and window {window}; got shape {shape}"
        )
    result = layout.image(shape[:-2], product // taps, spatial)
    flat = planes(layout, result)
    rows, depth = flat[0], flat[-1]
    _arrays.computable("output_shape", result)

    @functools.partial(jax.jit, inline=True)
    def fold(columns):
        columns = jnp.asarray(columns)
        form = PoolForm(geometry, (columns.dtype, columns.dtype))
        if layout.channels_last:
            columns = _mesh.reshape(columns, (rows, places, taps, depth)).swapaxes(1, 2)
        columns = _mesh.reshape(columns, (rows, *window, *geometry.output, depth))
        return _mesh.reshape(bind(fold_p, columns, form=form), result)

    return fold


def _written(layout: Layout) -> str:
    return (
        "(*batch, L, prod(window) * c)" if layout.channels_last else "(*batch, c * prod(window), L)"
    )
